//! Pulling images.

use super::client::{Call, DockerError};
use super::wire::{PullLine, RegistryAuth};
use super::{Docker, acquire, explain};
use crate::progress::Reporter;
use base64::Engine;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue};
use nm_link::contract::{AgentError, AgentErrorCode as Code, RegistryLogin};
use nm_types::image::LayerProgress;
use nm_types::text::ImageRef;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A pull that says nothing for so long has broken off. Large layers report while they are unpacked.
const SILENCE: Duration = Duration::from_secs(120);
/// Docker reports ten times a second for each layer; nobody looks that often.
const LAYER_EVERY: Duration = Duration::from_millis(250);

impl Docker {
    /// Pulls `image`, reporting each layer. Stops when the listener has gone: asked again, it goes on with the layers it has.
    pub async fn pull<T>(&self, image: &ImageRef, login: Option<&RegistryLogin>, report: &Reporter<T>) -> Result<(), AgentError> {
        let _permit = acquire(&self.pulls).await;
        let failed = |message: &str| explain::pull(image.as_str(), image.registry(), message, login.is_some());
        let mut call = Call::post("pull an image", "/images/create")
            .query("fromImage", image.with_tag())
            .deadline(SILENCE);
        if let Some(login) = login {
            call = call.header(HeaderName::from_static("x-registry-auth"), auth_header(login)?);
        }
        let translate = |error: DockerError| match error {
            DockerError::Refused { message, .. } => failed(&message),
            e => self.explain(e),
        };
        let work = async {
            let mut lines = self.client.lines::<PullLine>(call).await.map_err(translate)?;
            let mut layers: HashMap<String, (String, Instant)> = HashMap::new();
            loop {
                let line = match tokio::time::timeout(SILENCE, lines.next()).await {
                    Ok(Some(line)) => line.map_err(translate)?,
                    Ok(None) => return Ok(()),
                    Err(_) => return Err(failed(&format!("nothing came for {} s", SILENCE.as_secs()))),
                };
                if let Some(error) = line.error {
                    return Err(failed(&error));
                }
                if line.id.is_empty() || line.status.starts_with("Pulling from") {
                    continue;
                }
                let now = Instant::now();
                let due = layers
                    .get(&line.id)
                    .is_none_or(|(status, at)| *status != line.status || now - *at >= LAYER_EVERY);
                if due {
                    layers.insert(line.id.clone(), (line.status.clone(), now));
                    let amount = |n: i64| u64::try_from(n).unwrap_or(0);
                    report.layer(LayerProgress {
                        layer: line.id,
                        status: line.status,
                        current: amount(line.progress.current),
                        total: amount(line.progress.total),
                    });
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = report.gone() => Err(AgentError::new(Code::Cancelled, format!("The pull of `{image}` was cancelled."))),
        }
    }
}

/// The login as Docker's header. The URL-safe alphabet matters: with the other one Docker takes some passwords for no login
/// at all, and says nothing.
fn auth_header(login: &RegistryLogin) -> Result<HeaderValue, AgentError> {
    let auth = RegistryAuth {
        username: &login.username,
        password: &login.password,
        serveraddress: &login.host,
    };
    let json =
        serde_json::to_vec(&auth).map_err(|e| AgentError::new(Code::Internal, format!("The registry's login can't be written: {e}.")))?;
    let text = base64::engine::general_purpose::URL_SAFE.encode(json);
    let mut value = HeaderValue::from_str(&text)
        .map_err(|e| AgentError::new(Code::Internal, format!("The registry's login can't be written: {e}.")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_sent_in_the_alphabet_docker_reads() {
        let login = RegistryLogin {
            host: "r.example".into(),
            username: "u".into(),
            password: "??>>~~ÿÿ".into(),
        };
        let header = auth_header(&login).unwrap();
        let text = header.to_str().unwrap();
        assert!(!text.contains(['+', '/']), "{text}");
        let json = base64::engine::general_purpose::URL_SAFE.decode(text).unwrap();
        let back: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(back["password"], "??>>~~ÿÿ");
        assert!(header.is_sensitive());
    }
}
