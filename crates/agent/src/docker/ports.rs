//! Which process of the machine holds a port: only looked for once a start failed on it.

use std::fs;
use std::path::Path;

/// `` the process `nginx` (123) ``, where it can be known: as root, and for a process in the machine's own network.
pub fn holder(port: u16, udp: bool) -> Option<String> {
    let tables: &[&str] = if udp { &["udp", "udp6"] } else { &["tcp", "tcp6"] };
    let inode = tables
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(format!("/proc/net/{table}")).ok()?, port, udp))?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if descriptors
            .flatten()
            .any(|d| fs::read_link(d.path()).is_ok_and(|target| target == Path::new(&wanted)))
        {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("the process `{}` ({pid})", command.trim()));
        }
    }
    None
}

/// Reads `/proc/net/tcp` and its siblings: `sl local_address rem_address st … uid timeout inode`, with the address as
/// `<hex ip>:<hex port>`; `0A` is LISTEN, for UDP any socket counts.
fn listening_inode(table: &str, port: u16, udp: bool) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        let local_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (local_port == port && (udp || state == "0A")).then(|| inode.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n\
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inode(table, 8080, false), Some(4711));
        assert_eq!(listening_inode(table, 8081, false), None);
    }

    #[test]
    fn our_own_listener_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(listener.local_addr().unwrap().port(), false).unwrap();
        assert!(found.contains(&format!("({})", std::process::id())), "{found}");
    }
}
