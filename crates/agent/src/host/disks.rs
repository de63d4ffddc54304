//! The file systems that hold data of their own.

use nix::sys::statvfs::statvfs;
use nm_types::host::DiskStats;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// File systems that keep what is written to them, on this machine.
const LASTING: &[&str] = &[
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "nilfs2", "ntfs3", "vfat", "exfat",
];
/// Those that another machine or a program answers for: looking at them, or at what is mounted below them, may never return.
const REMOTE: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "glusterfs",
    "lustre",
    "afs",
    "9p",
    "virtiofs",
    "autofs",
];
/// Where Docker's drivers mount each container's layers as a file system of its own.
const LAYERS: &[&str] = &["/devicemapper/mnt/", "/zfs/graph/"];

/// A mounted file system, of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    id: u64,
    parent: u64,
    /// `254:0`
    number: String,
    /// What part of the file system is mounted: `/` unless it is a bind mount or a subvolume.
    root: String,
    pub point: String,
    pub device: String,
    pub kind: String,
    pub read_only: bool,
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let mut after = after.split(' ');
    let has_ro = |options: &str| options.split(',').any(|o| o == "ro");
    let (id, parent) = (before.next()?.parse().ok()?, before.next()?.parse().ok()?);
    let number = before.next()?.to_owned();
    let (root, point) = (unescape(before.next()?), unescape(before.next()?));
    let mounted_read_only = has_ro(before.next()?);
    let (kind, device) = (after.next()?.to_owned(), unescape(after.next()?));
    Some(Mount {
        id,
        parent,
        number,
        root,
        point,
        device,
        kind,
        // The second is what the kernel sets when it finds the file system damaged.
        read_only: mounted_read_only || after.next().is_some_and(has_ro),
    })
}

/// Spaces and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(byte) = bytes.get(i) {
        let octal = bytes.get(i + 1..i + 4).filter(|_| *byte == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(*byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Of each file system that holds data of its own the one mount that stands for it, `/` first, then by place.
pub fn lasting(mountinfo: &str) -> Vec<Mount> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(mount).collect();
    let by_id: HashMap<u64, &Mount> = mounts.iter().map(|m| (m.id, m)).collect();
    // Of several at one place only the last is seen.
    let top: HashMap<&str, u64> = mounts.iter().map(|m| (m.point.as_str(), m.id)).collect();
    let mut chosen: HashMap<&str, &Mount> = HashMap::new();
    for m in &mounts {
        // The root of a machine that runs from memory, or of an agent in a container, holds what is written there.
        let lasts = LASTING.contains(&m.kind.as_str()) || (m.kind == "overlay" && m.point == "/");
        let is_layer = LAYERS.iter().any(|l| m.point.contains(l));
        if !lasts || is_layer || top.get(m.point.as_str()) != Some(&m.id) || below_remote(m, &by_id) {
            continue;
        }
        // The whole rather than a part of it, and of those the one that is mounted highest up.
        let rank = |m: &Mount| (m.point != "/", m.root != "/", m.point.len());
        let best = chosen.entry(m.number.as_str()).or_insert(m);
        if rank(m) < rank(best) {
            *best = m;
        }
    }
    let mut out: Vec<Mount> = chosen.into_values().cloned().collect();
    out.sort_by(|a, b| (a.point != "/", &a.point).cmp(&(b.point != "/", &b.point)));
    out
}

fn below_remote(mount: &Mount, by_id: &HashMap<u64, &Mount>) -> bool {
    let mut seen = HashSet::new();
    let mut at = by_id.get(&mount.parent);
    while let Some(m) = at {
        if REMOTE.contains(&m.kind.as_str()) || m.kind.starts_with("fuse") {
            return true;
        }
        if !seen.insert(m.id) {
            return false;
        }
        at = by_id.get(&m.parent);
    }
    false
}

/// Looks at each of them. One that does not answer is left out. This may hang on a disk that has died.
pub fn look(proc: &Path) -> Vec<DiskStats> {
    let Ok(mountinfo) = std::fs::read_to_string(proc.join("self/mountinfo")) else {
        return Vec::new();
    };
    lasting(&mountinfo).into_iter().filter_map(measure).collect()
}

fn measure(mount: Mount) -> Option<DiskStats> {
    let stat = statvfs(mount.point.as_str()).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let (total, free) = (bytes(stat.blocks()), bytes(stat.blocks_free()));
    // Nothing fits there: not a file system for data.
    (total > 0).then(|| DiskStats {
        mount: mount.point,
        device: mount.device,
        kind: mount.kind,
        total,
        used: total.saturating_sub(free),
        available: bytes(stat.blocks_available()),
        inodes: stat.files(),
        inodes_used: stat.files().saturating_sub(stat.files_free()),
        read_only: mount.read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(mountinfo: &str) -> Vec<String> {
        lasting(mountinfo).into_iter().map(|m| m.point).collect()
    }

    #[test]
    fn what_holds_data_of_its_own() {
        for (what, mountinfo, wanted) in [
            (
                "a virtual machine with Docker, captured",
                "22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684084k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 27 254:0 /var/lib/docker /var/lib/docker rw,relatime shared:1 - ext4 /dev/vda rw,discard
90 42 0:55 / /var/lib/docker/overlay2/f1/merged rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u
91 27 0:60 / /run/docker/netns/aa rw - nsfs nsfs rw",
                &["/"][..],
            ),
            (
                "a server: boot, data, a snap, a CD, a bind mount",
                "28 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/vg-root rw
30 28 8:2 / /boot rw shared:2 - ext4 /dev/sda2 rw
31 30 8:1 / /boot/efi rw shared:3 - vfat /dev/sda1 rw
32 28 8:17 / /data rw shared:4 - ext4 /dev/sdb1 rw
33 28 7:1 / /snap/core/1 ro shared:5 - squashfs /dev/loop1 ro
34 28 11:0 / /mnt/cd ro - iso9660 /dev/sr0 ro
35 28 8:17 /exports /srv/exports rw - ext4 /dev/sdb1 rw
36 28 7:2 / /mnt/image rw - ext4 /dev/loop2 rw",
                &["/", "/boot", "/boot/efi", "/data", "/mnt/image"],
            ),
            (
                "a part of a disk whose whole is not mounted, twice",
                "28 1 253:0 / / rw - ext4 /dev/root rw
35 28 8:17 /a /srv/longer rw - ext4 /dev/sdb1 rw
36 28 8:17 /b /srv/b rw - ext4 /dev/sdb1 rw",
                &["/", "/srv/b"],
            ),
            (
                "subvolumes of btrfs, datasets of zfs",
                "28 1 0:30 /@ / rw - btrfs /dev/sda2 rw,subvol=/@
29 28 0:30 /@home /home rw - btrfs /dev/sda2 rw,subvol=/@home
30 28 0:41 / /tank rw - zfs tank rw
31 30 0:42 / /tank/db rw - zfs tank/db rw
32 30 0:43 / /var/lib/docker/zfs/graph/abc rw - zfs tank/abc rw
33 28 253:9 / /var/lib/docker/devicemapper/mnt/abc rw - xfs /dev/mapper/docker-abc rw",
                &["/", "/tank", "/tank/db"],
            ),
            (
                "a live system, or an agent in a container",
                "28 1 0:20 / / rw - overlay overlay rw,lowerdir=/l
29 28 8:1 /etc/hosts /etc/hosts rw - ext4 /dev/sda1 rw",
                &["/", "/etc/hosts"],
            ),
            (
                "nothing is looked at through another machine, or a program",
                "28 1 8:1 / / rw - ext4 /dev/sda1 rw
40 28 0:50 / /net rw - nfs4 10.0.0.1:/x rw
41 40 8:33 / /net/inner rw - ext4 /dev/sdc1 rw
42 28 0:51 / /s3 rw - fuse.s3fs s3fs rw
43 42 8:34 / /s3/inner rw - ext4 /dev/sdc2 rw
44 41 8:35 / /net/inner/deeper rw - ext4 /dev/sdc3 rw",
                &["/"],
            ),
            (
                "one mounted over another",
                "28 1 8:1 / / rw - ext4 /dev/sda1 rw
40 28 8:2 / /mnt rw - ext4 /dev/sda2 rw
41 40 8:3 / /mnt rw - ext4 /dev/sda3 rw",
                &["/", "/mnt"],
            ),
            ("nonsense", "28 1 8:1 / / rw\n\nx y z - ext4 /dev/x rw", &[]),
        ] {
            assert_eq!(points(mountinfo), wanted, "{what}");
        }
        let over = lasting("40 28 8:2 / /mnt rw - ext4 /dev/sda2 rw\n41 40 8:3 / /mnt rw - ext4 /dev/sda3 rw");
        assert_eq!((over.len(), over[0].device.as_str()), (1, "/dev/sda3"));
    }

    #[test]
    fn odd_names_and_options() {
        let one = |line: &str| lasting(line).remove(0);
        let spaced = one(r"28 1 8:1 / /mnt/my\040disk\134x rw - ext4 /dev/disk\040a rw");
        assert_eq!((spaced.point.as_str(), spaced.device.as_str()), (r"/mnt/my disk\x", "/dev/disk a"));
        assert!(!spaced.read_only);
        assert!(one("28 1 8:1 / / ro,relatime - ext4 /dev/sda1 rw").read_only);
        assert!(one("28 1 8:1 / / rw shared:1 - ext4 /dev/sda1 ro,errors=remount-ro").read_only);
        assert!(!one("28 1 8:1 / / rw - ext4 /dev/sda1 rw,errors=remount-ro").read_only);
    }

    #[test]
    fn this_machine() {
        let disks = look(Path::new("/proc"));
        assert!(
            disks.iter().all(|d| d.total > 0 && d.used <= d.total && d.inodes_used <= d.inodes),
            "{disks:?}"
        );
        assert_eq!(look(Path::new("/nowhere")), []);
    }
}
