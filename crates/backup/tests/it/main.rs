//! The engine on real folders, with stock restic beside it. They run as root, as an agent does: owners, devices and full disks are
//! made for real.

mod faults;
mod hostile;
mod kills;
mod kinds;
mod remote;
mod served;
mod stock;
mod support;
mod traps;
