//! What is written once a task has ended: it may be written again, and waits in a file where the database is away.

use serde::{Deserialize, Serialize};

use super::journal::{self, EndedRow};
use super::ledger::{self, LedgerRow};
use super::sessions::{self, SpentRow};
use super::sql::{self, Connection};

/// The end of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum End {
    /// What it has used; it needs nothing else.
    Entry(LedgerRow),
    /// Of a task that ends with the process, and is charged to a session.
    Hold { spent: SpentRow, entry: Option<LedgerRow> },
    /// Of a task that outlives the process.
    Task { row: EndedRow, spent: Option<SpentRow>, entry: Option<LedgerRow> },
}

/// How a row gets into the ledger.
pub(super) enum Entering {
    /// With others, under its number.
    First,
    /// Unless it is there already: under whatever number is free, because another gateway may have counted on.
    Again,
}

impl End {
    /// Writes it.
    pub async fn file(&self, connection: &mut Connection, entering: &Entering) -> sql::Result<()> {
        if let Self::Entry(entry) = self {
            return enter(connection, entry, entering).await;
        }
        let mut all_or_none = connection.begin().await?;
        let (ended, spent, entry) = match self {
            Self::Task { row, spent, entry } => {
                (journal::set_ended(&mut all_or_none, row).await?, spent.as_ref(), entry.as_ref())
            }
            Self::Hold { spent, entry } => (true, Some(spent), entry.as_ref()),
            Self::Entry(entry) => (true, None, Some(entry)),
        };
        if let Some(spent) = spent {
            sessions::settle(&mut all_or_none, spent.clone()).await?;
        }
        // The first end stays.
        if let Some(entry) = entry.filter(|_| ended) {
            enter(&mut all_or_none, entry, entering).await?;
        }
        all_or_none.commit().await
    }
}

async fn enter(connection: &mut Connection, entry: &LedgerRow, entering: &Entering) -> sql::Result<()> {
    match entering {
        Entering::First => ledger::insert(connection, entry.clone()).await,
        Entering::Again => ledger::insert_unless_there(connection, entry).await,
    }
}
