//! The whole of signing in, on a real store: SQLite, and PostgreSQL where `NM_TEST_POSTGRES_URL` names a server.

mod fixture;
mod http;
mod sessions;
mod streams;
mod tokens;
mod users;
