//! A control plane: the listener with a gate whose rules the test sets.

use super::soon;
use nm_link::pki::{AGENT_LIFETIME, Authority, Csr, SERVER_LIFETIME, TrustBundle, Validity};
use nm_link::server::{Gate, Joining, LinkChange, LinkEvent, LinkHandle, Links, Peer, ServerOptions, serve};
use nm_link::{EnrolReply, JoinToken, Refusal, RefusalCode, ServerTls};
use nm_types::NodeId;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub enum Token {
    Fresh,
    Used,
    Expired,
}

/// The rules, as a control plane's database would hold them.
pub struct Rules {
    pub authority: Authority,
    /// The authority that has taken its place.
    pub successor: Mutex<Option<Arc<Authority>>>,
    pub trust: Mutex<TrustBundle>,
    pub tokens: Mutex<HashMap<String, Token>>,
    pub revoked: Mutex<HashSet<NodeId>>,
    pub lifetime: Mutex<Duration>,
    pub may_renew: Mutex<bool>,
    /// When set, every admission takes a permit, after its verdict has been found.
    pub hold_admissions: Mutex<Option<Arc<Semaphore>>>,
    pub admissions: Semaphore,
    pub joined: Mutex<Vec<(String, SocketAddr)>>,
}

impl Rules {
    pub fn new() -> Arc<Self> {
        let authority = Authority::generate(SystemTime::now()).unwrap();
        Arc::new(Self {
            trust: Mutex::new(authority.trust()),
            authority,
            successor: Mutex::default(),
            tokens: Mutex::default(),
            revoked: Mutex::default(),
            lifetime: Mutex::new(AGENT_LIFETIME),
            may_renew: Mutex::new(true),
            hold_admissions: Mutex::default(),
            admissions: Semaphore::new(0),
            joined: Mutex::default(),
        })
    }

    pub fn token(&self) -> JoinToken {
        let successor = self.successor.lock().unwrap().clone();
        self.token_for(successor.as_deref().unwrap_or(&self.authority))
    }

    /// A token of this authority.
    pub fn token_for(&self, authority: &Authority) -> JoinToken {
        let token = JoinToken::generate(authority.spki_sha256()).unwrap();
        self.tokens.lock().unwrap().insert(token.secret_hash(), Token::Fresh);
        token
    }

    fn issue(&self, csr: &Csr, node: NodeId) -> Result<EnrolReply, Refusal> {
        let validity = Validity::starting(SystemTime::now(), *self.lifetime.lock().unwrap());
        let successor = self.successor.lock().unwrap().clone();
        let issued = successor
            .as_deref()
            .unwrap_or(&self.authority)
            .issue_agent(csr, &node, validity)
            .map_err(|e| Refusal::new(RefusalCode::CsrRefused, e.to_string()))?;
        Ok(EnrolReply {
            node_id: node,
            certificate: issued.pem,
            ca_certificates: self.trust.lock().unwrap().to_pem(),
        })
    }
}

impl Gate for Rules {
    async fn admit(&self, peer: &Peer) -> Result<(), Refusal> {
        let revoked = self.revoked.lock().unwrap().contains(&peer.node);
        self.admissions.add_permits(1);
        let hold = self.hold_admissions.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.acquire().await.unwrap().forget();
        }
        if revoked {
            Err(Refusal::new(RefusalCode::Revoked, "this node was revoked"))
        } else {
            Ok(())
        }
    }

    async fn enrol(&self, joining: Joining) -> Result<EnrolReply, Refusal> {
        match self.tokens.lock().unwrap().get_mut(&joining.secret.hash()) {
            None => return Err(Refusal::new(RefusalCode::TokenUnknown, "no such join token")),
            Some(Token::Used) => {
                return Err(Refusal::new(
                    RefusalCode::TokenUsed,
                    "this join token has been used; make a new one",
                ));
            }
            Some(Token::Expired) => {
                return Err(Refusal::new(
                    RefusalCode::TokenExpired,
                    "this join token has expired; make a new one",
                ));
            }
            Some(token @ Token::Fresh) => *token = Token::Used,
        }
        self.joined.lock().unwrap().push((joining.facts.hostname.clone(), joining.address));
        self.issue(&joining.csr, NodeId::fresh(1_770_000_000_000))
    }

    async fn renew(&self, peer: &Peer, csr: Csr) -> Result<EnrolReply, Refusal> {
        if !*self.may_renew.lock().unwrap() {
            return Err(Refusal::new(RefusalCode::Unavailable, "not now"));
        }
        self.issue(&csr, peer.node.clone())
    }
}

pub struct Control {
    pub rules: Arc<Rules>,
    pub links: Links,
    pub address: SocketAddr,
    pub tls: Arc<ServerTls>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Control {
    pub async fn start() -> Self {
        Self::start_with(Rules::new(), ServerOptions::default(), None).await
    }

    pub async fn start_with(rules: Arc<Rules>, options: ServerOptions, address: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let identity = rules
            .authority
            .issue_server::<&str>(&[], Validity::starting(SystemTime::now(), SERVER_LIFETIME))
            .unwrap();
        let tls = Arc::new(ServerTls::new(&identity, &rules.trust.lock().unwrap()).unwrap());
        let (links, stop) = (Links::new(), CancellationToken::new());
        let task = tokio::spawn(serve(listener, tls.clone(), rules.clone(), links.clone(), options, stop.clone()));
        Self {
            rules,
            links,
            address,
            tls,
            stop,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub async fn stop(self) -> Arc<Rules> {
        self.stop.cancel();
        soon("the control plane stops", self.task).await.unwrap();
        self.rules
    }

    /// The node's link, as soon as there is one.
    pub async fn linked(&self, node: &NodeId) -> LinkHandle {
        let mut events = self.links.events();
        soon("the node is linked", async {
            loop {
                if let Some(handle) = self.links.get(node) {
                    return handle;
                }
                events.recv().await.unwrap();
            }
        })
        .await
    }

    /// The one agent's link that there is, or will be.
    pub async fn any_link(&self) -> LinkHandle {
        let mut events = self.links.events();
        soon("a node is linked", async {
            loop {
                if let Some(handle) = self.links.connected().pop() {
                    return handle;
                }
                events.recv().await.unwrap();
            }
        })
        .await
    }
}

pub async fn next_event(events: &mut broadcast::Receiver<LinkEvent>) -> LinkEvent {
    soon("an event", events.recv()).await.unwrap()
}

pub async fn next_change(events: &mut broadcast::Receiver<LinkEvent>) -> LinkChange {
    next_event(events).await.change
}
