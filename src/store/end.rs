//! What is written once a task has ended: it may be written again, and waits in a file where the database is away.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::holds::{self, SpentRow};
use super::journal::{self, EndedRow};
use super::ledger::{self, LedgerRow};
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
pub(super) enum Entering<'t> {
    /// With others, under its number.
    First,
    /// Unless its task is among these, which are there already: under whatever number is free, because another gateway may have
    /// counted on.
    Again(&'t mut HashSet<String>),
}

impl End {
    /// What goes into the ledger with it.
    pub fn entry(&self) -> Option<&LedgerRow> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Hold { entry, .. } | Self::Task { entry, .. } => entry.as_ref(),
        }
    }

    /// Writes it.
    pub async fn file(&self, connection: &mut Connection, entering: &mut Entering<'_>) -> sql::Result<()> {
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
            holds::settle(&mut all_or_none, spent.clone()).await?;
        }
        // The first end stays.
        if let Some(entry) = entry.filter(|_| ended) {
            enter(&mut all_or_none, entry, entering).await?;
        }
        all_or_none.commit().await
    }
}

async fn enter(connection: &mut Connection, entry: &LedgerRow, entering: &mut Entering<'_>) -> sql::Result<()> {
    match entering {
        Entering::First => ledger::insert(connection, entry.clone()).await,
        Entering::Again(there) => {
            if there.insert(entry.task_id.clone()) {
                ledger::insert_as_last(connection, entry).await?;
            }
            Ok(())
        }
    }
}
