//! The control plane: API, services and controllers.
//!
//! Data flows one way: [`api`] parses and authorises, one [`service`] call decides and writes what is wanted to the store,
//! and the work is done by an agent over its link; what agents see comes back through [`controller`]s.
//!
//! Invariants: handlers hold no rules; nothing reaches Docker but through an agent; every change writes its audit entry in
//! the same transaction; there is no global state: [`app::App`] is wired by hand in one file.

pub mod api;
pub mod app;
pub mod controller;
pub mod logging;
pub mod metrics;
pub mod service;
