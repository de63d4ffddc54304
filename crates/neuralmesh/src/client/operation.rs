//! Work that outlasts a request: following it to its end.

use super::{Call, Client, ClientError, Fetched};
use http::StatusCode;
use nm_types::operation::{OperationState, OperationView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::time::Duration;

/// How often a broken stream is opened again without a word from the server in between.
const REOPENINGS: u32 = 5;

/// Who is told of an operation's progress.
pub trait Watch {
    /// Called at the beginning and at each change.
    fn update(&mut self, operation: &OperationView);
}

/// How far a call got.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is done, within the time that the server waits.
    Done(Fetched<T>),
    /// It went on as an operation, which has succeeded.
    Ended(Box<Fetched<OperationView>>),
    /// It goes on; nobody waits.
    Begun(Box<Fetched<OperationView>>),
}

/// An operation's result as the server wrote it.
#[derive(Deserialize)]
struct RawResult {
    #[serde(default)]
    result: Option<Box<RawValue>>,
}

impl Client {
    /// A call that may turn into an operation. Waits for the operation's end when `wait`; that it failed or was cancelled is
    /// an error.
    pub async fn submit<T: DeserializeOwned>(&self, call: Call, wait: bool, watch: &mut dyn Watch) -> Result<Outcome<T>, ClientError> {
        let answer = self.exchange(&call).await?;
        if answer.status != StatusCode::ACCEPTED {
            return Ok(Outcome::Done(self.fetched(answer)?));
        }
        let begun: Fetched<OperationView> = self.fetched(answer)?;
        if !wait {
            return Ok(Outcome::Begun(Box::new(begun)));
        }
        watch.update(&begun.value);
        let last = if begun.value.state.is_final() {
            begun
        } else {
            self.follow(begun.value.id.as_str(), watch).await?
        };
        succeeded(last).map(|operation| Outcome::Ended(Box::new(operation)))
    }

    /// Follows an operation to its end, whatever that is.
    pub async fn follow(&self, id: &str, watch: &mut dyn Watch) -> Result<Fetched<OperationView>, ClientError> {
        let call = Call::get(&["operations", id]).query("follow", true);
        let mut broken = 0;
        loop {
            let gone = match self.events(call.clone(), None).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Ok(Some(message)) if message.event == "operation" => {
                            broken = 0;
                            let raw = RawValue::from_string(message.data).map_err(|source| self.shape(source))?;
                            let operation: OperationView = self.read(&raw)?;
                            watch.update(&operation);
                            if operation.state.is_final() {
                                return Ok(Fetched {
                                    value: operation,
                                    raw,
                                    etag: None,
                                });
                            }
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => break None,
                        Err(e) => break Some(e),
                    }
                },
                Err(e @ (ClientError::Broken { .. } | ClientError::Unreachable { .. } | ClientError::Timeout { .. })) => Some(e),
                Err(e) => return Err(e),
            };
            broken += 1;
            if broken > REOPENINGS {
                return Err(gone.unwrap_or_else(|| ClientError::Broken {
                    server: self.server.to_string(),
                    reason: "the stream of the operation ends before the operation".to_owned(),
                }));
            }
            tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(broken - 1)).await;
        }
    }

    /// The result of an operation that has succeeded.
    pub fn result<T: DeserializeOwned>(&self, operation: &Fetched<OperationView>) -> Result<Fetched<T>, ClientError> {
        let result: RawResult = self.read(&operation.raw)?;
        let raw = match result.result {
            Some(raw) => raw,
            None => RawValue::from_string("null".to_owned()).map_err(|source| self.shape(source))?,
        };
        Ok(Fetched {
            value: self.read(&raw)?,
            raw,
            etag: None,
        })
    }

    fn shape(&self, source: serde_json::Error) -> ClientError {
        ClientError::Shape {
            server: self.server.to_string(),
            source,
        }
    }
}

/// An operation that has ended, when it has ended well.
pub fn succeeded(operation: Fetched<OperationView>) -> Result<Fetched<OperationView>, ClientError> {
    let id = operation.value.id.to_string();
    match (operation.value.state, &operation.value.error) {
        (OperationState::Cancelled, _) => Err(ClientError::Cancelled { id }),
        (_, Some(error)) => Err(ClientError::Operation {
            id,
            error: Box::new(error.clone()),
        }),
        (OperationState::Pending | OperationState::Running | OperationState::Succeeded | OperationState::Failed, None) => Ok(operation),
    }
}
