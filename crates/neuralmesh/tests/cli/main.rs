//! The built binary against a control plane that answers as told. One program, so that it is linked once.

mod commands;
mod fake;
mod login;
mod nodes;
mod streams;
mod tls;
