//! Whose token a call carries, and its renewal.

use super::credentials::{CredentialsFile, Login, Logins};
use super::error::{ClientError, SignedInBy};
use super::{Call, Client};
use nm_types::Timestamp;
use nm_types::auth::SignedIn;
use nm_types::text::SecretText;
use serde_json::json;
use tokio::sync::Mutex;

/// A token that ends sooner than this is renewed before it is used.
const SOON: i64 = 30_000;

/// Where tokens come from.
#[derive(Debug)]
pub enum Credential {
    /// `NEURALMESH_TOKEN`.
    Environment(SecretText),
    /// `--token-file`.
    File(SecretText),
    /// What `login` saved, where it did.
    Saved(CredentialsFile),
    /// Nothing: for logging in.
    None,
}

/// The token of one run of the program.
#[derive(Debug)]
pub struct Session {
    credential: Credential,
    /// The saved login as last read; the outer option tells whether it was read at all.
    login: Mutex<Option<Option<Login>>>,
}

/// Now, by this machine's clock.
pub fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

impl Session {
    pub(super) fn new(credential: Credential) -> Self {
        Self {
            credential,
            login: Mutex::new(None),
        }
    }

    pub fn origin(&self) -> SignedInBy {
        match self.credential {
            Credential::Environment(_) => SignedInBy::Environment,
            Credential::File(_) => SignedInBy::File,
            Credential::Saved(_) => SignedInBy::Login,
            Credential::None => SignedInBy::Nothing,
        }
    }

    /// The token to send now; `None` where there is none.
    pub(super) async fn token(&self, client: &Client) -> Result<Option<String>, ClientError> {
        let file = match &self.credential {
            Credential::Environment(token) | Credential::File(token) => return Ok(Some(token.expose().to_owned())),
            Credential::None => return Ok(None),
            Credential::Saved(file) => file,
        };
        let mut held = self.login.lock().await;
        let login = match &*held {
            Some(login) => login.clone(),
            None => file.read()?.servers.remove(&client.server.to_string()),
        };
        let login = match login {
            Some(login) if login.access_expires.since(now()) < SOON => refresh(client, file, &login.access_token).await?,
            other => other,
        };
        let token = login.as_ref().map(|l| l.access_token.clone());
        *held = Some(login);
        Ok(token)
    }

    /// A token in place of `refused`, which the server no longer takes; `None` where there is no other.
    pub(super) async fn renew(&self, client: &Client, refused: &str) -> Result<Option<String>, ClientError> {
        let Credential::Saved(file) = &self.credential else {
            return Ok(None);
        };
        let mut held = self.login.lock().await;
        match &*held {
            // Another task of ours was quicker.
            Some(Some(login)) if login.access_token != refused => return Ok(Some(login.access_token.clone())),
            Some(Some(_)) => {}
            _ => return Ok(None),
        }
        let login = refresh(client, file, refused).await?;
        let token = login.as_ref().map(|l| l.access_token.clone());
        *held = Some(login);
        Ok(token.filter(|token| token != refused))
    }
}

/// Spends the refresh token, unless another process has done so since: then takes what it got.
async fn refresh(client: &Client, file: &CredentialsFile, stale: &str) -> Result<Option<Login>, ClientError> {
    let server = client.server.to_string();
    let locking = file.clone();
    // Another process may hold it while it waits for the server.
    let lock = match tokio::task::spawn_blocking(move || locking.lock()).await {
        Ok(lock) => lock?,
        Err(e) => {
            return Err(ClientError::Broken {
                server,
                reason: e.to_string(),
            });
        }
    };
    let mut logins: Logins = file.read()?;
    let login = match logins.servers.get(&server) {
        None => return Err(ClientError::LoginEnded { server }),
        Some(login) if login.access_token != stale && login.access_expires.since(now()) >= SOON => return Ok(Some(login.clone())),
        Some(login) => login.clone(),
    };
    let call = Call::post(&["auth", "refresh"]).anonymous();
    let call = call
        .json(&json!({ "refreshToken": login.refresh_token }))
        .map_err(|source| ClientError::Shape {
            server: server.clone(),
            source,
        })?;
    // Boxed, for a call is what got here.
    match Box::pin(client.fetch::<SignedIn>(call)).await {
        Ok(signed_in) => {
            let login = Login::new(signed_in.value, now());
            logins.servers.insert(server, login.clone());
            file.write(&lock, &logins)?;
            Ok(Some(login))
        }
        Err(e) if e.status() == Some(401) => {
            logins.servers.remove(&server);
            file.write(&lock, &logins)?;
            Err(ClientError::LoginEnded { server })
        }
        Err(e) => Err(e),
    }
}
