//! Sending requests to one node.

use super::Peer;
use super::links::{CloseReason, LinkId};
use crate::error::LinkError;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::SendRequest;
use nm_types::NodeId;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type LinkBody = UnsyncBoxBody<Bytes, BoxError>;

/// One connection of one node. Cheap to clone; it stays bound to its connection, and is of no use once that has ended.
#[derive(Clone)]
pub struct LinkHandle {
    pub(super) id: LinkId,
    pub(super) peer: Arc<Peer>,
    pub(super) since: SystemTime,
    pub(super) sender: SendRequest<LinkBody>,
    pub(super) closed: watch::Receiver<Option<CloseReason>>,
}

impl LinkHandle {
    pub fn id(&self) -> LinkId {
        self.id
    }

    pub fn node(&self) -> &NodeId {
        &self.peer.node
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// When the node was admitted.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Whether new requests can be sent.
    pub fn is_open(&self) -> bool {
        self.closed.borrow().is_none() && !self.sender.is_closed()
    }

    /// Waits until the link takes no new requests, and says why.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or(CloseReason::Lost),
            // The task that watched over the connection is gone without a word.
            Err(_) => CloseReason::Lost,
        }
    }

    /// Sends a request and waits for the head of its response. Both bodies are streams, each with flow control of its own; the
    /// response's ends with an error if the link breaks. There is no deadline but the link's own life: a peer that has died is
    /// noticed by its pings. Dropping the future, or the response's body, tells the node to stop.
    ///
    /// Only the URI's path and query matter; scheme and authority are set to the node's.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, LinkError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(self.authority());
        uri.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(uri).expect("scheme, authority and path are all there, which is all that is checked");
        head.version = http::Version::HTTP_2;
        crate::trace::hand_over(&mut head.headers);
        let body = body.map_err(Into::into).boxed_unsync();
        let sent = self.sender.clone().try_send_request(Request::from_parts(head, body)).await;
        sent.map_err(|mut error| {
            let returned = error.take_message().is_some();
            LinkError::from_hyper(self.node().clone(), returned, error.into_error())
        })
    }

    /// As [`Self::send`], with a deadline for the head of the response. The body's own pace is the reader's affair.
    pub async fn send_within<B>(&self, request: Request<B>, deadline: Duration) -> Result<Response<Incoming>, LinkError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match tokio::time::timeout(deadline, self.send(request)).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(LinkError::Timeout {
                node: self.node().clone(),
                after: deadline,
            }),
        }
    }

    fn authority(&self) -> Authority {
        self.node()
            .as_str()
            .parse()
            .expect("a node's id is letters, digits and underscores, which an authority may hold")
    }
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkHandle")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("closed", &*self.closed.borrow())
            .finish()
    }
}
