//! Writes the built-in image in the form of `docker save`: <https://github.com/moby/docker-image-spec>, v1.2.
//!
//! One layer: this executable, the libraries mapped into it now, and their loader, which is named as the entrypoint so that
//! no path of this machine's has to be right in the image.

use super::{NAME, PORT};
use anyhow::{Context, bail};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

const PROGRAM: &str = "neuralmesh";
const LIBRARIES: &str = "lib";

/// Writes the image as a tar archive into a file without a name, read from its beginning.
pub fn build() -> anyhow::Result<File> {
    let program = std::env::current_exe().context("find the running program")?;
    let libraries = mapped_libraries(&std::fs::read_to_string("/proc/self/maps").context("read the list of mapped libraries")?);
    let loader = libraries
        .iter()
        .find(|l| is_loader(l))
        .context("find the loader among the mapped libraries")?
        .clone();
    let mut layer = tempfile::tempfile().context("make a file for the layer")?;
    let digest = write_layer(&mut layer, &program, &libraries)?;
    let size = layer.stream_position()?;
    layer.rewind()?;
    let config = config(&loader, &digest)?;
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_name = format!("{digest}/layer.tar");
    let manifest = serde_json::to_vec(&json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": [layer_name] }]))?;
    let mut archive = Builder::new(tempfile::tempfile().context("make a file for the image")?);
    add(&mut archive, &config_name, 0o644, config.len() as u64, config.as_slice())?;
    add(&mut archive, &layer_name, 0o644, size, &mut layer)?;
    add(&mut archive, "manifest.json", 0o644, manifest.len() as u64, manifest.as_slice())?;
    let mut file = archive.into_inner()?;
    file.rewind()?;
    Ok(file)
}

/// What the image says of itself: it is the same for the same program.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn config(loader: &Path, digest: &str) -> anyhow::Result<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let entrypoint = [
        format!("/{LIBRARIES}/{}", file_name(loader)?),
        "--library-path".into(),
        format!("/{LIBRARIES}"),
        format!("/{PROGRAM}"),
        "hello".into(),
    ];
    Ok(serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": "65534:65534",
            "Entrypoint": entrypoint,
            "ExposedPorts": { format!("{PORT}/tcp"): {} },
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "Labels": { "org.opencontainers.image.title": "NeuralMesh hello", "org.opencontainers.image.version": version() }
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "neuralmesh" }]
    }))?)
}

fn write_layer(out: &mut File, program: &Path, libraries: &BTreeSet<PathBuf>) -> anyhow::Result<String> {
    let mut archive = Builder::new(Digesting {
        inner: out,
        digest: Sha256::new(),
    });
    let mut folder = Header::new_gnu();
    folder.set_entry_type(EntryType::Directory);
    folder.set_mode(0o755);
    folder.set_size(0);
    archive.append_data(&mut folder, format!("{LIBRARIES}/"), io::empty())?;
    for library in libraries {
        add_file(&mut archive, &format!("{LIBRARIES}/{}", file_name(library)?), library)?;
    }
    add_file(&mut archive, PROGRAM, program)?;
    Ok(hex::encode(archive.into_inner()?.digest.finalize()))
}

fn add_file<W: Write>(archive: &mut Builder<W>, name: &str, path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata()?.len();
    add(archive, name, 0o755, size, file)
}

fn add<W: Write>(archive: &mut Builder<W>, name: &str, mode: u32, size: u64, content: impl Read) -> anyhow::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(size);
    archive
        .append_data(&mut header, name, content)
        .with_context(|| format!("write {name} into the image"))
}

fn file_name(path: &Path) -> anyhow::Result<&str> {
    match path.file_name().and_then(|n| n.to_str()) {
        Some(name) => Ok(name),
        None => bail!("the library {} has no name", path.display()),
    }
}

fn is_loader(path: &Path) -> bool {
    path.file_name()
        .and_then(|n| n.to_str())
        .is_some_and(|n| n.starts_with("ld-linux") || n.starts_with("ld-musl"))
}

/// The shared libraries in a process's memory map, `/proc/PID/maps`: the loader's own list, the loader among them.
fn mapped_libraries(maps: &str) -> BTreeSet<PathBuf> {
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| {
            path.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.ends_with(".so") || n.contains(".so."))
        })
        .collect()
}

struct Digesting<'a> {
    inner: &'a mut File,
    digest: Sha256,
}
impl Write for Digesting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.digest.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_map() {
        let maps = "55d0-55d1 r-xp 00000000 fe:00 12 /usr/bin/neuralmesh\n\
                    7f00-7f01 r-xp 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f01-7f02 rw-p 00000000 fe:00 13 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f02-7f03 rw-p 00000000 00:00 0 \n\
                    7f03-7f04 r-xp 00000000 fe:00 14 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
                    7ffc-7ffd r-xp 00000000 00:00 0 [vdso]\n";
        let found = mapped_libraries(maps);
        assert_eq!(found.len(), 2);
        assert!(found.iter().any(|l| is_loader(l)));
    }

    #[test]
    fn the_image_names_what_it_holds() {
        let mut archive = tar::Archive::new(build().unwrap());
        let mut names = Vec::new();
        let mut manifest = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "manifest.json" {
                entry.read_to_string(&mut manifest).unwrap();
            }
            names.push(name);
        }
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], NAME);
        assert!(names.contains(&manifest[0]["Config"].as_str().unwrap().to_owned()));
        assert!(names.contains(&manifest[0]["Layers"][0].as_str().unwrap().to_owned()));
    }
}
