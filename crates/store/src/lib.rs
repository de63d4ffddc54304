//! SQL, migrations, change feed, audit log and secrets at rest.
