//! Fixtures for tests of the control plane: the real one on loopback, an agent whose Docker is made up, clients, and a line
//! between them that can be broken. A development dependency only.
//!
//! - [`TestControlPlane`] runs the whole control plane in a runtime of its own, so that it can be killed in the middle of
//!   whatever it does and opened again on the same data.
//! - [`FakeAgent`] joins through the real link and serves the whole contract from memory.
//! - [`Client`] holds every answer of the API to the manners it promises.
//! - [`eventually`] waits on a condition; nothing here sleeps for a guessed time.

mod agent;
mod client;
mod clock;
mod database;
mod line;
mod log;
mod plane;
mod stream;
mod terminal;

pub use agent::{Ask, FakeAgent, Hold, Ran, Seen, When};
pub use client::{Call, Client, Reply};
pub use clock::TestClock;
pub use database::Database;
pub use line::Line;
pub use log::TraceLog;
pub use nm_waits::{DEADLINE, eventually, soon};
pub use plane::{LOST_AFTER, TestControlPlane, password_of};
pub use stream::{Events, SseEvent};
pub use terminal::{Said, Terminal};

/// Makes two tests of each async function that takes a [`Database`]: `sqlite::name` and `postgres::name`.
///
/// PostgreSQL: `NM_TEST_POSTGRES_URL` names a server and a superuser, `postgres://postgres@127.0.0.1:5432/postgres`; each
/// test makes a database of its own there. Without it those tests say that they are skipped, and fail where
/// `NM_TEST_REQUIRE_SERVICES=1`.
#[macro_export]
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::Database::sqlite()).await }
        )*}
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(database) = $crate::Database::postgres().await { super::$name(database).await }
            }
        )*}
    };
}
