//! The store's suite. Everything that can run on both databases does: `both!` makes two tests of each function.
//!
//! PostgreSQL: `NM_TEST_POSTGRES_URL` names a server and a superuser, `postgres://postgres@127.0.0.1:5432/postgres`; each
//! test makes a database of its own there. Without it those tests say that they are skipped, and fail where
//! `NM_TEST_REQUIRE_SERVICES=1`.

/// Makes two tests of each async function that takes a [`fixture::Fixture`]: `sqlite::name` and `postgres::name`.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::fixture::Fixture::sqlite()).await }
        )*}
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(fixture) = $crate::fixture::Fixture::postgres().await { super::$name(fixture).await }
            }
        )*}
    };
}

mod audit;
mod auth;
mod cluster;
mod export;
mod fault;
mod feed;
mod fixture;
mod health;
mod idempotency;
mod jobs;
mod model;
mod node_events;
mod open;
mod resources;
mod secrets;
mod transactions;
