//! A control plane that knows nothing: one machine may join it, and what is asked of it on loopback is asked of that machine's agent.
//! e2e/edge.py speaks with a real agent through it, in the agent's own words.
//!
//!     stand_in AGENTS API        prints the join token once it listens on both addresses

use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nm_link::pki::{AGENT_LIFETIME, Authority, Csr, SERVER_LIFETIME, Validity};
use nm_link::server::{Gate, Joining, Links, Peer, ServerOptions, serve};
use nm_link::{EnrolReply, JoinToken, Refusal, RefusalCode, ServerTls};
use nm_types::NodeId;
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// Whoever has the token may join, and whoever has joined may come.
struct Open(Authority);

impl Open {
    fn issue(&self, csr: &Csr, node: NodeId) -> Result<EnrolReply, Refusal> {
        let validity = Validity::starting(SystemTime::now(), AGENT_LIFETIME);
        let refused = |e: &dyn Error| Refusal::new(RefusalCode::CsrRefused, e.to_string());
        let issued = self.0.issue_agent(csr, &node, validity).map_err(|e| refused(&e))?;
        Ok(EnrolReply {
            node_id: node,
            certificate: issued.pem,
            ca_certificates: self.0.trust().to_pem(),
        })
    }
}

impl Gate for Open {
    async fn admit(&self, _peer: &Peer) -> Result<(), Refusal> {
        Ok(())
    }
    async fn enrol(&self, joining: Joining) -> Result<EnrolReply, Refusal> {
        self.issue(&joining.csr, NodeId::fresh(1_770_000_000_000))
    }
    async fn renew(&self, peer: &Peer, csr: Csr) -> Result<EnrolReply, Refusal> {
        self.issue(&csr, peer.node.clone())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut listen = async || TcpListener::bind(arguments.next().unwrap_or_default()).await;
    let (agents, api) = (listen().await?, listen().await?);
    let authority = Authority::generate(SystemTime::now())?;
    let identity = authority.issue_server::<&str>(&[], Validity::starting(SystemTime::now(), SERVER_LIFETIME))?;
    let tls = Arc::new(ServerTls::new(&identity, &authority.trust())?);
    println!("{}", *JoinToken::generate(authority.spki_sha256())?.reveal());
    let links = Links::new();
    tokio::spawn(serve(
        agents,
        tls,
        Open(authority),
        links.clone(),
        ServerOptions::default(),
        CancellationToken::new(),
    ));
    loop {
        let (stream, _) = api.accept().await?;
        let links = links.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| pass_on(links.clone(), request));
            // A connection that breaks concerns only who broke it.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn pass_on(links: Links, mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    // Headers of the one hop to here have no place in HTTP/2.
    request.headers_mut().clear();
    let Some(link) = links.connected().pop() else {
        return Ok(say(StatusCode::SERVICE_UNAVAILABLE, "no agent is linked"));
    };
    Ok(match link.send(request).await {
        Ok(answer) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(error) => say(StatusCode::BAD_GATEWAY, &error.to_string()),
    })
}

fn say(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}
