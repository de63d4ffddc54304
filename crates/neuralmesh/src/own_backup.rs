//! The control plane's backup of itself: what it is started with, and the way back.

use crate::backup_worker;
use crate::commands::settings::read;
use crate::output::{human, note};
use anyhow::{Context as _, bail};
use clap::Args;
use nm_agent::BackupWorker;
use nm_control::service::own_backup::{EXPORT_AT, JobRunner, OwnBackupConfig};
use nm_store::{DatabaseUrl, SqliteHold, Store, StoreConfig, StoreError};
use nm_types::Timestamp;
use nm_types::backup::job::{Hidden, Job, JobEvent, Outcome, RestoreItem, RestoreTask, SnapshotSeen, Task};
use nm_types::backup::{BackupCredentials, BackupDestination, CronSchedule, DestinationKind};
use nm_types::units::Bounded;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::BufReader;
use tokio_util::sync::CancellationToken;

/// The repository that the control plane backs itself up to.
#[derive(Debug, Clone, Args)]
pub struct DestinationArgs {
    /// A JSON file with what opens the destination: accessKey and secretKey, username and password, or privateKey and hostKey
    #[arg(long, value_name = "FILE", env = "NEURALMESH_BACKUP_CREDENTIALS", hide_env_values = true)]
    pub backup_credentials: Option<PathBuf>,
    /// The password of the backups; it is made where there is none. Keep a copy of it apart, with the key file [default: <data-dir>/backup.password]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_BACKUP_PASSWORD_FILE", hide_env_values = true)]
    pub backup_password_file: Option<PathBuf>,
}

/// How a control plane backs itself up.
#[derive(Debug, Clone, Args)]
pub struct OwnBackupArgs {
    /// Back the control plane itself up to here: a folder of another disk, s3:https://host/bucket/prefix, sftp:user@host:/path or rest:https://host/path
    #[arg(long, value_name = "DESTINATION", env = "NEURALMESH_BACKUP_TO", hide_env_values = true)]
    pub backup_to: Option<BackupDestination>,
    /// When, as a cron line of five fields, in UTC
    #[arg(
        long,
        value_name = "CRON",
        default_value = "0 3 * * *",
        env = "NEURALMESH_BACKUP_SCHEDULE",
        hide_env_values = true,
        requires = "backup_to"
    )]
    pub backup_schedule: CronSchedule,
    /// Days that a backup is kept, 1 to 365
    #[arg(
        long,
        value_name = "DAYS",
        default_value = "30",
        env = "NEURALMESH_BACKUP_RETENTION",
        hide_env_values = true,
        value_parser = days,
        requires = "backup_to"
    )]
    pub backup_retention: Bounded<1, 365>,
    #[command(flatten)]
    pub destination: DestinationArgs,
}

fn days(text: &str) -> Result<Bounded<1, 365>, String> {
    let number: i64 = text.parse().map_err(|_| "a number of days".to_owned())?;
    Bounded::new(number).ok_or_else(|| "1 to 365 days".to_owned())
}

struct Runner(BackupWorker);

impl JobRunner for Runner {
    fn run<'a>(&'a self, job: &'a Job) -> futures_util::future::BoxFuture<'a, JobEvent> {
        Box::pin(async move { self.0.run(job, &CancellationToken::new(), |_| {}).await })
    }
}

/// Random, and ours alone; the one that is there where there is one.
fn password(path: &Path, make: bool) -> anyhow::Result<Hidden> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && make => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the operating system's random generator does not answer"))?;
            let text = hex::encode(bytes);
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let mut file = file.with_context(|| format!("make {}", path.display()))?;
            writeln!(file, "{text}")
                .and_then(|()| file.sync_all())
                .with_context(|| format!("write {}", path.display()))?;
            if let Some(parent) = path.parent() {
                fs::File::open(parent)
                    .and_then(|folder| folder.sync_all())
                    .with_context(|| format!("write {}", path.display()))?;
            }
            tracing::info!(path = %path.display(), "password of the control plane's backups made; keep a copy of it apart, with the key file");
            text
        }
        Err(e) => return Err(e).with_context(|| format!("read the password of the backups, {}", path.display())),
    };
    let mode = fs::metadata(path)?.permissions().mode() & 0o077;
    if mode != 0 {
        bail!("{} can be read by others: run `chmod 600 {}`", path.display(), path.display());
    }
    let text = text.trim();
    if text.is_empty() {
        bail!(
            "{} is empty: put the password back, or remove the file where there are no backups yet",
            path.display()
        );
    }
    Ok(Hidden(text.to_owned()))
}

impl DestinationArgs {
    fn config(&self, to: &BackupDestination, data_dir: &Path, make: bool, allow: Vec<String>) -> anyhow::Result<OwnBackupConfig> {
        if let DestinationKind::Node { .. } = to.kind() {
            bail!(
                "the control plane can't be backed up to a node of its own fleet: what is lost with it could not be brought back from there"
            );
        }
        let credentials = match &self.backup_credentials {
            Some(file) => {
                let given: BackupCredentials =
                    serde_json::from_str(&read(file)?).with_context(|| format!("{} holds no credentials", file.display()))?;
                Some(given)
            }
            None => None,
        };
        let path = self
            .backup_password_file
            .clone()
            .unwrap_or_else(|| data_dir.join("backup.password"));
        Ok(OwnBackupConfig {
            destination: to.clone(),
            credentials,
            schedule: "0 3 * * *".parse().map_err(|e| anyhow::anyhow!("{e}"))?,
            retention: Bounded::new(30).context("30 days are a retention")?,
            password: password(&path, make)?,
            scratch: data_dir.join("own-backup"),
            allow,
            runner: Arc::new(Runner(backup_worker::by_agent())),
        })
    }
}

impl OwnBackupArgs {
    /// None where it is not asked for.
    pub fn config(&self, data_dir: &Path, allow: Vec<String>) -> anyhow::Result<Option<OwnBackupConfig>> {
        let Some(to) = &self.backup_to else { return Ok(None) };
        let config = self.destination.config(to, data_dir, true, allow)?;
        Ok(Some(OwnBackupConfig {
            schedule: self.backup_schedule.clone(),
            retention: self.backup_retention,
            ..config
        }))
    }
}

/// `neuralmesh restore-control-plane`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
It takes the key file and the password file of the control plane that was backed up: both are never in a backup.

Examples:
  neuralmesh restore-control-plane --from /mnt/vault --list
  neuralmesh restore-control-plane --from /mnt/vault --key-file /root/secrets.key --backup-password-file /root/backup.password")]
pub struct RestoreControlPlaneArgs {
    /// Where the control plane was backed up to: the --backup-to that it ran with
    #[arg(long, value_name = "DESTINATION")]
    pub from: BackupDestination,
    /// Show what there is, and bring nothing back
    #[arg(long)]
    pub list: bool,
    /// The snapshot, by its id or the beginning of it [default: the newest]
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
    /// The data folder that is made or filled
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/neuralmesh",
        env = "NEURALMESH_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: PathBuf,
    /// An empty PostgreSQL database in place of a SQLite file in the data folder
    #[arg(long, value_name = "URL", env = "NEURALMESH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// The key that seals secrets [default: <data-dir>/secrets.key]
    #[arg(long, value_name = "FILE", env = "NEURALMESH_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// Put the SQLite file that is there aside, under another name
    #[arg(long, conflicts_with = "database_url")]
    pub replace: bool,
    /// A network that is forbidden otherwise and that the destination may be in, as an address or network; may be repeated
    #[arg(
        long = "allow-outbound",
        value_name = "CIDR",
        env = "NEURALMESH_ALLOW_OUTBOUND",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub allow_outbound: Vec<nm_control::api::frame::Network>,
    #[command(flatten)]
    pub destination: DestinationArgs,
}

fn told(error: nm_control::api::error::ApiError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.message)
}

fn now() -> Timestamp {
    crate::client::now()
}

pub async fn restore(args: RestoreControlPlaneArgs) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir).context("read the data folder's path")?;
    let allow = args.allow_outbound.iter().map(ToString::to_string).collect();
    let config = args.destination.config(&args.from, &data_dir, false, allow)?;
    let listed = config.snapshots(now(), None).await.map_err(told)?;
    if args.list {
        for snapshot in listed.snapshots.iter().rev() {
            println!(
                "{}  {}  {}",
                &snapshot.id[..16.min(snapshot.id.len())],
                snapshot.time,
                human::ago(snapshot.time, now())
            );
        }
        return Ok(());
    }
    let chosen = choose(&listed.snapshots, args.snapshot.as_deref())?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_dir)
        .with_context(|| format!("make the data folder {}", data_dir.display()))?;
    let key_file = args.key_file.clone().unwrap_or_else(|| data_dir.join("secrets.key"));
    if !key_file.is_file() {
        bail!(
            "the key file {} is not there: name the one of the control plane that was backed up with --key-file; without it no secret opens",
            key_file.display()
        );
    }
    let place = Place::judge(&args, &data_dir).await?;
    let scratch = tempfile::Builder::new()
        .prefix("restore-control-plane.")
        .tempdir_in(&data_dir)
        .with_context(|| format!("make a folder in {}", data_dir.display()))?;
    let lines = scratch.path().join("store.jsonl");
    note(format!("reading the backup of {}", chosen.time));
    let task = RestoreTask {
        snapshot: chosen.id.clone(),
        items: vec![RestoreItem {
            from: EXPORT_AT.into(),
            to: lines.display().to_string(),
            replace: false,
        }],
        include: Vec::new(),
        dry_run: false,
        verify: true,
        scratch: false,
    };
    match config
        .job(now(), "restore", Some(listed.repository), Task::Restore(task))
        .await
        .map_err(told)?
    {
        Outcome::Restored(restored) if restored.verified => {}
        other => bail!("the backup could not be read back whole: {other:?}"),
    }
    let (url, built) = place.target(scratch.path());
    let file = tokio::fs::File::open(&lines).await.context("read what was brought back")?;
    let store_config = StoreConfig {
        url,
        key_file: key_file.clone(),
    };
    let (_, rows) = Store::import(&store_config, BufReader::new(file)).await.map_err(explained)?;
    // As a control plane would: an older schema is brought up to date, and everything that is sealed has to open.
    let store = Store::open_alone(store_config).await.context("open what was brought back")?;
    let audit = store.verify_audit().await.context("check the audit log")?;
    store.close().await;
    if let Some(broken) = audit.first_broken {
        bail!("the audit log of the backup was tampered with: {broken:?}");
    }
    if let Some(built) = built {
        place.swap_in(&built, &data_dir)?;
    }
    println!("The control plane of {} is back: {rows} rows.", chosen.time);
    println!(
        "Start it with this data folder and this key file: {}, {}.",
        data_dir.display(),
        key_file.display()
    );
    println!("Nodes connect again by themselves where its address is the same. What changed since is found as it is: containers that were");
    println!("made later run on, and show under the names that Docker has for them.");
    Ok(())
}

fn explained(error: StoreError) -> anyhow::Error {
    anyhow::Error::from(error).context("bring the store back")
}

fn choose<'a>(snapshots: &'a [SnapshotSeen], asked: Option<&str>) -> anyhow::Result<&'a SnapshotSeen> {
    let Some(asked) = asked else {
        return snapshots.last().context("there is no backup of a control plane there");
    };
    let mut fitting = snapshots.iter().filter(|s| s.id.starts_with(asked));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!("there is no snapshot {asked}: --list shows those that there are"),
        (Some(_), Some(_)) => bail!("several snapshots begin with {asked}: write more of it"),
    }
}

/// Where the store goes.
enum Place {
    Sqlite { path: PathBuf, is_there: bool, _held: SqliteHold },
    Postgres(DatabaseUrl),
}

const PARTS: [&str; 3] = ["", "-wal", "-shm"];

fn part(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

impl Place {
    async fn judge(args: &RestoreControlPlaneArgs, data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(url) = &args.database_url {
            let url: DatabaseUrl = url.parse()?;
            if url.backend() == nm_store::Backend::Postgres {
                return Ok(Self::Postgres(url));
            }
            bail!("--database-url takes postgres://…; a SQLite file is made in the data folder");
        }
        let path = data_dir.join("neuralmesh.db");
        let is_there = path.exists();
        if is_there && !args.replace {
            bail!(
                "{} is there already: name another --data-dir, or have it put aside with --replace",
                path.display()
            );
        }
        let _held = SqliteHold::take(&path)?;
        Ok(Self::Sqlite { path, is_there, _held })
    }

    /// What the store is made in, and the file that is swapped in afterwards.
    fn target(&self, scratch: &Path) -> (DatabaseUrl, Option<PathBuf>) {
        match self {
            Self::Sqlite { .. } => {
                let built = scratch.join("neuralmesh.db");
                (DatabaseUrl::sqlite(&built), Some(built))
            }
            Self::Postgres(url) => (url.clone(), None),
        }
    }

    fn swap_in(&self, built: &Path, data_dir: &Path) -> anyhow::Result<()> {
        let Self::Sqlite { path, is_there, .. } = self else { return Ok(()) };
        if PARTS[1..].iter().any(|end| part(built, end).exists()) {
            bail!("the new database was not closed well: try again");
        }
        if *is_there {
            let aside = part(path, &format!(".before-{}", now().0));
            for end in PARTS {
                let (from, to) = (part(path, end), part(&aside, end));
                if from.exists() {
                    fs::rename(&from, &to).with_context(|| format!("put {} aside", from.display()))?;
                }
            }
            note(format!("the database that was there is {} now", aside.display()));
        }
        fs::rename(built, path).with_context(|| format!("put {} in its place", path.display()))?;
        fs::File::open(data_dir)
            .and_then(|folder| folder.sync_all())
            .context("keep the data folder")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_chosen_by_its_beginning() {
        let seen = |id: &str| SnapshotSeen {
            id: id.into(),
            time: Timestamp(0),
            label: String::new(),
            tags: Vec::new(),
            paths: Vec::new(),
        };
        let all = [seen("ab1"), seen("ab2"), seen("c")];
        assert_eq!(choose(&all, None).unwrap().id, "c");
        assert_eq!(choose(&all, Some("ab1")).unwrap().id, "ab1");
        assert!(choose(&all, Some("ab")).unwrap_err().to_string().contains("several"));
        assert!(choose(&all, Some("x")).unwrap_err().to_string().contains("--list"));
        assert!(choose(&[], None).is_err());
    }

    #[test]
    fn a_password_is_made_once_and_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup.password");
        assert!(password(&path, false).is_err());
        let made = password(&path, true).unwrap();
        assert_eq!(
            (made.0.len(), fs::metadata(&path).unwrap().permissions().mode() & 0o777),
            (64, 0o600)
        );
        assert_eq!(password(&path, true).unwrap().0, made.0);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(password(&path, true).unwrap_err().to_string().contains("chmod 600"));
    }
}
