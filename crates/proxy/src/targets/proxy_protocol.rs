//! A PROXY protocol header: however its bytes come, it is read the same, and what is read can be written.

use crate::proxy_protocol::{Parsed, parse, write};
use nm_types::proxy::ProxyVersion;

pub fn proxy_protocol(bytes: &[u8]) {
    let whole = parse(bytes);
    match whole {
        Ok(Parsed::Header { length, client }) => {
            assert!(length <= bytes.len());
            assert_eq!(parse(&bytes[..length]), whole, "what follows changes nothing");
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial), "cut at {cut}");
            }
            let Some(client) = client else { return };
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let again = write(version, client, client);
                let Ok(Parsed::Header {
                    length,
                    client: Some(read),
                }) = parse(&again)
                else {
                    panic!("{again:?} can't be read");
                };
                assert_eq!(length, again.len());
                assert_eq!((read.ip().to_canonical(), read.port()), (client.ip().to_canonical(), client.port()));
            }
        }
        // It ends some time: nobody sends a header for ever.
        Ok(Parsed::Partial) => assert!(bytes.len() < 16 + 4096),
        Err(_) => {
            let longer = [bytes, b"\r\n"].concat();
            assert_eq!(parse(&longer), whole, "what is wrong stays wrong");
        }
    }
}
