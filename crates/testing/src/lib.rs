//! Fixtures for tests: a control plane, a fake agent. A development dependency only.
