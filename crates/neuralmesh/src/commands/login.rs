//! `neuralmesh login` and `logout`.

use crate::cli::ClientArgs;
use crate::client::credentials::{CredentialsFile, Login};
use crate::client::{Call, ClientError, now};
use crate::context::{Context, secret_file, server};
use crate::output::{note, warning};
use crate::prompt::{PasswordArgs, line};
use clap::Args;
use nm_types::auth::SignedIn;
use nm_types::text::SecretText;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Who the first password belongs to.
const FIRST_ADMIN: &str = "admin";
const FIRST_PASSWORD_FILE: &str = "initial-admin-password";

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
On the machine of the control plane, the admin's first password is found in <data-dir>/initial-admin-password where you may read it.
The login is kept in ~/.config/neuralmesh/credentials.json, which only you can read, and renewed by itself for as long as it is used.

Examples:
  neuralmesh login
  neuralmesh login --server-url https://mesh.example.com --username ann
  neuralmesh login -u ci --password-file /run/secrets/ci")]
pub struct LoginArgs {
    /// The name to sign in with; asked for where it is missing
    #[arg(short, long, value_name = "NAME", env = "NEURALMESH_USERNAME")]
    pub username: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Where the control plane on this machine keeps its data
    #[arg(long, value_name = "DIR", default_value = "/var/lib/neuralmesh", env = "NEURALMESH_DATA_DIR")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub client: ClientArgs,
}

#[derive(Debug, Clone, Args)]
pub struct LogoutArgs {
    #[command(flatten)]
    pub client: ClientArgs,
}

pub async fn login(args: LoginArgs) -> anyhow::Result<u8> {
    let cx = Context::anonymous(&args.client)?;
    let file = CredentialsFile::locate()?;
    let server = cx.client.server().clone();
    if server.is_plain() {
        warning(format!(
            "{server} is not encrypted: the password and everything else can be read on the way"
        ));
    }
    let (username, password) = who(&args, server.is_loopback())?;
    let body = json!({ "username": username, "password": password.expose() });
    let signed_in = cx
        .client
        .fetch::<SignedIn>(Call::post(&["auth", "login"]).anonymous().json(&body)?)
        .await
        .map_err(|e| match e {
            // The hint to sign in would be no help here.
            ClientError::Refused { status: 401, body, .. } => anyhow::anyhow!("{}", body.error),
            other => other.into(),
        })?;
    let user = signed_in.value.user.clone();
    file.save(&server, Login::new(signed_in.value, now()))?;
    if cx.out.is_json() {
        cx.out.line(crate::output::json::pretty(&serde_json::to_string(&user)?))?;
    } else {
        note(format!("Signed in at {server} as {} ({}).", user.username, user.role.as_str()));
    }
    Ok(0)
}

fn who(args: &LoginArgs, on_this_machine: bool) -> anyhow::Result<(String, SecretText)> {
    let first = || -> Option<SecretText> {
        let path = args.data_dir.join(FIRST_PASSWORD_FILE);
        // It may be gone, or not ours to read: then the user is asked.
        secret_file(Path::new(&path))
            .ok()
            .inspect(|_| note(format!("Using the first password in {}.", path.display())))
    };
    let may_be_first = on_this_machine && !args.password.given() && args.username.as_deref().is_none_or(|name| name == FIRST_ADMIN);
    if may_be_first && let Some(password) = first() {
        return Ok((FIRST_ADMIN.to_owned(), password));
    }
    let username = match &args.username {
        Some(username) => username.clone(),
        None => line("Username")?,
    };
    Ok((username, args.password.read("Password", false)?))
}

pub async fn logout(args: LogoutArgs) -> anyhow::Result<u8> {
    let file = CredentialsFile::locate()?;
    let server = server(&args.client)?;
    if !file.read()?.servers.contains_key(&server.to_string()) {
        note(format!("There is no login at {server}."));
        return Ok(0);
    }
    // Only the saved login is ended here, whatever token the environment holds.
    let client = crate::client::Client::new(
        server.clone(),
        crate::client::Credential::Saved(file.clone()),
        args.client.ca_file.as_deref(),
    )?;
    let ended = client.done(Call::post(&["auth", "logout"])).await;
    file.forget(&server)?;
    match ended {
        Ok(_) | Err(ClientError::LoginEnded { .. } | ClientError::Refused { status: 401, .. }) => note(format!("Signed out at {server}.")),
        Err(e) => warning(format!(
            "the login at {server} is forgotten here, but could not be ended there: {e}"
        )),
    }
    Ok(0)
}
