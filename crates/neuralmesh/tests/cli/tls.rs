//! Whom the binary trusts.

use crate::fake::{Fake, finish};
use axum::Router;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server on `https://127.0.0.1` that answers every request with an empty list; and the authority that vouches for it.
async fn serve() -> (String, String) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not trust it hangs up in the middle of the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.unwrap();
                asked.push(byte);
            }
            let body = r#"{"success":true,"data":[{"id":"reg_1770000000000_abcdefghi","host":"ghcr.io","username":"ci","created":"2026-02-03T02:30:00.000Z","updated":"2026-02-03T02:30:00.000Z"}]}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (url, ca_certificate.pem())
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let fake = Fake::start(Router::new()).await;
    let (url, ca) = serve().await;
    let args = ["registries", "ls", "-o", "name", "--server-url", &url];
    let stranger = finish(&mut fake.command(&args)).await;
    assert_eq!(stranger.code, 1);
    assert!(
        stranger.err.contains("certificate") && stranger.err.contains("--ca-file"),
        "{}",
        stranger.err
    );

    let file = fake.home.path().join("ca.pem");
    std::fs::write(&file, ca).unwrap();
    assert_eq!(
        finish(fake.command(&args).env("NEURALMESH_CA_FILE", &file)).await.ok().out,
        "ghcr.io\n"
    );

    std::fs::write(&file, "not a certificate").unwrap();
    let none = finish(fake.command(&args).env("NEURALMESH_CA_FILE", &file)).await;
    assert_eq!(none.code, 1);
    assert!(none.err.contains("ca.pem"), "{}", none.err);
}
