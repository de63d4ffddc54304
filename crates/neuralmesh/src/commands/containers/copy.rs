//! `cp`: files between a container and this machine, with docker's rules for where they go.

use super::archive::{self, ArchiveError, ChannelReader, ChannelWriter, First, Moved, Root, Source};
use crate::client::{Call, Client, ClientError};
use crate::context::Context;
use crate::input;
use crate::output::report::usage;
use crate::output::table::clean;
use crate::output::{note, progress, warning};
use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use indicatif::ProgressBar;
use nm_types::container::ContainerView;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// How often a link in a container is followed.
const LINKS: usize = 16;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
One of the two is CONTAINER:/path, the other a path of this machine, or - for a
tar stream. A folder is copied whole; /folder/. copies what is in it. In the
container, files belong to root. A local path with a `:` in it needs ./ before it.

Examples:
  neuralmesh containers cp web:/etc/nginx/nginx.conf .
  neuralmesh containers cp ./site/. web:/usr/share/nginx/html
  neuralmesh containers cp db:/var/lib/postgresql/data - > data.tar")]
pub struct CpArgs {
    /// What to copy
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where to copy it
    #[arg(value_name = "DST", allow_hyphen_values = true)]
    pub target: String,
    /// Say nothing
    #[arg(short, long)]
    pub quiet: bool,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container { name: &'a str, path: &'a str },
    Here(&'a str),
}

fn side(text: &str) -> Side<'_> {
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => Side::Container { name, path },
        _ => Side::Here(text),
    }
}

/// A path in a container, made absolute as docker does: from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// The path without a trailing slash or `/.`, and whether only the contents are meant.
fn contents_of(path: &str) -> (&str, bool) {
    let only_contents = path.ends_with("/.") || path == ".";
    let bare = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    (if bare.is_empty() { "/" } else { bare }, only_contents)
}

/// Folder and name of an absolute path in a container.
fn split(path: &str) -> (String, OsString) {
    let path = path.trim_end_matches('/');
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    (if folder.is_empty() { "/".to_owned() } else { folder.to_owned() }, name.into())
}

pub async fn cp(args: CpArgs, cx: &Context) -> anyhow::Result<u8> {
    let (from, to) = (side(&args.source), side(&args.target));
    let copied = match (from, to) {
        (Side::Container { name, path }, Side::Here(target)) => download(cx, name, &absolute(path), target, args.quiet).await?,
        (Side::Here(source), Side::Container { name, path }) => upload(cx, source, name, &absolute(path), args.quiet).await?,
        (Side::Container { .. }, Side::Container { .. }) => {
            return Err(usage(
                "one side must be on this machine: copy out of one container, then into the other",
            ));
        }
        (Side::Here(_), Side::Here(_)) => return Err(usage("one side must be in a container, as NAME:/path")),
    };
    if !args.quiet && args.target != "-" {
        note(format!("{} to {}", progress::moved(copied), clean(&args.target)));
    }
    Ok(0)
}

fn bar(quiet: bool, message: &str) -> ProgressBar {
    if quiet {
        ProgressBar::hidden()
    } else {
        progress::bytes(message, None)
    }
}

/// Hands a download's bytes to a thread, until either is done.
async fn pump(mut response: reqwest::Response, to: mpsc::Sender<io::Result<Bytes>>, bar: &ProgressBar) {
    loop {
        let next = match response.chunk().await {
            Ok(Some(chunk)) => {
                bar.inc(chunk.len() as u64);
                Ok(chunk)
            }
            Ok(None) => return,
            Err(e) => Err(io::Error::other(e)),
        };
        let last = next.is_err();
        if to.send(next).await.is_err() || last {
            return;
        }
    }
}

async fn joined<T>(thread: tokio::task::JoinHandle<Result<T, ArchiveError>>) -> anyhow::Result<T> {
    Ok(thread.await.context("a thread broke down")??)
}

async fn download(cx: &Context, name: &str, path: &str, target: &str, quiet: bool) -> anyhow::Result<u64> {
    let (bare, only_contents) = contents_of(path);
    let target_path = PathBuf::from(target);
    let here = if target == "-" {
        None
    } else {
        Some(place_here(&target_path, bare, only_contents, target.ends_with('/'))?)
    };
    let call = Call::get(&["containers", name, "archive"]).query("path", bare);
    let response = cx.client.download(call).await?;
    let bar = bar(quiet || target == "-", &format!("{name}:{bare}"));
    let Some((folder, root)) = here else {
        if io::stdout().is_terminal() {
            return Err(usage("a tar stream is nothing for a terminal: send it to a file or a program"));
        }
        let mut response = response;
        let mut total = 0;
        let mut out = io::stdout();
        while let Some(chunk) = response.chunk().await.context("the download broke off")? {
            total += chunk.len() as u64;
            out.write_all(&chunk)?;
        }
        return Ok(total);
    };
    let (send, receive) = mpsc::channel(8);
    let thread = spawn_blocking(move || {
        if only_contents {
            match std::fs::create_dir(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(ArchiveError::Io {
                        what: "make",
                        path: folder,
                        source: e,
                    });
                }
                _ => {}
            }
        }
        archive::unpack(ChannelReader::new(receive), &folder, &root)
    });
    pump(response, send, &bar).await;
    let done = joined(thread).await?;
    bar.finish_and_clear();
    leave_out(&done);
    Ok(done.bytes)
}

/// Where a download goes: the folder to unpack into, and what becomes of the tar's root.
fn place_here(target: &Path, source: &str, only_contents: bool, must_be_folder: bool) -> anyhow::Result<(PathBuf, Root)> {
    match std::fs::metadata(target) {
        Ok(meta) if meta.is_dir() => Ok((
            target.to_owned(),
            if only_contents || source == "/" { Root::Strip } else { Root::Keep },
        )),
        Ok(_) if must_be_folder || only_contents => anyhow::bail!("{} is no folder", target.display()),
        found => {
            if let Err(e) = &found
                && e.kind() != io::ErrorKind::NotFound
            {
                anyhow::bail!("look at {}: {e}", target.display());
            }
            if must_be_folder && !only_contents {
                anyhow::bail!("there is no folder {}", target.display());
            }
            if only_contents {
                return Ok((target.to_owned(), Root::Strip));
            }
            let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            anyhow::ensure!(parent.is_dir(), "there is no folder {}", parent.display());
            let name = target
                .file_name()
                .with_context(|| format!("{} names nothing to copy to", target.display()))?;
            Ok((parent.to_owned(), Root::Rename(name.to_owned())))
        }
    }
}

async fn upload(cx: &Context, source: &str, name: &str, path: &str, quiet: bool) -> anyhow::Result<u64> {
    // The container must be there: from here on "not found" means the path in it.
    let container = cx.client.fetch::<ContainerView>(Call::get(&["containers", name])).await?.value;
    let id = container.id.as_str();
    let bar = bar(quiet, &format!("{source} to {name}"));
    if source == "-" {
        return send(&cx.client, id, path, &bar, |to| async move {
            let mut stdin = input::chunks();
            let mut done = Moved::default();
            while let Some(chunk) = stdin.recv().await {
                let chunk = chunk.context("read standard input")?;
                done.bytes += chunk.len() as u64;
                if to.send(Ok(chunk)).await.is_err() {
                    break;
                }
            }
            Ok(done)
        })
        .await;
    }
    let (bare, only_contents) = contents_of(source);
    let meta = std::fs::metadata(bare).with_context(|| format!("look at {bare}"))?;
    if only_contents && !meta.is_dir() {
        anyhow::bail!("{bare} is no folder");
    }
    let own_name = || -> anyhow::Result<OsString> {
        let real = std::fs::canonicalize(bare).with_context(|| format!("look at {bare}"))?;
        // `.` and `..` have no name of their own; anything else keeps the one it was called by.
        let named = Path::new(bare).file_name().or(real.file_name());
        Ok(named.with_context(|| format!("{bare} has no name to be copied as"))?.to_owned())
    };
    let (folder, name_there) = match look(&cx.client, id, path).await? {
        Some((folder, First::Folder)) => (folder, if only_contents { None } else { Some(own_name()?) }),
        Some((file, _)) if meta.is_dir() => anyhow::bail!("{name}:{file} is a file, and {bare} a folder"),
        Some((file, _)) => {
            let (folder, name) = split(&file);
            (folder, Some(name))
        }
        None if path.ends_with('/') && !meta.is_dir() => anyhow::bail!("there is no folder {path} in {name}"),
        None => {
            let (folder, name) = split(path);
            (folder, Some(name))
        }
    };
    let packed = Source {
        path: PathBuf::from(bare),
        name: name_there,
    };
    send(&cx.client, id, &folder, &bar, |to| async move {
        joined(spawn_blocking(move || archive::pack(&packed, ChannelWriter::new(to)))).await
    })
    .await
}

/// What is at a path of a container, links followed; and its real path.
async fn look(client: &Client, id: &str, path: &str) -> anyhow::Result<Option<(String, First)>> {
    let mut path = path.trim_end_matches('/').to_owned();
    for _ in 0..LINKS {
        if path.is_empty() {
            return Ok(Some(("/".to_owned(), First::Folder)));
        }
        let response = match client
            .download(Call::get(&["containers", id, "archive"]).query("path", &path))
            .await
        {
            Ok(response) => response,
            Err(e) if is_missing(&e) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let (send, receive) = mpsc::channel(1);
        let thread = spawn_blocking(move || archive::first(ChannelReader::new(receive)));
        pump(response, send, &ProgressBar::hidden()).await;
        match joined(thread).await? {
            Some(First::Link(to)) => path = resolve(&split(&path).0, &to),
            Some(found) => return Ok(Some((path, found))),
            None => return Ok(None),
        }
    }
    anyhow::bail!("{path} in the container is a link that leads nowhere");
}

/// Whether the path is what is wrong: the container is known to be there, and the path to be one.
fn is_missing(error: &ClientError) -> bool {
    error.status() == Some(404) || error.details().iter().any(|p| p.field == "path")
}

/// Where a link in `folder` leads, by its text alone.
fn resolve(folder: &str, to: &Path) -> String {
    let to = to.to_string_lossy();
    let mut parts: Vec<&str> = if to.starts_with('/') {
        Vec::new()
    } else {
        folder.split('/').filter(|p| !p.is_empty()).collect()
    };
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Sends what `make` writes as a tar, to be unpacked in `folder`. Answers how much it was.
async fn send<F>(
    client: &Client,
    id: &str,
    folder: &str,
    bar: &ProgressBar,
    make: impl FnOnce(mpsc::Sender<io::Result<Bytes>>) -> F,
) -> anyhow::Result<u64>
where
    F: Future<Output = anyhow::Result<Moved>>,
{
    let (to, from) = mpsc::channel::<io::Result<Bytes>>(8);
    let counting = bar.clone();
    let stream = futures_util::stream::unfold(from, move |mut from| {
        let counting = counting.clone();
        async move {
            let chunk = from.recv().await?;
            if let Ok(chunk) = &chunk {
                counting.inc(chunk.len() as u64);
            }
            Some((chunk, from))
        }
    });
    let failed = to.clone();
    let making = async move {
        let made = make(to).await;
        if made.is_err() {
            // Cuts the upload short, so that half an archive is never taken for a whole one.
            let _gone = failed.send(Err(io::Error::other("cancelled"))).await;
        }
        made
    };
    let call = Call::put(&["containers", id, "archive"]).query("path", folder);
    let sending = client.upload(call, "application/x-tar", reqwest::Body::wrap_stream(stream));
    let (made, sent) = tokio::join!(making, sending);
    bar.finish_and_clear();
    match (made, sent) {
        // The packing failed for want of a reader: why there is none is what matters. Otherwise it is the other way about.
        (Err(packing), Err(sending)) if lacks_reader(&packing) => Err(sending.into()),
        (Err(packing), _) => Err(packing),
        (Ok(_), Err(sending)) => Err(sending.into()),
        (Ok(done), Ok(())) => {
            leave_out(&done);
            Ok(done.bytes)
        }
    }
}

fn leave_out(done: &Moved) {
    for path in &done.skipped {
        warning(format!(
            "left out {}: neither file, folder nor link",
            clean(&path.display().to_string())
        ));
    }
}

/// Whether an error is that nobody took what was written.
fn lacks_reader(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        assert_eq!(side("web:/etc"), Side::Container { name: "web", path: "/etc" });
        assert_eq!(
            side("web:etc/x:y"),
            Side::Container {
                name: "web",
                path: "etc/x:y"
            }
        );
        for here in ["file", "./a:b", "/tmp/a:b", "-", ":x"] {
            assert_eq!(side(here), Side::Here(here));
        }
    }

    #[test]
    fn paths() {
        assert_eq!(contents_of("/a/b/."), ("/a/b", true));
        assert_eq!(contents_of("/a/b/"), ("/a/b", false));
        assert_eq!(contents_of("/."), ("/", true));
        assert_eq!(contents_of("."), (".", true));
        assert_eq!(split("/a/b"), ("/a".into(), "b".into()));
        assert_eq!(split("/b"), ("/".into(), "b".into()));
        assert_eq!(resolve("/etc/nginx", Path::new("../ssl/./x")), "/etc/ssl/x");
        assert_eq!(resolve("/etc", Path::new("/opt/x")), "/opt/x");
        assert_eq!(resolve("/", Path::new("../../..")), "/");
    }
}
