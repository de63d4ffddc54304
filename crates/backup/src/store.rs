//! What holds a repository's files, whatever it is made of: what rustic_core asks for, and the locks and the look at a place that it
//! does not know.

use rustic_core::WriteBackend;
use std::{fmt::Debug, io, path::Path};

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// Nothing, or what is left of a repository whose making was cut short: it has no config yet, and no snapshot either.
    Nothing,
    Repository,
    /// Other files.
    Foreign,
}

pub trait Store: WriteBackend + Debug {
    fn look(&self) -> io::Result<Present>;
    /// Names of the lock files.
    fn locks(&self) -> io::Result<Vec<String>>;
    /// None: it went.
    fn read_lock(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    fn write_lock(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// One that is not there is removed already.
    fn remove_lock(&self, name: &str) -> io::Result<()>;
    /// Puts a text where a person who looks at the repository finds it; where the place has no room for one, nothing.
    fn note(&self, text: &str) -> io::Result<()>;
    /// The folder of this machine that it is.
    fn folder(&self) -> Option<&Path> {
        None
    }
    /// Removes what writers that died left half written. Only for who holds the repository alone.
    fn sweep(&self) -> io::Result<()> {
        Ok(())
    }
    /// Where the repository is, for a sentence; no secret is in it.
    fn name(&self) -> String;
}
