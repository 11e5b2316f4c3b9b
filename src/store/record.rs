//! What becomes of a task that runs: it may be written again, and waits in a file where the database is away. So tasks start and end
//! also then.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::holds::{self, HeldRows, SpentRow};
use super::journal::{self, EndedRow};
use super::ledger::{self, LedgerRow};
use super::sql::{self, Connection};

/// One step of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Record {
    /// The gateway lives, and so do the tasks that run in it.
    Alive { at_ms: i64 },
    /// One that ends with the process is let in, and has reserved something.
    Held(HeldRows),
    /// An engine gets one that ends with the process.
    HoldStarted { task_id: String, at_ms: i64 },
    /// An engine gets one that outlives the process; JSON.
    TaskStarted { id: String, started: String },
    /// What one has used that has ended; it needs nothing else.
    Entry(LedgerRow),
    /// The end of one that ends with the process, and is charged to a session.
    Hold { spent: SpentRow, entry: Option<LedgerRow> },
    /// The end of one that outlives the process.
    Task { row: EndedRow, spent: Option<SpentRow>, entry: Option<LedgerRow> },
}

/// How a record gets into the tables.
pub(super) enum Entering<'t> {
    /// Rows of the ledger with others, under their numbers.
    First,
    /// Not where its task is among these, which are in the ledger already; rows of the ledger under whatever number is free, because
    /// another gateway may have counted on.
    Again(&'t mut HashSet<String>),
}

impl Entering<'_> {
    /// Whether a task is written to its end already.
    fn has_ended(&self, task: &str) -> bool {
        matches!(self, Self::Again(there) if there.contains(task))
    }
}

impl Record {
    /// What goes into the ledger with it.
    pub fn entry(&self) -> Option<&LedgerRow> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Hold { entry, .. } | Self::Task { entry, .. } => entry.as_ref(),
            Self::Alive { .. } | Self::Held(_) | Self::HoldStarted { .. } | Self::TaskStarted { .. } => None,
        }
    }

    /// Writes it.
    pub async fn file(&self, connection: &mut Connection, entering: &mut Entering<'_>) -> sql::Result<()> {
        match self {
            Self::Alive { at_ms } => holds::set_alive(connection, *at_ms).await,
            Self::Held(held) => match &held.hold {
                Some(hold) if entering.has_ended(&hold.task_id) => Ok(()),
                _ => holds::take(connection, held.clone()).await,
            },
            Self::HoldStarted { task_id, at_ms } => holds::start(connection, task_id, *at_ms).await,
            Self::TaskStarted { id, started } => journal::set_started(connection, id, started).await,
            Self::Entry(entry) => enter(connection, entry, entering).await,
            Self::Hold { spent, .. } if entering.has_ended(&spent.task_id) => Ok(()),
            Self::Hold { spent, entry } => {
                let mut all_or_none = connection.begin().await?;
                holds::settle(&mut all_or_none, spent.clone()).await?;
                if let Some(entry) = entry {
                    enter(&mut all_or_none, entry, entering).await?;
                }
                all_or_none.commit().await
            }
            Self::Task { row, spent, entry } => {
                let mut all_or_none = connection.begin().await?;
                let ended = journal::set_ended(&mut all_or_none, row).await?;
                if let Some(spent) = spent {
                    holds::settle(&mut all_or_none, spent.clone()).await?;
                }
                // The first end stays.
                if let Some(entry) = entry.as_ref().filter(|_| ended) {
                    enter(&mut all_or_none, entry, entering).await?;
                }
                all_or_none.commit().await
            }
        }
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
