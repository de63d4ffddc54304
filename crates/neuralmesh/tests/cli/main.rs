//! The built binary against a control plane that answers as told. One program, so that it is linked once.

mod alerts;
mod commands;
mod fake;
mod login;
mod streams;
mod tls;
