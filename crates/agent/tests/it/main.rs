//! The agent against a real Docker engine, through its routes as a control plane calls them.
//!
//! Without an engine the tests say so and pass, unless `NM_TEST_REQUIRE_SERVICES=1`, with which they fail. They use the image
//! `busybox:latest` (see e2e/images) and pull nothing.

mod backups;
mod containers;
mod engine;
mod failures;
mod machine;
mod privileges;
mod probes;
mod silence;
mod storage;
mod streams;
mod support;
mod tasks;
mod watch;
