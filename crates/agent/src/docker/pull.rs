//! Pulling images.

use super::client::{Call, DockerError};
use super::wire::{PullLine, RegistryAuth};
use super::{Docker, acquire, explain};
use crate::progress::Reporter;
use base64::Engine;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue};
use nm_link::contract::{AgentError, AgentErrorCode as Code, RegistryLogin};
use nm_types::address::Special;
use nm_types::image::LayerProgress;
use nm_types::text::ImageRef;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A pull that says nothing for so long has broken off. Large layers report while they are unpacked.
const SILENCE: Duration = Duration::from_secs(120);
/// The longest a registry's name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(5);
/// Docker reports ten times a second for each layer; nobody looks that often.
const LAYER_EVERY: Duration = Duration::from_millis(250);

impl Docker {
    /// Pulls `image`, reporting each layer. Stops when the listener has gone: asked again, it goes on with the layers it has.
    pub async fn pull<T>(&self, image: &ImageRef, login: Option<&RegistryLogin>, report: &Reporter<T>) -> Result<(), AgentError> {
        if let Some(registry) = image.registry() {
            check_registry(registry).await?;
        }
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

/// Refuses a registry whose name leads to the link or to a cloud's metadata service: Docker would send that service a request on
/// behalf of whoever chose the image. The address as it is written was judged by the control plane.
async fn check_registry(registry: &str) -> Result<(), AgentError> {
    let address = if registry.contains(':') {
        registry.to_owned()
    } else {
        format!("{registry}:443")
    };
    // What can't be resolved here Docker may still find, behind a proxy; or it says so itself.
    let Ok(Ok(found)) = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(address)).await else {
        return Ok(());
    };
    match found.into_iter().find_map(|a| Some((a.ip(), forbidden(a.ip())?))) {
        None => Ok(()),
        Some((ip, special)) => Err(AgentError::new(
            Code::Forbidden,
            format!(
                "The registry `{registry}` is at {ip}, {}: no image is asked for there.",
                special.describe()
            ),
        )
        .field("image")),
    }
}

fn forbidden(ip: IpAddr) -> Option<Special> {
    Special::of(ip).filter(|special| match special {
        Special::Metadata | Special::Link | Special::Nowhere | Special::Multicast => true,
        // A registry of this machine's own is a usual thing to have.
        Special::Loopback => false,
    })
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

    #[tokio::test]
    async fn registries_at_special_addresses_are_not_asked() {
        // Each is resolved as Docker would: the address may be written in more ways than one.
        for refused in [
            "169.254.169.254",
            "169.254.169.254:5000",
            "0xa9fea9fe:80",
            "2852039166:80",
            "100.100.100.200:80",
            "0.0.0.0:1",
        ] {
            let error = check_registry(refused).await.expect_err(refused);
            assert_eq!((error.code, error.field.as_deref()), (Code::Forbidden, Some("image")), "{refused}");
        }
        for taken in ["127.0.0.1:5000", "localhost:5000", "10.0.0.5:5000", "no-such-registry.invalid"] {
            check_registry(taken).await.expect(taken);
        }
        for (ip, refused) in [
            ("fe80::1", true),
            ("::ffff:169.254.169.254", true),
            ("fd00:ec2::254", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(forbidden(ip.parse().unwrap()).is_some(), refused, "{ip}");
        }
    }

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
