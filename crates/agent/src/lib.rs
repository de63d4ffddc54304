//! The node's side: Docker, host metrics, logs, exec and the spool.
