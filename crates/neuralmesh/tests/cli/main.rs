//! The built binary against a control plane that answers as told. One program, so that it is linked once.

mod alerts;
mod backups;
mod clusters;
mod commands;
mod doctor;
mod fake;
mod health;
mod jobs;
mod login;
mod machines;
mod nodes;
mod serving;
mod streams;
mod tls;
