//! The tables, as numbered SQL files; the same for each kind of database.
//!
//! A database notes which of them it has been made with, and by which bytes, in `store_migrations`.

use std::collections::HashMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha384};

/// Notes which files were applied.
pub(super) const NOTES: &str =
    "CREATE TABLE IF NOT EXISTS store_migrations (version BIGINT NOT NULL PRIMARY KEY, checksum TEXT NOT NULL)";

/// What has been noted.
pub(super) const NOTED: &str = "SELECT version, checksum FROM store_migrations";

/// Notes one.
pub(super) const NOTE: &str = "INSERT INTO store_migrations (version, checksum) VALUES ($1, $2)";

/// A file.
#[derive(Debug)]
pub(super) struct Migration {
    pub version: i64,
    pub sql: &'static str,
}

/// Why the files do not go with a database.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Unfit {
    #[error("a later version of the gateway has used it")]
    Later,
    #[error("table file {0} is not the one that it was made with")]
    OtherFile(i64),
}

macro_rules! files {
    ($($version:literal: $name:literal),* $(,)?) => {
        &[$(Migration { version: $version, sql: include_str!(concat!("migrations/", $name, ".sql")) }),*]
    };
}

const FILES: &[Migration] = files![
    1: "0001_tasks",
    2: "0002_artifacts",
    3: "0003_catalog",
    4: "0004_sessions",
    5: "0005_pools",
    6: "0006_workers",
    7: "0007_tenants",
    8: "0008_policies",
    9: "0009_ledger",
    10: "0010_budgets",
    11: "0011_audit",
    12: "0012_prices",
    13: "0013_owner",
    15: "0015_alive",
    16: "0016_declared",
    17: "0017_spool",
];

impl Migration {
    /// SHA-384 of the file, in hexadecimal digits.
    pub fn checksum(&self) -> String {
        Sha384::digest(self.sql).iter().fold(String::new(), |mut digits, byte| {
            // Infallible: it is a text.
            _ = write!(digits, "{byte:02x}");
            digits
        })
    }
}

/// The files that are still to be applied to a database that has noted these, in their order.
pub(super) fn pending(noted: Vec<(i64, String)>) -> Result<Vec<&'static Migration>, Unfit> {
    let mut noted: HashMap<i64, String> = noted.into_iter().collect();
    let mut pending = Vec::new();
    for migration in FILES {
        match noted.remove(&migration.version) {
            None => pending.push(migration),
            Some(checksum) if checksum == migration.checksum() => {}
            Some(_) => return Err(Unfit::OtherFile(migration.version)),
        }
    }
    if noted.is_empty() { Ok(pending) } else { Err(Unfit::Later) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted() -> Vec<(i64, String)> {
        FILES.iter().map(|file| (file.version, file.checksum())).collect()
    }

    fn versions(pending: Result<Vec<&Migration>, Unfit>) -> Vec<i64> {
        pending.unwrap().iter().map(|file| file.version).collect()
    }

    #[test]
    fn what_is_not_noted_is_applied_in_the_order_of_the_files() {
        let all: Vec<i64> = FILES.iter().map(|file| file.version).collect();
        assert!(all.is_sorted());
        assert_eq!(versions(pending(Vec::new())), all);
        assert_eq!(versions(pending(noted()[..10].to_vec())), all[10..]);
        assert_eq!(versions(pending(noted())), [0_i64; 0]);
    }

    #[test]
    fn a_database_that_does_not_go_with_the_files_is_refused() {
        assert_eq!(pending([noted(), vec![(9999, String::new())]].concat()).unwrap_err(), Unfit::Later);
        assert_eq!(pending(vec![(3, String::new())]).unwrap_err(), Unfit::OtherFile(3));
    }

    #[test]
    fn each_file_is_in_the_list_under_its_number() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/migrations");
        let mut files: Vec<(i64, String)> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name(), std::fs::read_to_string(file.path()).unwrap()))
            .map(|(name, sql)| (name.to_str().unwrap()[..4].parse().unwrap(), sql))
            .collect();
        files.sort_unstable();
        let listed: Vec<(i64, String)> = FILES.iter().map(|file| (file.version, file.sql.to_owned())).collect();
        assert_eq!(files, listed);
    }
}
