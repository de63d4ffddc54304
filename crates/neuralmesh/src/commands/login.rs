//! `neuralmesh login` and `logout`.

use crate::cli::ClientArgs;
use crate::client::credentials::{CredentialsFile, Login};
use crate::client::{Call, ClientError, Fetched, now};
use crate::context::{Context, secret_file, server};
use crate::output::{note, warning};
use crate::prompt::{PasswordArgs, line};
use clap::Args;
use nm_types::auth::SignedIn;
use nm_types::text::SecretText;
use serde_json::json;
use std::path::PathBuf;

/// Who the first password belongs to.
const FIRST_ADMIN: &str = "admin";
const FIRST_PASSWORD_FILE: &str = "initial-admin-password";

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
On the machine of the control plane, the admin's first password is found in
<data-dir>/initial-admin-password where you may read it. The login is kept in
~/.config/neuralmesh/credentials.json, for your eyes only, and renewed by itself.

Examples:
  neuralmesh login
  neuralmesh login --server-url https://mesh.example.com --username ann
  neuralmesh login -u ci --password-file /run/secrets/ci")]
pub struct LoginArgs {
    /// The name to sign in with; asked for where it is missing
    #[arg(short, long, value_name = "NAME", env = "NEURALMESH_USERNAME", hide_env_values = true)]
    pub username: Option<String>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Where the control plane on this machine keeps its data
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/neuralmesh",
        env = "NEURALMESH_DATA_DIR",
        hide_env_values = true
    )]
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
    let signed_in = match first_password(&args, server.is_loopback()) {
        Some(password) => match sign_in(&cx, FIRST_ADMIN, &password).await {
            Err(e) if e.status() == Some(401) => {
                note("It was changed since.");
                sign_in_as_asked(&args, &cx).await?
            }
            other => other?,
        },
        None => sign_in_as_asked(&args, &cx).await?,
    };
    let user = signed_in.value.user.clone();
    file.save(&server, Login::new(signed_in.value, now()))?;
    if cx.out.is_json() {
        cx.out.line(crate::output::json::pretty(&serde_json::to_string(&user)?))?;
    } else {
        note(format!("Signed in at {server} as {} ({}).", user.username, user.role.as_str()));
    }
    Ok(0)
}

/// The admin's first password, where it is still on this machine and nobody asks for another user or gives a password.
fn first_password(args: &LoginArgs, on_this_machine: bool) -> Option<SecretText> {
    let wanted = on_this_machine && !args.password.given() && args.username.as_deref().is_none_or(|name| name == FIRST_ADMIN);
    let path = args.data_dir.join(FIRST_PASSWORD_FILE);
    // It may be gone, or not ours to read: then the user is asked.
    let password = if wanted { secret_file(&path).ok() } else { None };
    password.inspect(|_| note(format!("Using the first password in {}.", path.display())))
}

async fn sign_in_as_asked(args: &LoginArgs, cx: &Context) -> anyhow::Result<Fetched<SignedIn>> {
    let username = match &args.username {
        Some(username) => username.clone(),
        None => line("Username")?,
    };
    let password = args.password.read("Password", false)?;
    sign_in(cx, &username, &password).await.map_err(|e| match e {
        // The hint to sign in would be no help here.
        ClientError::Refused { status: 401, body, .. } => anyhow::anyhow!("{}", body.error),
        other => other.into(),
    })
}

async fn sign_in(cx: &Context, username: &str, password: &SecretText) -> Result<Fetched<SignedIn>, ClientError> {
    let call = Call::post(&["auth", "login"]).anonymous();
    let call = call
        .json(&json!({ "username": username, "password": password.expose() }))
        .map_err(|source| ClientError::Shape {
            server: cx.client.server().to_string(),
            source,
        })?;
    cx.client.fetch(call).await
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
