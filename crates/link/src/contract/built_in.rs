//! Images that nodes build themselves, from what this program holds: no registry has to have them.

use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// The version of PostgreSQL in it begins its tag.
const POSTGRES: &str = "neuralmesh/postgres-ha:15-";
/// In the order in which they are hashed, as e2e/images/build.sh does.
const POSTGRES_FILES: [(&str, &str); 11] = [
    ("Dockerfile", include_str!("../../../../images/postgres-ha/Dockerfile")),
    ("nm-postgres.py", include_str!("../../../../images/postgres-ha/nm-postgres.py")),
    ("nm_common.py", include_str!("../../../../images/postgres-ha/nm_common.py")),
    ("nm_document.py", include_str!("../../../../images/postgres-ha/nm_document.py")),
    ("nm_etcd.py", include_str!("../../../../images/postgres-ha/nm_etcd.py")),
    ("nm_run.py", include_str!("../../../../images/postgres-ha/nm_run.py")),
    ("nm_database.py", include_str!("../../../../images/postgres-ha/nm_database.py")),
    ("nm_commands.py", include_str!("../../../../images/postgres-ha/nm_commands.py")),
    ("nm_archive.py", include_str!("../../../../images/postgres-ha/nm_archive.py")),
    ("nm_restore.py", include_str!("../../../../images/postgres-ha/nm_restore.py")),
    ("nm-archive.sh", include_str!("../../../../images/postgres-ha/nm-archive.sh")),
];

/// The image of a database cluster's members. Its tag tells of what it is made of, so that another one has another name.
pub fn postgres_image() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut hash = Sha256::new();
        POSTGRES_FILES.iter().for_each(|(_, text)| hash.update(text));
        format!("{POSTGRES}{}", hex::encode(&hash.finalize()[..6]))
    })
}

/// What an image is built of, by its name: paths and texts. `None` where it is none of ours.
pub fn context(image: &str) -> Option<&'static [(&'static str, &'static str)]> {
    (image == postgres_image()).then_some(&POSTGRES_FILES)
}

/// Whether it is an image of ours that is made of something else than this program holds.
pub fn is_of_another_version(image: &str) -> bool {
    image.starts_with(POSTGRES) && image != postgres_image()
}
