//! One attempt to get a certificate: from the account to the chain, or to the reason why there is none.

use super::client::{Client, innermost};
use super::rows::{Asked, Got, Held, OpenOrder, account_id, hmac_key, said};
use super::{Written, readable};
use crate::api::error::{ApiError, ApiResult};
use crate::service::clusters::seen::{Taken, event};
use crate::service::clusters::{ClusterRow, Clusters, tls};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use nm_plan::cluster::{Challenges, KeyPair, again_in, renew_at};
use nm_store::{Kind, NewClusterEvent, NewResource, Secret, StoreError};
use nm_types::cluster::ClusterEventKind;
use nm_types::proxy::Protocol;
use nm_types::{ClusterId, NodeId, Timestamp};
use rcgen::{CertificateParams, DistinguishedName};
use serde_json::json;
use std::time::Duration;

/// For entry nodes to take the answers to challenges.
const TAKE: Duration = Duration::from_secs(30);
/// For a server to look at the answers, and to sign.
const LOOK: Duration = Duration::from_secs(90);
/// For everything together.
const ATTEMPT: Duration = Duration::from_secs(300);
/// How often it is gone on with where the server took none of three nonces.
const NONCES: usize = 5;

/// Why an attempt ended without a certificate.
enum Ended {
    /// It is tried again; `order` says whether with the same order.
    Failed { reason: String, keep_order: bool },
    /// The server knows the account no more.
    NoAccount,
    /// The server wants another nonce, again and again. It may do so at any time, and means nothing by it.
    Nonces,
    /// Nobody asks for it any more.
    Unwanted,
    /// Our own store, and no fault of the server's.
    Store(ApiError),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self::Store(error)
    }
}
impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}
impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) if of_kind(&problem, "accountDoesNotExist") => Self::NoAccount,
            Error::Api(problem) if of_kind(&problem, "badNonce") => Self::Nonces,
            Error::Api(problem) => failed(says(&problem)),
            // It may be there with the next attempt, and the order with it.
            Error::Timeout(_) => passing("the ACME server is not done with it yet"),
            Error::Json(_) => passing("the ACME server's answer can't be read: is the directory's URL right?"),
            other => passing(innermost(&other)),
        }
    }
}

fn failed(reason: impl Into<String>) -> Ended {
    Ended::Failed {
        reason: reason.into(),
        keep_order: false,
    }
}
fn passing(reason: impl Into<String>) -> Ended {
    Ended::Failed {
        reason: reason.into(),
        keep_order: true,
    }
}

fn of_kind(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().is_some_and(|t| t.rsplit(':').next() == Some(kind))
}

/// What a server says is the matter, in its own words.
fn says(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().and_then(|t| t.rsplit(':').next()).unwrap_or("error");
    let detail = problem.detail.as_deref().unwrap_or("it says no more");
    let parts = problem.subproblems.iter().map(|p| format!("; {}", innermost_of(p)));
    let whole = format!("the ACME server says {kind}: {detail}{}", parts.collect::<String>());
    readable(&whole, 1000)
}

fn innermost_of(part: &instant_acme::Subproblem) -> String {
    let detail = part.detail.as_deref().unwrap_or_default();
    match &part.identifier {
        Some(Identifier::Dns(name)) => format!("{name}: {detail}"),
        Some(_) | None => detail.to_owned(),
    }
}

impl Clusters {
    /// Gets a certificate for a cluster, and writes what came of it. An error is the store's, and worth another look soon.
    pub async fn get_certificate(&self, id: &ClusterId) -> ApiResult<()> {
        let Some(row) = self.row(id) else { return Ok(()) };
        let Some(asked) = Asked::of(&row) else { return Ok(()) };
        let client = match Client::new(&self.guard, asked.acme.ca_certificate.as_ref().map(|c| c.as_str())) {
            Ok(client) => client,
            Err(reason) => return self.certificate_failed(id, &asked, reason, true, None).await,
        };
        let (mut new_account, mut nonces) = (false, 0);
        let ended = loop {
            match self.attempt_in_time(&row, &asked, &client).await {
                // A private server that was set up anew: so is the account, once.
                Err(Ended::NoAccount) if !new_account => {
                    tracing::info!(cluster.id = %id, "the ACME server knows our account no more; a new one is made");
                    self.forget_account(&asked.account).await?;
                    new_account = true;
                }
                Err(Ended::Nonces) if nonces < NONCES => nonces += 1,
                ended => break ended,
            }
        };
        let (reason, keep_order) = match ended {
            Ok(()) | Err(Ended::Unwanted) => return Ok(()),
            Err(Ended::Store(error)) => return Err(error),
            Err(Ended::NoAccount) => ("the ACME server does not know the account that it has just made".into(), false),
            Err(Ended::Nonces) => ("the ACME server takes none of the nonces that it gives".into(), true),
            Err(Ended::Failed { reason, keep_order }) => (reason, keep_order),
        };
        self.certificate_failed(id, &asked, reason, keep_order, client.asked_to_wait())
            .await
    }

    async fn attempt_in_time(&self, row: &ClusterRow, asked: &Asked, client: &Client) -> Result<(), Ended> {
        match tokio::time::timeout(ATTEMPT, self.attempt(row, asked, client)).await {
            Ok(ended) => ended,
            Err(_) => Err(passing("it took longer than five minutes")),
        }
    }

    async fn certificate_failed(
        &self,
        id: &ClusterId,
        asked: &Asked,
        reason: String,
        keep_order: bool,
        wait: Option<Duration>,
    ) -> ApiResult<()> {
        let (now, chance) = (self.clock.now(), chance());
        let wait = wait.and_then(|w| i64::try_from(w.as_millis()).ok());
        let told = event(id, ClusterEventKind::CertificateFailed, reason.clone());
        tracing::info!(cluster.id = %id, reason, "no certificate was got from the ACME server; it is tried again");
        self.write_certificate(id, |state, secrets| {
            match &mut state.order {
                // Nobody is to be answered until it is tried again.
                Some(order) if keep_order => order.challenges.clear(),
                _ => (state.order, secrets.order_key) = (None, None),
            }
            state.failures = state.failures.saturating_add(1);
            state.last_error = Some(reason);
            let again = now.plus_millis(again_in(state.failures, chance, wait));
            state.next_attempt = Some(again);
            state.tried_for = asked.digest.clone();
            state.held = wait.map(|_| Held {
                account: asked.account.clone(),
                until: again,
            });
            Some(told)
        })
        .await?;
        Ok(())
    }

    async fn attempt(&self, row: &ClusterRow, asked: &Asked, client: &Client) -> Result<(), Ended> {
        let account = self.account(row, asked, client).await?;
        let mut order = self.order(&row.id, asked, &account).await?;
        if order.state().status == OrderStatus::Pending {
            self.prove(row, &mut order).await?;
            match order.poll_ready(&RetryPolicy::new().timeout(LOOK)).await {
                Ok(OrderStatus::Invalid) => return Err(failed(why_invalid(&mut order, None).await)),
                Ok(_) => {}
                // The order says that it failed, its authorizations why.
                Err(Error::Api(problem)) if order.state().status == OrderStatus::Invalid => {
                    return Err(failed(why_invalid(&mut order, Some(problem)).await));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if order.state().status == OrderStatus::Ready {
            let csr = self.request(&row.id, asked).await?;
            order.finalize_csr(&csr).await?;
        }
        let chain = order.poll_certificate(&RetryPolicy::new().timeout(LOOK)).await?;
        self.install(&row.id, asked, chain).await
    }

    /// The account that the server knows us by; made when it is first needed.
    async fn account(&self, row: &ClusterRow, asked: &Asked, client: &Client) -> Result<Account, Ended> {
        let _one = self.acme.accounts.hold(asked.account.clone()).await;
        let id = account_id(&asked.account);
        let builder = || Account::builder_with_http(Box::new(client.clone()));
        if let Some(held) = self.store.get(Kind::Setting, &id).await?
            && let Some(secret) = self.store.open_sealed(&held).await?
        {
            return Ok(builder().from_credentials(secret.parse()?).await?);
        }
        let contact = asked.acme.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: asked.acme.terms_of_service_agreed,
            only_return_existing: false,
        };
        let binding = match (&asked.acme.external_account, &row.secrets.external_key) {
            (Some(external), Some(key)) => Some(ExternalAccountKey::new(external.key_id.to_string(), &hmac_key(key)?)),
            (Some(_), None) | (None, _) => None,
        };
        let (account, credentials): (Account, AccountCredentials) =
            builder().create(&new, asked.wish.directory.clone(), binding.as_ref()).await?;
        let mut tx = self.store.begin(self.clock.now()).await?;
        let row = NewResource::new(Kind::Setting, id)
            .spec(&json!({ "directory": asked.wish.directory, "email": asked.acme.email }))?
            .secret(Secret::json(&credentials)?);
        tx.put(row).await?;
        tx.commit().await?;
        Ok(account)
    }

    async fn forget_account(&self, account: &str) -> ApiResult<()> {
        let mut tx = self.store.begin(self.clock.now()).await?;
        match tx.delete(Kind::Setting, &account_id(account)).await {
            Ok(_) => tx.commit().await.map(drop).map_err(Into::into),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The order that is under way, where it still leads somewhere, or a new one. It is in the store before anything is done for it.
    async fn order(&self, id: &ClusterId, asked: &Asked, account: &Account) -> Result<Order, Ended> {
        let held = self.acme.get(id).unwrap_or_default();
        let open = held.state.order.as_ref();
        if let Some(open) = open.filter(|o| o.wish == asked.wish && o.account == asked.account) {
            match account.order(open.url.clone()).await {
                Ok(mut order) => {
                    let leads = match order.state().status {
                        OrderStatus::Pending | OrderStatus::Ready => true,
                        // What was signed is of use only with its key.
                        OrderStatus::Processing | OrderStatus::Valid => held.secrets.order_key.is_some(),
                        OrderStatus::Invalid => false,
                    };
                    if leads {
                        return Ok(order);
                    }
                }
                // It is gone, or never was.
                Err(Error::Api(problem))
                    if !["accountDoesNotExist", "badNonce", "rateLimited"]
                        .iter()
                        .any(|k| of_kind(&problem, k)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let names: Vec<Identifier> = asked.wish.names.iter().cloned().map(Identifier::Dns).collect();
        let order = account.new_order(&NewOrder::new(&names)).await?;
        let open = OpenOrder {
            url: order.url().to_owned(),
            wish: asked.wish.clone(),
            account: asked.account.clone(),
            challenges: Challenges::new(),
        };
        let written = self.write_certificate(id, |state, secrets| {
            (state.order, secrets.order_key) = (Some(open), None);
            None
        });
        match written.await? {
            Written::Yes => Ok(order),
            Written::Unwanted => Err(Ended::Unwanted),
        }
    }

    /// Has the entry nodes answer the challenges, and then tells the server to look.
    async fn prove(&self, row: &ClusterRow, order: &mut Order) -> Result<(), Ended> {
        let mut answers = Challenges::new();
        let mut names = order.authorizations();
        while let Some(name) = names.next().await {
            let mut name = name?;
            match name.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => return Err(failed(format!("the ACME server calls the order's authorization {status:?}"))),
            }
            let about = name.identifier().to_string();
            let Some(challenge) = name.challenge(ChallengeType::Http01) else {
                return Err(failed(format!(
                    "the ACME server offers no challenge by HTTP for {about}, and no other one is answered here"
                )));
            };
            let token = challenge.token.clone();
            // It goes into the nodes' documents, and an odd one would spoil them.
            if token.is_empty() || token.len() > 256 || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
                return Err(failed("the ACME server's challenge has a token that is none"));
            }
            answers.insert(token, challenge.key_authorization().as_str().to_owned());
        }
        let written = self.write_certificate(&row.id, |state, _| {
            if let Some(order) = &mut state.order {
                order.challenges = answers;
            }
            None
        });
        if written.await? == Written::Unwanted {
            return Err(Ended::Unwanted);
        }
        self.answered_everywhere(&row.id).await?;
        let mut names = order.authorizations();
        while let Some(name) = names.next().await {
            let mut name = name?;
            if name.status != AuthorizationStatus::Pending {
                continue;
            }
            if let Some(mut challenge) = name.challenge(ChallengeType::Http01)
                && challenge.status == ChallengeStatus::Pending
            {
                match challenge.set_ready().await {
                    // It had been told before we were restarted, and has looked meanwhile: the order says what it saw.
                    Err(Error::Api(problem)) if of_kind(&problem, "malformed") => {
                        tracing::debug!(reason = says(&problem), "the ACME server was told to look before");
                    }
                    told => told?,
                }
            }
        }
        Ok(())
    }

    /// Waits until every entry node that is connected holds the answers.
    async fn answered_everywhere(&self, id: &ClusterId) -> Result<(), Ended> {
        self.assemble().await?;
        let mut changes = self.sights.changes();
        let taken = async {
            loop {
                changes.mark_unchanged();
                let Some(row) = self.row(id) else { return Err(Ended::Unwanted) };
                let connected: Vec<&NodeId> = row.stored.entries.iter().filter(|n| self.fleet.is_connected(n)).collect();
                if connected.is_empty() {
                    return Err(passing("no entry node is connected that could answer the ACME server"));
                }
                let mut waiting = false;
                for node in connected {
                    waiting |= !self.holds_answers(node)?;
                }
                if !waiting || changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(TAKE, taken).await {
            Ok(ended) => ended,
            Err(_) => Err(passing(
                "an entry node did not take the answer to the ACME server within 30 seconds",
            )),
        }
    }

    /// Whether a node carries the document that it is to have, which has the answers in it.
    fn holds_answers(&self, node: &NodeId) -> Result<bool, Ended> {
        let wanted = self.wanted_of(node).and_then(|w| w.borrow().clone());
        let Some(wanted) = wanted else { return Ok(false) };
        let (name, port) = (self.nodes.name(node), self.acme.port());
        let in_clear = |l: &nm_types::proxy::Listener| l.protocol == Protocol::Http && l.tls.is_none();
        if wanted.proxy.listeners.iter().any(|l| l.port == port && !in_clear(l)) {
            return Err(passing(format!(
                "the ACME server looks at port {port}, and on entry node {name} a cluster listens there with TLS or for TCP: move it to \
                 another port"
            )));
        }
        if self.edges.is_taken(node, port) {
            return Err(passing(format!(
                "the ACME server looks at port {port}, which is in use by another program of entry node {name}: end that one, or have it listen \
                 elsewhere"
            )));
        }
        match self.taken(node) {
            Taken::NotYet => Ok(false),
            Taken::Refused(problem) => Err(passing(format!(
                "the ACME server looks at port {port}, and entry node {name} can't answer there: {problem}"
            ))),
            Taken::Carried { runs } => Ok(runs),
        }
    }

    /// What is to be signed. Its key is sealed in the store first; the nodes need answer nobody any more.
    async fn request(&self, id: &ClusterId, asked: &Asked) -> Result<Vec<u8>, Ended> {
        let held = self.acme.get(id).and_then(|c| c.secrets.order_key.clone());
        let key = match held {
            Some(pem) => rcgen::KeyPair::from_pem(&pem),
            None => rcgen::KeyPair::generate(),
        };
        let made = key.and_then(|key| {
            let mut params = CertificateParams::new(asked.wish.names.clone())?;
            params.distinguished_name = DistinguishedName::new();
            let csr = params.serialize_request(&key)?.der().to_vec();
            Ok((csr, key.serialize_pem()))
        });
        let (csr, pem) = made.map_err(|error| failed(format!("no request for these names can be made: {error}")))?;
        let written = self.write_certificate(id, |state, secrets| {
            secrets.order_key = Some(pem);
            if let Some(order) = &mut state.order {
                order.challenges.clear();
            }
            None
        });
        match written.await? {
            Written::Yes => Ok(csr),
            Written::Unwanted => Err(Ended::Unwanted),
        }
    }

    /// Puts what the server signed into force.
    async fn install(&self, id: &ClusterId, asked: &Asked, chain: String) -> Result<(), Ended> {
        let Some(key) = self.acme.get(id).and_then(|c| c.secrets.order_key.clone()) else {
            return Err(failed("the key of what the ACME server signed is gone"));
        };
        let pair = KeyPair { certificate: chain, key };
        let Some(said) = tls::judge(&pair).ok().and_then(|()| said(&pair.certificate)) else {
            return Err(failed("what the ACME server gave is no certificate for our key"));
        };
        let now = self.clock.now();
        let got = Got {
            wish: asked.wish.clone(),
            not_after: said.not_after,
            issuer: said.issuer.clone(),
            renew_at: renew_at(said.not_before, said.not_after, now),
        };
        let names = asked.wish.names.join(", ");
        let by = said.issuer.map(|issuer| format!(" by {issuer}")).unwrap_or_default();
        let told = format!("for {names}, signed{by}, until {}; renewed at {}", got.not_after, got.renew_at);
        let written = self.write_certificate(id, |state, secrets| {
            let kind = match state.got {
                None => ClusterEventKind::CertificateIssued,
                Some(_) => ClusterEventKind::CertificateRenewed,
            };
            (secrets.certificate, secrets.key, secrets.order_key) = (Some(pair.certificate), Some(pair.key), None);
            (state.got, state.order, state.failures) = (Some(got), None, 0);
            (state.last_error, state.next_attempt, state.held) = (None, None, None);
            Some(NewClusterEvent {
                at: Timestamp(0),
                ..event(id, kind, told)
            })
        });
        match written.await? {
            Written::Yes => {
                tracing::info!(cluster.id = %id, names, "a certificate came from the ACME server");
                Ok(self.assemble().await?)
            }
            Written::Unwanted => Err(Ended::Unwanted),
        }
    }
}

/// Why an order came to nothing: what the server says of each name.
async fn why_invalid(order: &mut Order, problem: Option<Problem>) -> String {
    let mut said = Vec::new();
    // The authorizations as they are now, not as they were when the order was opened.
    let mut names = order.authorizations();
    while let Some(Ok(mut name)) = names.next().await {
        let about = name.identifier().to_string();
        let Ok(state) = name.refresh().await else { continue };
        let problems = state.challenges.iter().filter_map(|c| c.error.as_ref());
        said.extend(problems.map(|p| format!("{about}: {}", says(p))));
    }
    if said.is_empty() {
        return problem.map_or_else(
            || "the ACME server calls the order invalid, and does not say why".into(),
            |p| says(&p),
        );
    }
    readable(&said.join("; "), 2000)
}

/// Of 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0u8; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        // No more than that those who failed together come again together.
        Err(_) => 0.5,
    }
}
