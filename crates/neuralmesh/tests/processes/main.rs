//! The built program as processes of its own: a control plane, an agent, and what becomes of them.

mod edge;
mod fleet;
mod keys;
mod memory;
mod upgrade;
