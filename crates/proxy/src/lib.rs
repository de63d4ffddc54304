//! The load balancer's data plane: HTTP and TCP from listeners to the members of clusters.
//!
//! It is a process of its own ([`run`]). It starts from its last configuration in a file, takes new ones over a Unix socket,
//! and goes on when nobody talks to it.
//!
//! - `engine` brings a configuration into force: sockets, TLS, clusters, checks
//! - `worker` is one thread with a runtime of its own; `http` and `tcp` are what it does with a connection
//! - `cluster`, `member`, `balance` choose who serves; `check` and `keeper` see who can
//! - `control` is the API on the Unix socket; `takeover` lets a new process take the place of this one
//!
//! What holds:
//!
//! - A configuration is taken as a whole or refused as a whole, and is on disk before it is acknowledged.
//! - Requests see one configuration from their beginning to their end.
//! - A request that may have been carried out is sent again only where its method says that this does no harm.
//! - Nothing in traffic's way takes a lock that another worker holds for longer than a few instructions, or waits for a disk.

mod access_log;
mod balance;
mod check;
mod cluster;
mod control;
mod dial;
mod engine;
mod file;
mod http;
mod instance;
mod io;
mod keeper;
mod listener;
mod member;
mod process;
mod proxy_protocol;
mod sockets;
mod stats;
mod takeover;
#[cfg(any(test, feature = "fuzzing"))]
pub mod targets;
mod tcp;
mod tls;
mod worker;

pub use process::{AccessLogTo, Options, StartError, run, run_on};
