//! The built-in image: a page server made of this very binary and the libraries it links, so that the first container
//! depends on no registry.
//!
//! [`image`] writes it as `docker save` would; [`server`] is what runs in it.

pub mod image;
pub mod server;

/// The image's name.
pub const NAME: &str = "neuralmesh/hello:latest";
/// The port its server listens on.
pub const PORT: u16 = 8080;
