//! The configuration's file: what the proxy starts from when nobody tells it anything.

use nm_types::proxy::ProxyConfig;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file holds no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("read {file}")]
    Read {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file} is not a proxy's configuration: {reason}")]
    Parse { file: String, reason: String },
}

/// The configuration in the file; nothing where there is no file.
pub fn read(path: &Path) -> Result<Option<ProxyConfig>, Unreadable> {
    let file = path.display().to_string();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Unreadable::Read { file, source }),
    };
    parse(&text).map(Some).map_err(|(field, reason)| Unreadable::Parse {
        file,
        reason: format!("{field}: {reason}"),
    })
}

/// A document, or the path of the field that is wrong and why.
pub fn parse(text: &[u8]) -> Result<ProxyConfig, (String, String)> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|e| (e.path().to_string(), e.inner().to_string()))?;
    json.end().map_err(|e| (".".to_owned(), e.to_string()))?;
    Ok(config)
}

/// Replaces the file: on disk before it answers, whole at every moment, for its owner only as it holds private keys.
pub fn write(path: &Path, config: &ProxyConfig) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(config)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}
