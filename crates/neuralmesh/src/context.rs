//! What a client command works with, put together from options, environment and the saved login.

use crate::cli::ClientArgs;
use crate::client::credentials::CredentialsFile;
use crate::client::{Client, Credential, ServerUrl, url};
use crate::output::Output;
use anyhow::Context as _;
use nm_types::text::SecretText;
use std::path::Path;

/// A connection and where results go.
#[derive(Debug)]
pub struct Context {
    pub client: Client,
    pub out: Output,
}

impl Context {
    pub fn new(args: &ClientArgs) -> anyhow::Result<Self> {
        let credential = credential(args.token_file.as_deref())?;
        Self::with(args, credential)
    }

    /// Without any token, for signing in.
    pub fn anonymous(args: &ClientArgs) -> anyhow::Result<Self> {
        Self::with(args, Credential::None)
    }

    fn with(args: &ClientArgs, credential: Credential) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(server(args)?, credential, args.ca_file.as_deref())?,
            out: Output::new(args.output),
        })
    }
}

/// `--server-url` or NEURALMESH_SERVER, else where the user signed in last, else this machine.
pub fn server(args: &ClientArgs) -> anyhow::Result<ServerUrl> {
    if let Some(named) = args.server_url.as_deref().filter(|text| !text.is_empty()) {
        return ServerUrl::parse(named).map_err(|e| crate::output::report::usage(e.to_string()));
    }
    // Without a home folder nothing can be saved either.
    let saved = match CredentialsFile::locate() {
        Ok(file) => file.read()?.current,
        Err(_) => None,
    };
    Ok(ServerUrl::parse(saved.as_deref().unwrap_or(url::DEFAULT))?)
}

fn credential(token_file: Option<&Path>) -> anyhow::Result<Credential> {
    if let Some(path) = token_file {
        return Ok(Credential::File(secret_file(path)?));
    }
    match std::env::var("NEURALMESH_TOKEN") {
        Ok(token) if !token.trim().is_empty() => return Ok(Credential::Environment(SecretText::new(token.trim()))),
        Err(std::env::VarError::NotUnicode(_)) => anyhow::bail!("NEURALMESH_TOKEN holds something that is no token"),
        _ => {}
    }
    Ok(match CredentialsFile::locate() {
        Ok(file) => Credential::Saved(file),
        Err(_) => Credential::None,
    })
}

/// The secret in a file, without the line end that editors add.
pub fn secret_file(path: &Path) -> anyhow::Result<SecretText> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let text = text.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(!text.is_empty(), "{} is empty", path.display());
    Ok(SecretText::new(text))
}
