//! Opens a repository, and makes one only where none ever was.

use crate::{
    crypt::{self, Key},
    failure::{Result, code_of, failed, of_rustic},
    guard::{Guard, Veto},
    local::LocalFolder,
    lock::{self, FileLock, FolderLock, Mode},
    remote,
    report::{Bars, Reporter},
    store::{Present, Store},
};
use nm_types::backup::job::{JobErrorCode, RepositoryAccess};
use rustic_core::{
    ConfigOptions, Credentials, FileType, Id, KeyOptions, OpenStatus, RepairIndexOptions, Repository, RepositoryBackends,
    RepositoryOptions,
    repofile::{ConfigFile, MasterKey},
};
use std::{io, str::FromStr, sync::Arc};

/// What a job opens a repository with.
#[derive(Clone)]
pub struct Context {
    pub reporter: Arc<Reporter>,
    pub veto: Arc<Veto>,
    /// Hosts and addresses that may be connected to although they are special ones.
    pub allow: Vec<String>,
}

impl Context {
    pub fn new(reporter: &Arc<Reporter>, allow: &[String]) -> Self {
        Self {
            reporter: reporter.clone(),
            veto: Arc::default(),
            allow: allow.to_vec(),
        }
    }
}

pub struct Opened {
    pub repository: Repository<OpenStatus>,
    pub id: String,
    pub store: Arc<dyn Store>,
    pub key: Key,
    /// Held as long as the repository is.
    pub locks: Locks,
}

/// Dropped in this order.
#[derive(Debug, Default)]
pub struct Locks {
    file: Option<FileLock>,
    _folder: Option<FolderLock>,
}

/// Of a repository that a backup may make.
#[derive(Debug, Clone)]
pub struct Make {
    pub compression: bool,
    /// Of a copy: the config of its original, whose cut into parts it takes over.
    pub polynomial: Option<ConfigFile>,
}

/// The password of a repository whose config says `encryption: false`: the format always encrypts.
pub const NOT_SECRET: &str = "neuralmesh-not-secret";
pub(crate) const NOTE: &str = "neuralmesh-not-secret\n\n\
    This is the password of the restic repository here. It is no secret: its backup config says `encryption: false`, and restic's\n\
    format always encrypts. Whoever can read the repository can read the backups.\n";
/// With zstd's level 2 a repository is as small as restic's own, in two thirds of the time of 3.
const COMPRESSION: i32 = 2;
const NO_COMPRESSION: i32 = 0;
/// As restic's: a pack is what a restore holds in memory, and what one flipped bit costs.
const PACK: &str = "16MiB";
const PACK_AT_MOST: &str = "64MiB";

/// `make` makes the repository where the place is empty and no id was given.
pub fn open(access: &RepositoryAccess, mode: Mode, make: Option<Make>, context: &Context) -> Result<Opened> {
    let store = remote::store(&access.place, &context.allow)?;
    let name = store.name();
    let present = store.look().map_err(|error| {
        failed(
            code_of(&error, JobErrorCode::Unreachable),
            format!("The destination {name} can't be read: {error}. Check that it is there and may be read."),
        )
    })?;
    let mends = make.is_some() || mode == Mode::Exclusive;
    let new = match (present, &access.id, make) {
        (Present::Repository, ..) => None,
        (Present::Nothing, None, Some(make)) => Some(make),
        (Present::Nothing, ..) => {
            return Err(failed(
                JobErrorCode::RepositoryMissing,
                format!("The repository {name} is not there. Mount its disk or bring it back; it is never made anew."),
            ));
        }
        (Present::Foreign, ..) => {
            return Err(failed(
                JobErrorCode::RepositoryForeign,
                format!("There are other files at {name}, and no repository. Choose another destination or empty it."),
            ));
        }
    };
    if new.is_some() {
        // Only where no repository ever was: one that was made is never made anew, whatever is missing.
        if let Some(folder) = store.folder() {
            LocalFolder::make_parent(folder).map_err(|error| {
                let text = format!(
                    "The folder {} can't be made: {error}. Make it, or choose another destination.",
                    folder.parent().unwrap_or(folder).display()
                );
                failed(code_of(&error, JobErrorCode::NotWritable), text)
            })?;
        }
        store
            .create()
            .map_err(|error| of_rustic("The repository can't be made", JobErrorCode::NotWritable, &error))?;
    }
    let folder = store.folder().map(|folder| lock::take_folder(folder, mode)).transpose()?;
    let guard = Guard::new(store.clone(), context.veto.clone(), access.append_only);
    let backends = RepositoryBackends::new(Arc::new(guard), None);
    let options = RepositoryOptions::default().no_cache(true);
    let unmade = Repository::new_with_progress(&options, &backends, Bars(context.reporter.clone()))
        .map_err(|error| of_rustic("The repository can't be opened", JobErrorCode::Unreachable, &error))?;
    let repository = match new {
        Some(make) => init(unmade, &store, &access.password.0, make)?,
        None => unmade.open(&Credentials::password(&access.password.0)).map_err(|error| {
            if error.is_incorrect_password() {
                failed(
                    JobErrorCode::WrongPassword,
                    format!("The password does not open the repository {name}. It was made with another one."),
                )
            } else {
                of_rustic("The repository can't be opened", JobErrorCode::Damaged, &error)
            }
        })?,
    };
    let id = repository.config().id.to_hex().as_str().to_owned();
    if access.id.as_ref().is_some_and(|expected| *expected != id) {
        return Err(failed(
            JobErrorCode::RepositoryForeign,
            format!("Another repository ({id}) is at {name}. Bring back the one this config made."),
        ));
    }
    let key = Key::new(&repository.key()).ok_or_else(|| failed(JobErrorCode::Damaged, "The repository's key has a wrong length."))?;
    let file = lock::take_file(&store, &key, mode, mends)?;
    Ok(Opened {
        repository,
        id,
        store,
        key,
        locks: Locks { file, _folder: folder },
    })
}

impl Opened {
    /// Whether a job before this one was killed.
    pub fn was_cut(&self) -> bool {
        self.locks.file.as_ref().is_some_and(|file| file.found_stale)
    }
}

/// Opened to add to. What a run that was killed uploaded is in packs that no index names: they are named first, by one that is alone.
pub fn open_to_add(access: &RepositoryAccess, make: Make, context: &Context) -> Result<Opened> {
    let opened = open(access, Mode::Shared, Some(make.clone()), context)?;
    if !opened.was_cut() || access.append_only {
        return Ok(opened);
    }
    drop(opened);
    context.reporter.step("index");
    match open(access, Mode::Exclusive, None, context) {
        Ok(alone) => name_packs(&alone)?,
        // Another job adds to it: what is not named now is named after the next cut, or removed by a prune.
        Err(error) if error.code == JobErrorCode::Locked => context.reporter.log(error.message),
        Err(error) => return Err(error),
    }
    open(access, Mode::Shared, Some(make), context)
}

pub fn name_packs(opened: &Opened) -> Result<()> {
    opened
        .repository
        .repair_index(&RepairIndexOptions::default(), false)
        .map_err(|error| of_rustic("The index can't be brought up to date", JobErrorCode::Damaged, &error))
}

/// The key first and the config last: a repository is there once its config is.
fn init(unmade: Repository<()>, store: &Arc<dyn Store>, password: &str, make: Make) -> Result<Repository<OpenStatus>> {
    let refused = |error: &rustic_core::RusticError| of_rustic("The repository can't be made", JobErrorCode::NotWritable, error);
    let odd = |error: io::Error| failed(JobErrorCode::Internal, format!("The key of the repository can't be made: {error}."));
    // Of a making that was cut short: the same password would open them, and they are the keys of nothing.
    for id in store.list(FileType::Key).map_err(|error| refused(&error))? {
        store.remove(FileType::Key, &id, false).map_err(|error| refused(&error))?;
    }
    let master = MasterKey::new();
    add_key(store, &master, password).map_err(|error| match error {
        AddKey::Made(error) => odd(error),
        AddKey::Written(error) => refused(&error),
    })?;
    let size = |text| FromStr::from_str(text).map_err(|_| failed(JobErrorCode::Internal, "A size of the repository is wrong."));
    let options = ConfigOptions::default()
        .set_compression(if make.compression { COMPRESSION } else { NO_COMPRESSION })
        .set_datapack_size(Some(size(PACK)?))
        .set_datapack_size_limit(Some(size(PACK_AT_MOST)?));
    let credentials = Credentials::Masterkey(master);
    let made = match make.polynomial {
        None => unmade.init(&credentials, &KeyOptions::default(), &options),
        Some(mut config) => {
            let mut id = [0; 32];
            getrandom::fill(&mut id).map_err(|error| odd(io::Error::other(error)))?;
            config.id = Id::new(id).into();
            options.apply(&mut config).map_err(|error| refused(&error))?;
            unmade.init_with_config(&credentials, &KeyOptions::default(), config)
        }
    };
    let made = made.map_err(|error| refused(&error))?;
    if password == NOT_SECRET {
        // Nothing depends on it: the password is in the documentation too.
        let _ = store.note(NOTE);
    }
    Ok(made)
}

pub enum AddKey {
    Made(io::Error),
    Written(Box<rustic_core::RusticError>),
}

/// The new key's id.
pub fn add_key(store: &Arc<dyn Store>, master: &MasterKey, password: &str) -> std::result::Result<String, AddKey> {
    let file = crypt::key_file(master, password).map_err(AddKey::Made)?;
    let id = crypt::hash(&file);
    store.write_bytes(FileType::Key, &id, false, file.into()).map_err(AddKey::Written)?;
    Ok(id.to_hex().as_str().to_owned())
}
