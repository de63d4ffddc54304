//! Who is let in, and who is not: line 15 of the security table, attempt by attempt.

mod support;

use nm_link::agent::{DialError, DialOptions, IdentityError, IdentityStore, JoinError, LinkState, join, join_or_stay};
use nm_link::pki::{AGENT_LIFETIME, Authority, Csr, NodeKey, Validity};
use nm_link::server::LinkChange;
use nm_link::{JoinToken, RefusalCode};
use nm_types::NodeId;
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::{Duration, SystemTime};
use support::adversary::{Credentials, Impostor, as_agent, as_server, ca_der, first_words, forge, raw_enrol, raw_tls, self_signed};
use support::control::{Control, Token, next_change};
use support::node::{Node, facts, quick};

const NODE: &str = "node_1770000000000_abcdefghi";

fn store() -> (tempfile::TempDir, IdentityStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = IdentityStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Credentials issued by the authority itself, as for an agent of ours.
fn issued(authority: &Authority, validity: Validity) -> Credentials {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = Csr::from_der(params.serialize_request(&key).unwrap().der()).unwrap();
    let issued = authority.issue_agent(&csr, &NodeId::parse(NODE).unwrap(), validity).unwrap();
    Credentials {
        chain: vec![CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap()],
        key,
    }
}

#[tokio::test]
async fn only_certificates_that_the_authority_issued_to_an_agent_open_a_link() {
    let control = Control::start().await;
    let (address, authority) = (control.address, &control.rules.authority);
    let now = SystemTime::now();
    let good = issued(authority, Validity::starting(now, AGENT_LIFETIME));
    let mut events = control.links.events();
    assert_eq!(first_words(address, authority, Some(&good)).await.unwrap(), r#""admitted""#);

    assert_eq!(next_change(&mut events).await, LinkChange::Connected);

    let foreign = Authority::generate(now).unwrap();
    let hour = Duration::from_secs(3600);
    let mut other_key = issued(authority, Validity::starting(now, AGENT_LIFETIME));
    other_key.chain = good.chain.clone();
    let mut under_an_agent = forge(authority, as_agent(NODE));
    let leaf_under_agent = {
        let issuer = rcgen::Issuer::from_ca_cert_der(&under_an_agent.chain[0], &under_an_agent.key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        as_agent(NODE)(&mut params);
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        Credentials {
            chain: vec![leaf, under_an_agent.chain.remove(0)],
            key,
        }
    };
    let attempts = [
        ("another authority's", issued(&foreign, Validity::starting(now, AGENT_LIFETIME))),
        ("another authority's, with ours in the chain", {
            let mut c = issued(&foreign, Validity::starting(now, AGENT_LIFETIME));
            c.chain.push(ca_der(authority));
            c
        }),
        (
            "an expired one",
            issued(
                authority,
                Validity {
                    not_before: now - 2 * hour,
                    not_after: now - hour,
                },
            ),
        ),
        (
            "one of tomorrow",
            issued(
                authority,
                Validity {
                    not_before: now + hour,
                    not_after: now + 2 * hour,
                },
            ),
        ),
        ("a control plane's", forge(authority, as_server)),
        ("the right name, self-signed", self_signed(as_agent(NODE))),
        ("one issued by an agent", leaf_under_agent),
        (
            "one that may be client and server",
            forge(authority, |p| {
                as_agent(NODE)(p);
                p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            }),
        ),
        (
            "one for no purpose in particular",
            forge(authority, |p| {
                as_agent(NODE)(p);
                p.extended_key_usages.clear();
            }),
        ),
        (
            "one without a name",
            forge(authority, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        (
            "one with two nodes' names",
            forge(authority, |p| {
                as_agent(NODE)(p);
                p.subject_alt_names
                    .push(SanType::URI("spiffe://neuralmesh/node/node_1_zzzzzzzzz".try_into().unwrap()));
            }),
        ),
        ("one whose name is no node's", forge(authority, as_agent("node_1"))),
        (
            "one with the node in its common name only",
            forge(authority, |p| {
                p.distinguished_name.push(DnType::CommonName, NODE);
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ];
    for (what, credentials) in &attempts {
        let words = first_words(address, authority, Some(credentials)).await;
        assert!(words.is_err(), "{what}: {words:?}");
    }
    let words = first_words(address, authority, None).await.unwrap();
    assert!(words.contains("certificate_required"), "{words}");
    while let Ok(event) = events.try_recv() {
        assert!(matches!(event.change, LinkChange::Disconnected(_)), "{event:?}");
    }
}

#[tokio::test]
async fn a_revoked_node_is_told_so() {
    let control = Control::start().await;
    let authority = &control.rules.authority;
    let credentials = issued(authority, Validity::starting(SystemTime::now(), AGENT_LIFETIME));
    control.rules.revoked.lock().unwrap().insert(NodeId::parse(NODE).unwrap());
    let words = first_words(control.address, authority, Some(&credentials)).await.unwrap();
    assert!(words.contains("revoked"), "{words}");
    // Nor does it get a new certificate for its old one.
    let csr = csr_for(&credentials.key, |_| {});
    let (status, body) = renewal(&control, Some(&credentials), &csr).await;
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("revoked"), "{body}");
}

fn csr_for(key: &rcgen::KeyPair, change: impl FnOnce(&mut rcgen::CertificateParams)) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

async fn renewal(control: &Control, credentials: Option<&Credentials>, csr: &str) -> (u16, String) {
    let body = serde_json::json!({ "csr": csr }).to_string();
    raw_enrol(
        control.address,
        &control.rules.authority,
        credentials,
        "POST",
        "/v1/renew",
        body.as_bytes(),
    )
    .await
    .unwrap()
}

async fn enrolment(control: &Control, token: &JoinToken, csr: &str) -> (u16, String) {
    let text = token.reveal();
    let secret = text.rsplit('.').next().unwrap();
    let body = serde_json::json!({ "secret": secret, "csr": csr, "facts": facts() }).to_string();
    raw_enrol(
        control.address,
        &control.rules.authority,
        None,
        "POST",
        "/v1/enrol",
        body.as_bytes(),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn no_request_brings_another_name_than_the_nodes_own() {
    let control = Control::start().await;
    let credentials = issued(&control.rules.authority, Validity::starting(SystemTime::now(), AGENT_LIFETIME));
    let uri = |node: &str| SanType::URI(format!("spiffe://neuralmesh/node/{node}").try_into().unwrap());

    let own = csr_for(&credentials.key, |p| p.subject_alt_names.push(uri(NODE)));
    let (status, body) = renewal(&control, Some(&credentials), &own).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(NODE));

    type Change = fn(&mut rcgen::CertificateParams);
    let others: [(&str, Change); 4] = [
        ("another node's name", |p| {
            p.distinguished_name.push(DnType::CommonName, "node_1770000000000_zzzzzzzzz")
        }),
        ("another node's URI", |p| {
            p.subject_alt_names.push(SanType::URI(
                "spiffe://neuralmesh/node/node_1770000000000_zzzzzzzzz".try_into().unwrap(),
            ));
        }),
        ("the control plane's name", |p| {
            p.subject_alt_names.push(SanType::DnsName("control.neuralmesh".try_into().unwrap()))
        }),
        ("to be an authority", |p| {
            p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
        }),
    ];
    for (what, change) in others {
        let csr = csr_for(&credentials.key, change);
        let (status, body) = renewal(&control, Some(&credentials), &csr).await;
        assert_eq!(status, 422, "renewing with {what}: {body}");
        let (status, body) = enrolment(&control, &control.rules.token(), &csr).await;
        assert_eq!(status, 422, "joining with {what}: {body}");
    }
    let (status, body) = renewal(&control, None, &own).await;
    assert_eq!(status, 401, "{body}");
    assert!(body.contains("certificate_required"));
}

#[tokio::test]
async fn a_join_token_lets_one_machine_in_once() {
    let control = Control::start().await;
    let url = control.url().parse().unwrap();
    let options = DialOptions::default();
    let token = control.rules.token();
    let (_dir, first) = store();
    let identity = join(&first, &url, &token, &facts(), &options).await.unwrap();
    assert_eq!(control.rules.joined.lock().unwrap()[0].0, "alder");
    assert_eq!(first.load().unwrap().unwrap().certificate(), identity.certificate());
    // A machine that has joined keeps what it is.
    let again = join(&first, &url, &control.rules.token(), &facts(), &options).await.unwrap_err();
    assert!(matches!(again, JoinError::Identity(IdentityError::AlreadyJoined(_))), "{again:?}");

    // Also where it is given a token at each start: the token is not spent while the machine counts as what it is.
    let spare = control.rules.token();
    let same = join_or_stay(&first, &url, &spare, &facts(), &options).await.unwrap();
    assert_eq!(same.node(), identity.node());
    // Once it does not, the token makes it a node again.
    control.rules.revoked.lock().unwrap().insert(identity.node().clone());
    let anew = join_or_stay(&first, &url, &spare, &facts(), &options).await.unwrap();
    assert_eq!(first.load().unwrap().unwrap().certificate(), anew.certificate());
    assert_ne!(anew.certificate().serial, same.certificate().serial);
    // A control plane that is away says nothing about it.
    let nobody = "https://127.0.0.1:1".parse().unwrap();
    let kept = join_or_stay(&first, &nobody, &control.rules.token(), &facts(), &options)
        .await
        .unwrap();
    assert_eq!(kept.certificate(), anew.certificate());

    let expired = control.rules.token();
    control.rules.tokens.lock().unwrap().insert(expired.secret_hash(), Token::Expired);
    let unknown = JoinToken::generate(control.rules.authority.spki_sha256()).unwrap();
    for (token, wanted) in [
        (token, RefusalCode::TokenUsed),
        (expired, RefusalCode::TokenExpired),
        (unknown, RefusalCode::TokenUnknown),
    ] {
        let (dir, store) = store();
        let error = join(&store, &url, &token, &facts(), &options).await.unwrap_err();
        assert!(
            matches!(&error, JoinError::Refused(refusal) if refusal.code == wanted),
            "{wanted:?}: {error:?}"
        );
        assert!(store.load().unwrap().is_none());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "a machine that was refused keeps nothing"
        );
    }
}

/// Whatever an impostor shows, the join token's secret does not leave the machine.
#[tokio::test]
async fn no_secret_byte_leaves_for_a_server_that_is_not_the_one_of_the_token() {
    let (ours, theirs) = (
        Authority::generate(SystemTime::now()).unwrap(),
        Authority::generate(SystemTime::now()).unwrap(),
    );
    let shown = |mut credentials: Credentials, authority: &Authority| {
        credentials.chain.push(ca_der(authority));
        credentials
    };
    let agent = || issued(&ours, Validity::starting(SystemTime::now(), AGENT_LIFETIME));
    let ca_pem = ours.to_pem();
    let impostors = [
        ("another control plane", shown(forge(&theirs, as_server), &theirs)),
        (
            "another one that shows our authority as well",
            shown(forge(&theirs, as_server), &ours),
        ),
        (
            "another one with both authorities in its chain",
            shown(shown(forge(&theirs, as_server), &theirs), &ours),
        ),
        ("a self-signed one", self_signed(as_server)),
        ("an agent of ours", shown(agent(), &ours)),
        (
            "a certificate of ours for another name",
            shown(
                forge(&ours, |p| {
                    as_server(p);
                    p.subject_alt_names = vec![SanType::DnsName("mesh.example.com".try_into().unwrap())];
                }),
                &ours,
            ),
        ),
        (
            "an expired certificate of ours",
            shown(
                forge(&ours, |p| {
                    as_server(p);
                    p.not_after = p.not_before + Duration::from_secs(1);
                }),
                &ours,
            ),
        ),
        (
            "our authority's own certificate as the server's",
            Credentials {
                chain: vec![ca_der(&ours), ca_der(&ours)],
                key: rcgen::KeyPair::from_pem(&ca_pem.key).unwrap(),
            },
        ),
        ("a good certificate that does not show its authority", forge(&ours, as_server)),
    ];
    for (what, credentials) in &impostors {
        let impostor = Impostor::start(credentials).await;
        let token = JoinToken::generate(ours.spki_sha256()).unwrap();
        let (_dir, store) = store();
        let error = join(&store, &impostor.url().parse().unwrap(), &token, &facts(), &DialOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(&error, JoinError::Dial(DialError::NotTrusted { .. })), "{what}: {error:?}");
        let told = impostor.told().await;
        assert!(told.is_empty(), "{what} was told {} bytes", told.len());
    }
    // The test can fail: the right server is told the secret.
    let right = Impostor::start(&shown(forge(&ours, as_server), &ours)).await;
    let (_dir, store) = store();
    let token = JoinToken::generate(ours.spki_sha256()).unwrap();
    let quick = DialOptions {
        answer_timeout: Duration::from_millis(500),
        ..DialOptions::default()
    };
    let error = join(&store, &right.url().parse().unwrap(), &token, &facts(), &quick)
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::Interrupted(_)), "{error:?}");
    let secret = token.reveal().rsplit('.').next().unwrap().to_owned();
    assert!(String::from_utf8_lossy(&right.told().await).contains(&secret));
}

/// An agent serves nobody but a control plane: another agent's certificate, though of the same authority, cannot be one.
#[tokio::test]
async fn an_agents_certificate_cannot_serve() {
    let control = Control::start().await;
    let credentials = issued(&control.rules.authority, Validity::starting(SystemTime::now(), AGENT_LIFETIME));
    let impostor = Impostor::start(&credentials).await;
    let node = Node::start_at(&control, &[impostor.url()], quick()).await;
    let state = node.state(|s| matches!(s, LinkState::Waiting { .. })).await;
    assert!(
        matches!(&state, LinkState::Waiting { error, .. } if error.contains("not the control plane")),
        "{state:?}"
    );
    assert!(impostor.told().await.is_empty());
}

#[tokio::test]
async fn an_agent_says_why_its_certificate_is_not_accepted() {
    let control = Control::start().await;
    let stranger = Control::start().await;
    let node = Node::start_at(&control, &[stranger.url()], quick()).await;
    let state = node.state(|s| matches!(s, LinkState::Waiting { .. })).await;
    assert!(
        matches!(&state, LinkState::Waiting { error, .. } if error.contains("another authority")),
        "{state:?}"
    );

    // The stranger's listener shows a certificate this node trusts, and trusts other nodes.
    let identity = control
        .rules
        .authority
        .issue_server::<&str>(&[], Validity::starting(SystemTime::now(), AGENT_LIFETIME))
        .unwrap();
    stranger.tls.replace(&identity, &stranger.rules.authority.trust()).unwrap();
    let state = node
        .state(|s| matches!(s, LinkState::Waiting { error, .. } if error.contains("does not accept")))
        .await;
    assert!(
        matches!(&state, LinkState::Waiting { error, .. } if error.contains("join again")),
        "{state:?}"
    );
}

#[tokio::test]
async fn only_tls_13_and_only_our_protocols() {
    let control = Control::start().await;
    let authority = &control.rules.authority;
    for alpn in [&[][..], &[&b"h2"[..], b"http/1.1"][..]] {
        let mut stream = match raw_tls(control.address, authority, alpn, None, &rustls::version::TLS13).await {
            Err(_) => continue,
            Ok(stream) => stream,
        };
        let mut byte = [0];
        let read = support::soon("the end", tokio::io::AsyncReadExt::read(&mut stream, &mut byte)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{alpn:?}");
    }
    let old = raw_tls(control.address, authority, &[b"nm-enrol/1"], None, &rustls::version::TLS12).await;
    assert!(old.is_err());
}

#[tokio::test]
async fn malformed_requests_are_refused_in_words() {
    let control = Control::start().await;
    let (address, authority) = (control.address, &control.rules.authority);
    let csr = NodeKey::generate().unwrap().csr(None).unwrap();
    let fine = serde_json::json!({ "secret": "x", "csr": csr, "facts": facts() });
    let with = |field: &str, value: serde_json::Value| {
        let mut body = fine.clone();
        body[field] = value;
        body.to_string()
    };
    let big = vec![b' '; 80 * 1024];
    let cases: [(&str, &str, Vec<u8>, u16); 10] = [
        ("GET", "/v1/enrol", vec![], 400),
        ("POST", "/", vec![], 404),
        ("POST", "/api/containers", vec![], 404),
        ("POST", "/v1/enrol", b"{".to_vec(), 400),
        ("POST", "/v1/enrol", big, 413),
        ("POST", "/v1/enrol", with("admin", true.into()).into(), 400),
        ("POST", "/v1/enrol", with("csr", "nonsense".into()).into(), 422),
        (
            "POST",
            "/v1/enrol",
            with(
                "facts",
                serde_json::json!({ "hostname": "a\nb", "agentVersion": "1", "os": "l", "arch": "x" }),
            )
            .into(),
            400,
        ),
        ("POST", "/v1/enrol", fine.to_string().into(), 401),
        ("POST", "/v1/renew", serde_json::json!({ "csr": csr }).to_string().into(), 401),
    ];
    for (method, path, body, wanted) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, answer) = raw_enrol(address, authority, None, method, path, &body).await.unwrap();
        assert_eq!(status, wanted, "{method} {path} {shown}: {answer}");
        let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert!(json["code"].is_string() && json["error"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_machine_that_could_not_keep_its_identity_does_not_spend_its_token() {
    let control = Control::start().await;
    let (dir, store) = store();
    // A directory where the file would be written: fails for root as well, whom permissions do not stop.
    std::fs::create_dir(dir.path().join(".agent-identity.json.new")).unwrap();
    let token = control.rules.token();
    let error = join(&store, &control.url().parse().unwrap(), &token, &facts(), &DialOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::Identity(IdentityError::Io { .. })), "{error:?}");
    assert!(matches!(control.rules.tokens.lock().unwrap()[&token.secret_hash()], Token::Fresh));
}
