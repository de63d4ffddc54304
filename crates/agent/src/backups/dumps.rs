//! Databases that are known by their image, and how each writes its data out and reads it in again. Pure.
//!
//! Commands are words, and where a shell is needed, a script of ours without anything of a user's in it. Names and passwords are those that the container was made with; they reach the tools by
//! their environment, never by arguments.

use nm_types::backup::BackupDump;
use std::collections::BTreeMap;

/// How a container's data is written out and read in.
#[derive(Clone)]
pub struct Dump {
    pub command: Vec<String>,
    /// Reads the dump from its standard input.
    pub restore: Option<Vec<String>>,
    /// What it is called below `/dumps`.
    pub file: String,
    /// For both commands; values are secret.
    pub environment: BTreeMap<&'static str, String>,
    /// The same, of values that stand in files of the container.
    pub environment_files: BTreeMap<&'static str, String>,
    /// Where in the container the database's own files are: a dump stands for the volumes there.
    data: &'static [&'static str],
    /// Errors that the restore command writes and goes on from, and that are none.
    harmless: fn(&str) -> bool,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// The database that an image is, by the last part of its name: that of any registry and any tag. `environment` is the container's.
pub fn of_image(image: &str, environment: &BTreeMap<String, String>) -> Option<Dump> {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    let last = last.split(':').next().unwrap_or_default();
    let mut dump = match last {
        "postgres" | "postgis" | "pgvector" => Dump {
            command: words(&["pg_dumpall", "--clean", "--if-exists"]),
            restore: Some(words(&["sh", "-c", include_str!("postgres-restore.sh")])),
            file: "postgres.sql".to_owned(),
            // Messages in English, so that those that mean nothing are known.
            environment: BTreeMap::from([
                ("PGUSER", "postgres".to_owned()),
                ("PGOPTIONS", "-c lc_messages=C".to_owned()),
                ("LC_ALL", "C".to_owned()),
            ]),
            environment_files: BTreeMap::new(),
            data: &["/var/lib/postgresql"],
            harmless: harmless_to_postgres,
        },
        "mysql" | "mariadb" => {
            let (tool, client) = if last == "mysql" {
                ("mysqldump", "mysql")
            } else {
                ("mariadb-dump", "mariadb")
            };
            let all = [
                "--all-databases",
                "--single-transaction",
                "--routines",
                "--triggers",
                "--events",
                "--flush-privileges",
            ];
            Dump {
                command: words(&[&[tool, "--user=root"][..], &all].concat()),
                restore: Some(words(&[client, "--user=root"])),
                file: "mysql.sql".to_owned(),
                environment: BTreeMap::new(),
                environment_files: BTreeMap::new(),
                data: &["/var/lib/mysql"],
                harmless: |_| false,
            }
        }
        // Redis itself reads such a file only when it starts, and not even then where it keeps an append-only file. Its volume stays
        // in the backup: other things may stand in it.
        "redis" => Dump {
            command: words(&["redis-cli", "--rdb", "-"]),
            restore: Some(words(&["sh", "-c", include_str!("redis-restore.sh")])),
            file: "redis.rdb".to_owned(),
            environment: BTreeMap::new(),
            environment_files: BTreeMap::new(),
            data: &[],
            harmless: |_| false,
        },
        _ => return None,
    };
    let taken: &[(&'static str, &str)] = match last {
        "mysql" | "mariadb" => &[("MYSQL_PWD", "MYSQL_ROOT_PASSWORD"), ("MYSQL_PWD", "MARIADB_ROOT_PASSWORD")],
        "redis" => &[("REDISCLI_AUTH", "REDIS_PASSWORD")],
        _ => &[("PGUSER", "POSTGRES_USER"), ("PGPASSWORD", "POSTGRES_PASSWORD")],
    };
    for (to, from) in taken {
        if let Some(value) = environment.get(*from).filter(|value| !value.is_empty()) {
            dump.environment.insert(*to, value.clone());
        } else if let Some(path) = environment.get(&format!("{from}_FILE")) {
            dump.environment_files.insert(*to, path.clone());
        }
    }
    Some(dump)
}

/// A dump of the user's own. Nothing is known of where its data lies, so no volume is left out for it.
pub fn of_user(dump: &BackupDump) -> Dump {
    let words = |words: &[nm_types::backup::DumpWord]| words.iter().map(|w| w.as_str().to_owned()).collect::<Vec<_>>();
    Dump {
        command: words(&dump.command),
        restore: (!dump.restore.is_empty()).then(|| words(&dump.restore)),
        file: dump.file.as_ref().map_or_else(|| "dump".to_owned(), ToString::to_string),
        environment: BTreeMap::new(),
        environment_files: BTreeMap::new(),
        data: &[],
        harmless: |_| false,
    }
}

impl Dump {
    /// Its environment as Docker takes it.
    pub fn variables(&self) -> Vec<String> {
        self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Whether a mount at `destination` holds nothing but the database's own files.
    pub fn stands_for(&self, destination: &str) -> bool {
        let within = |data: &&str| {
            destination
                .strip_prefix(*data)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.data.iter().any(within)
    }

    /// What is wrong in what a restore command wrote to its standard error although it ended well.
    pub fn complaint<'a>(&self, stderr: &'a str) -> Option<&'a str> {
        // psql goes on after an error, and ends with 0.
        let wrong = |line: &&str| line.contains("ERROR:") || line.contains("FATAL:");
        stderr.lines().filter(wrong).find(|line| !(self.harmless)(line))
    }
}

/// A dump of everything makes and drops the very role that reads it in, and others that own what is in none of its databases: neither
/// can be done, neither needs to be.
fn harmless_to_postgres(line: &str) -> bool {
    let role = line.contains("ERROR:  role \"");
    line.contains("ERROR:  current user cannot be dropped")
        || (role && line.ends_with("\" already exists"))
        || (role && line.ends_with("\" cannot be dropped because some objects depend on it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(image: &str) -> Option<Dump> {
        of_image(image, &BTreeMap::new())
    }

    #[test]
    fn databases_are_known_by_their_image() {
        let file = |image: &str| of(image).map(|d| d.file);
        for (image, expected) in [
            ("postgres", Some("postgres.sql")),
            ("postgres:17-alpine", Some("postgres.sql")),
            ("docker.io/library/postgres@sha256:00", Some("postgres.sql")),
            ("registry.example:5000/mirror/mariadb:11", Some("mysql.sql")),
            ("mysql:8", Some("mysql.sql")),
            ("redis:7", Some("redis.rdb")),
            ("postgres-exporter", None),
            ("redis/insight", None),
            ("localhost:5000/web", None),
            ("", None),
        ] {
            assert_eq!(file(image).as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn a_dump_stands_for_the_databases_own_files_alone() {
        let postgres = of("postgres:17").unwrap();
        assert!(postgres.stands_for("/var/lib/postgresql") && postgres.stands_for("/var/lib/postgresql/data"));
        assert!(!postgres.stands_for("/var/lib") && !postgres.stands_for("/var/lib/postgresql2") && !postgres.stands_for("/data"));
        assert!(!of("redis").unwrap().stands_for("/data"));
    }

    #[test]
    fn an_error_that_psql_went_on_from_is_found() {
        let postgres = of("postgres").unwrap();
        let fine = "psql:<stdin>:14: ERROR:  current user cannot be dropped\nERROR:  role \"app\" already exists\n\
            ERROR:  role \"clerk\" cannot be dropped because some objects depend on it\nNOTICE:  x\n";
        assert_eq!(postgres.complaint(fine), None);
        for bad in [
            "ERROR:  database \"app\" is being accessed by other users",
            "ERROR:  relation \"role\" already exists",
        ] {
            assert_eq!(postgres.complaint(&format!("{fine}{bad}\n")), Some(bad));
        }
    }

    #[test]
    fn names_and_passwords_are_the_containers_and_no_arguments() {
        let given = [
            ("POSTGRES_USER", "app"),
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/pg"),
            ("MARIADB_ROOT_PASSWORD", "hush"),
        ];
        let environment = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let postgres = of_image("postgres", &environment).unwrap();
        assert_eq!(postgres.environment["PGUSER"], "app");
        assert_eq!(postgres.environment_files["PGPASSWORD"], "/run/secrets/pg");
        let mariadb = of_image("mariadb:11", &environment).unwrap();
        assert_eq!(mariadb.environment["MYSQL_PWD"], "hush");
        assert_eq!(mariadb.command[0], "mariadb-dump");
        assert!(!mariadb.command.iter().any(|word| word.contains("hush")));
    }
}
