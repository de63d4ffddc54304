//! `neuralmesh users …`

use crate::client::{Call, now};
use crate::context::Context;
use crate::output::{human, note, table::Column};
use crate::prompt::PasswordArgs;
use clap::{Args, Subcommand, ValueEnum};
use nm_types::Timestamp;
use nm_types::auth::{Role, UserView};
use nm_types::text::Username;
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// List users
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show who you are signed in as
    Whoami,
    /// Add a user
    #[command(visible_alias = "create")]
    Add(AddArgs),
    /// Change a user's role, or lock and unlock them
    Update(UpdateArgs),
    /// Remove users
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Change your password, or another user's
    Passwd(PasswdArgs),
}

/// [`Role`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    Viewer,
    Operator,
    Admin,
}

impl RoleArg {
    pub fn role(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct LsArgs {
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  neuralmesh users add ann --role operator
  neuralmesh users add ci --role viewer --password-file ci.password")]
pub struct AddArgs {
    /// What they may do: look, also run things, or also manage users, nodes and registries
    #[arg(long, value_enum, value_name = "ROLE", default_value = "viewer")]
    pub role: RoleArg,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// The name to sign in with
    #[arg(value_name = "USERNAME")]
    pub username: Username,
}

#[derive(Debug, Clone, Args)]
pub struct UpdateArgs {
    /// What they may do: look, also run things, or also manage users, nodes and registries
    #[arg(long, value_enum, value_name = "ROLE", required_unless_present_any = ["disable", "enable"])]
    pub role: Option<RoleArg>,
    /// Let them in no more, and end what they have open
    #[arg(long, conflicts_with = "enable")]
    pub disable: bool,
    /// Let them in again
    #[arg(long)]
    pub enable: bool,
    /// Name or id
    #[arg(value_name = "USER")]
    pub user: String,
}

#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Names or ids
    #[arg(value_name = "USER", required = true)]
    pub users: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without a name it is your own: the present password is asked for, and every
other session of yours ends. With a name it is another user's, for admins.

Examples:
  neuralmesh users passwd
  neuralmesh users passwd ann --password-file new.password")]
pub struct PasswdArgs {
    /// A file with your present password
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub current_password_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    pub password: PasswordArgs,
    /// Name or id; yourself by default
    #[arg(value_name = "USER")]
    pub user: Option<String>,
}

pub async fn run(command: UsersCommand, cx: &Context) -> anyhow::Result<u8> {
    match command {
        UsersCommand::Ls(args) => {
            let list = cx.client.list::<UserView>(Call::get(&["users"]), None).await?;
            if args.quiet {
                cx.out.lines(list.items.iter().map(|u| u.id.as_str()))?;
            } else {
                cx.out.list(&list, &columns(now()), |u| u.username.to_string())?;
            }
        }
        UsersCommand::Whoami => {
            let me = cx.client.fetch::<UserView>(Call::get(&["auth", "me"])).await?;
            let rows = [
                ("Username", me.value.username.to_string()),
                ("Role", me.value.role.as_str().to_owned()),
                ("Id", me.value.id.to_string()),
                ("Server", cx.client.server().to_string()),
            ];
            cx.out.card(&me, me.value.username.as_str(), &rows)?;
        }
        UsersCommand::Add(args) => {
            let password = args.password.read("Password", true)?;
            let body = json!({ "username": args.username, "role": args.role.role(), "password": password.expose() });
            let user = cx.client.fetch::<UserView>(Call::create(&["users"]).json(&body)?).await?;
            cx.out.result(&user, user.value.username.as_str())?;
        }
        UsersCommand::Update(args) => {
            let mut body = serde_json::Map::new();
            if let Some(role) = args.role {
                body.insert("role".to_owned(), json!(role.role()));
            }
            if args.disable || args.enable {
                body.insert("disabled".to_owned(), Value::Bool(args.disable));
            }
            let user = cx
                .client
                .fetch::<UserView>(Call::patch(&["users", &args.user]).json(&body)?)
                .await?;
            cx.out.result(&user, user.value.username.as_str())?;
        }
        UsersCommand::Rm(args) => {
            for named in &args.users {
                cx.client.done(Call::delete(&["users", named])).await?;
                cx.out.line(named)?;
            }
        }
        UsersCommand::Passwd(args) => passwd(&args, cx).await?,
    }
    Ok(0)
}

fn columns(now: Timestamp) -> [Column<'static, UserView>; 5] {
    [
        Column::new("USERNAME", |u: &UserView| u.username.to_string()),
        Column::new("ROLE", |u: &UserView| u.role.as_str().to_owned()),
        Column::new("STATUS", |u: &UserView| if u.disabled { "disabled" } else { "active" }.to_owned()),
        Column::new("CREATED", move |u: &UserView| human::ago(u.created, now)),
        Column::new("ID", |u: &UserView| u.id.to_string()).wide(),
    ]
}

async fn passwd(args: &PasswdArgs, cx: &Context) -> anyhow::Result<()> {
    if let Some(named) = &args.user {
        let password = args.password.read("New password", true)?;
        let user = cx
            .client
            .fetch::<UserView>(Call::patch(&["users", named]).json(&json!({ "password": password.expose() }))?)
            .await?;
        return Ok(cx.out.result(&user, user.value.username.as_str())?);
    }
    let current = match &args.current_password_file {
        Some(path) => crate::context::secret_file(path)?,
        None => PasswordArgs {
            password_file: None,
            password_stdin: false,
        }
        .read("Present password", false)?,
    };
    let new = args.password.read("New password", true)?;
    let body = json!({ "currentPassword": current.expose(), "newPassword": new.expose() });
    cx.client.done(Call::post(&["auth", "password"]).json(&body)?).await?;
    note("Your password is changed; every other session of yours has ended.");
    Ok(())
}
