//! Building the images that are made of what this program holds.

use super::client::{Call, DockerError, RequestBody};
use super::wire::LoadLine;
use super::{Docker, acquire};
use crate::progress::Reporter;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use nm_link::contract::{AgentError, AgentErrorCode as Code, built_in};
use nm_types::text::ImageRef;
use std::time::Duration;

/// A build that says nothing for so long has come to a standstill; packages are fetched and unpacked meanwhile.
const SILENCE: Duration = Duration::from_secs(300);

fn failed(image: &ImageRef, why: &str) -> AgentError {
    let text = format!(
        "The image `{image}` could not be built on this node: {}. It is made of Debian's packages: see that the node's engine has or can pull \
         debian:bookworm-slim and that its containers reach a package mirror, or load the image there (`docker load`).",
        why.trim().trim_end_matches('.')
    );
    AgentError::new(Code::PullFailed, text).field("image")
}

fn archive(files: &[(&str, &str)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    archive.into_inner()
}

impl Docker {
    /// Builds an image of ours. Whoever comes while it is being built waits for it.
    pub async fn build<T>(&self, image: &ImageRef, report: &Reporter<T>) -> Result<(), AgentError> {
        let Some(files) = built_in::context(image.as_str()) else {
            let text = format!("The image `{image}` belongs to another version of NeuralMesh than this node's agent: upgrade the node.");
            return Err(AgentError::new(Code::ImageNotFound, text).field("image"));
        };
        let _permit = acquire(&self.pulls).await;
        let archive = archive(files).map_err(|e| failed(image, &e.to_string()))?;
        let body: RequestBody = Full::new(Bytes::from(archive)).map_err(|never| match never {}).boxed_unsync();
        let call = Call::post("build an image", "/build")
            .query("t", image.as_str())
            .query("forcerm", "1")
            .tar(body)
            .deadline(SILENCE);
        let translate = |error: DockerError| match error {
            DockerError::Refused { message, .. } => failed(image, &message),
            e => self.explain(e),
        };
        let work = async {
            let mut lines = self.client.lines::<LoadLine>(call).await.map_err(translate)?;
            loop {
                let line = match tokio::time::timeout(SILENCE, lines.next()).await {
                    Ok(Some(line)) => line.map_err(translate)?,
                    Ok(None) => return Ok(()),
                    Err(_) => return Err(failed(image, &format!("nothing came for {} s", SILENCE.as_secs()))),
                };
                if let Some(error) = line.error {
                    return Err(failed(image, &error));
                }
                for text in line.stream.lines().filter(|l| l.starts_with("Step ")) {
                    report.log(text).await;
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = report.gone() => Err(AgentError::new(Code::Cancelled, format!("The build of `{image}` was cancelled."))),
        }
    }
}
