//! Peers that do what ours never would: certificates of any form, raw TLS, servers that write down what they are told.

use super::soon;
use nm_link::pki::{Authority, CONTROL_NAME};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate chain and its key.
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Credentials {
    pub fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

pub fn ca_der(authority: &Authority) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(authority.to_pem().certificate.as_bytes()).unwrap()
}

/// A leaf of `authority`, in any form.
pub fn forge(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let pem = authority.to_pem();
    let issuer = Issuer::from_ca_cert_pem(&pem.certificate, KeyPair::from_pem(&pem.key).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = params(change).signed_by(&key, &issuer).unwrap();
    Credentials {
        chain: vec![leaf.der().clone()],
        key,
    }
}

pub fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let leaf = params(change).self_signed(&key).unwrap();
    Credentials {
        chain: vec![leaf.der().clone()],
        key,
    }
}

fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    let now = time::OffsetDateTime::from_unix_timestamp(unix(SystemTime::now())).unwrap();
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(3600);
    change(&mut params);
    params
}

fn unix(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

/// What an agent's certificate of ours says, to be changed from there.
pub fn as_agent(node: &str) -> impl FnOnce(&mut CertificateParams) {
    let uri = format!("spiffe://neuralmesh/node/{node}");
    move |p| {
        p.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
}

pub fn as_server(p: &mut CertificateParams) {
    p.subject_alt_names = vec![SanType::DnsName(CONTROL_NAME.try_into().unwrap())];
    p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A TLS connection as someone else's program would make it, to a control plane of `authority`.
pub async fn raw_tls(
    address: SocketAddr,
    authority: &Authority,
    alpn: &[&[u8]],
    credentials: Option<&Credentials>,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca_der(authority)).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(c) => builder.with_client_auth_cert(c.chain.clone(), c.der()).unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|a| a.to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    soon(
        "a raw TLS handshake",
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(CONTROL_NAME).unwrap(), socket),
    )
    .await
}

/// The first words on a link, or the error that came instead.
pub async fn first_words(address: SocketAddr, authority: &Authority, credentials: Option<&Credentials>) -> io::Result<String> {
    let mut stream = raw_tls(address, authority, &[b"nm-link/1"], credentials, &rustls::version::TLS13).await?;
    let reading = async {
        let length = stream.read_u16().await?;
        let mut json = vec![0; usize::from(length)];
        stream.read_exact(&mut json).await?;
        Ok(String::from_utf8(json).unwrap())
    };
    soon("the first words", reading).await
}

/// One HTTP/1.1 request on the enrolment protocol: status and body, or the error that came instead.
pub async fn raw_enrol(
    address: SocketAddr,
    authority: &Authority,
    credentials: Option<&Credentials>,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<(u16, String)> {
    let mut stream = raw_tls(address, authority, &[b"nm-enrol/1"], credentials, &rustls::version::TLS13).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    // A server that has heard enough stops reading; its answer is there all the same.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    match soon("an answer", stream.read_to_end(&mut answer)).await {
        Ok(_) => {}
        Err(error) if answer.is_empty() => return Err(error),
        Err(_) => {}
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default()))
}

/// A server that pretends to be a control plane, and counts what it is told once its TLS stands.
pub struct Impostor {
    pub address: SocketAddr,
    /// Connections whose TLS handshake has ended, well or not.
    pub handshakes: watch::Receiver<usize>,
    pub heard: watch::Receiver<Vec<u8>>,
    _tasks: JoinSet<()>,
}

impl Impostor {
    /// Shows `credentials`, its chain as it is, and speaks both protocols. On a link it admits everyone.
    pub async fn start(credentials: &Credentials) -> Self {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(credentials.chain.clone(), credentials.der())
            .unwrap();
        config.alpn_protocols = vec![b"nm-link/1".to_vec(), b"nm-enrol/1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, handshakes) = watch::channel(0);
        let (hear, heard) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((socket, _)) = listener.accept().await {
                let accepted = acceptor.accept(socket).await;
                if let Ok(mut stream) = accepted {
                    let mut buffer = [0; 4096];
                    if stream.get_ref().1.alpn_protocol() == Some(b"nm-link/1") {
                        let words = br#""admitted""#;
                        let _ = stream.write_u16(words.len() as u16).await;
                        let _ = stream.write_all(words).await;
                    }
                    while let Ok(n) = stream.read(&mut buffer).await {
                        if n == 0 {
                            break;
                        }
                        hear.send_modify(|all| all.extend_from_slice(&buffer[..n]));
                    }
                }
                count.send_modify(|n| *n += 1);
            }
        });
        Self {
            address,
            handshakes,
            heard,
            _tasks: tasks,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What it was told, after one connection has come and gone.
    pub async fn told(&self) -> Vec<u8> {
        soon("the impostor's connection", self.handshakes.clone().wait_for(|n| *n > 0))
            .await
            .unwrap();
        self.heard.borrow().clone()
    }
}
