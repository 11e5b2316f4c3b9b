//! The sessions of an earlier process, and what its tasks had reserved in them, and of the budgets of tenants and keys, when it
//! ended.
//!
//! | the task | then |
//! | --- | --- |
//! | waited, and is queued again | its reservation is made again, whether or not the budget still covers it: it was let in |
//! | ran, or was a chat that had started | it is charged for all of its tokens, and for engine time until now |
//! | was a chat that waited | it has used nothing |
//!
//! What a task had used when its process was killed is in nobody's memory, and its clients may have seen every token that it
//! was granted: charging less would be a way to get tokens for nothing. Tokens and their price are therefore charged as they
//! were reserved, which is the most that they can have been. Its engine worked from its start until some moment before this
//! one, so the time between is charged, and its price, but no more than what is left: what was really used was within the
//! budget. So no crash lets a budget be overspent, and none is charged beyond its limit.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::{Book, Key, SessionMetrics, Sessions, Settings, Turn};
use crate::budgets::price::Tokens;
use crate::budgets::{Budgets, Holders, Owners};
use crate::ids::TaskId;
use crate::store::{HoldRow, Store, StoreError};
use crate::tasks::{Clock, Hold, Holder, Journal, Kept, Observer, Spending, Stage, TaskSpec, Ties, millis};

/// What the tasks of an earlier process had reserved.
pub struct Holds {
    holds: HashMap<TaskId, Held>,
    /// When that process was seen to live last; `None` where nobody has looked.
    alive_ms: Option<u64>,
}

/// A process that lives is seen to within so many ms.
const SEEN_WITHIN_MS: u64 = 2000;

struct Held {
    /// The session, where it is still there, and its number.
    session: Option<(Key, u64)>,
    hold: Hold,
    /// Of a task that ended with its process.
    started_at_ms: Option<u64>,
}

impl Holds {
    /// Whose budgets they are of.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.holds.values().filter_map(|held| held.hold.holder.as_ref())
    }
}

impl Sessions {
    /// With the sessions of an earlier process, and what its tasks had reserved there.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(
        settings: Settings,
        budgets: Budgets,
        metrics: SessionMetrics,
        store: Store,
    ) -> Result<(Arc<Self>, Holds), StoreError> {
        let (rows, holds, alive_ms) = (store.sessions().await?, store.holds().await?, store.seen_alive().await?);
        let alive_ms = alive_ms.map(i64::cast_unsigned);
        let used: HashSet<_> = holds.iter().filter_map(|hold| hold.session).collect();
        let (mut book, now) = (Book::new(settings, budgets.clone()), Clock::now());
        let (mut there, mut over) = (HashMap::new(), Vec::new());
        for row in rows {
            match book.restore(&row, used.contains(&row.number), now) {
                Ok(key) => _ = there.insert(row.number, key),
                Err(number) => over.push(number),
            }
        }
        let sessions = Arc::new(Self { metrics, budgets, store, book: Mutex::new(book) });
        let _over = sessions.forget(over);
        let ((), _gone) = sessions.change_book(|_, _| ());
        let held = |row: HoldRow| {
            let session = row.session.and_then(|number| Some((there.get(&number)?.clone(), number.cast_unsigned())));
            Some((TaskId::parse(&row.task_id)?, Held::read(&row, session)?))
        };
        let holds = holds.into_iter().filter_map(held).collect();
        Ok((sessions, Holds { holds, alive_ms }))
    }

    /// What those of the tasks that are `kept` hold again which have not ended. What others held is charged or given back. The
    /// budgets of their [holders](Holds::holders) are ready.
    pub fn resume(self: &Arc<Self>, holds: Holds, kept: &[Kept], journal: &Journal) -> HashMap<TaskId, Ties> {
        let (Holds { mut holds, alive_ms }, now) = (holds, Clock::now());
        // The process lived no longer than this.
        let until_ms = alive_ms.map_or(now.unix_ms, |alive_ms| now.unix_ms.min(alive_ms + SEEN_WITHIN_MS));
        let (mut ties, mut lost) = (HashMap::new(), Vec::new());
        // Everybody has what it had reserved before what ran is charged for more time.
        for task in kept.iter().filter(|task| matches!(task.stage, Stage::Waiting(_))) {
            let again = match holds.remove(&task.spec.id) {
                Some(held) => self.hold_again(held, task.spec.owners()),
                None => self.unreserved(&task.spec),
            };
            ties.insert(task.spec.id, again);
        }
        for task in kept {
            let Stage::Started(log) = &task.stage else { continue };
            let started = log.progress().started.map_or(now.instant, |(at, _)| at);
            let started_ms = now.unix_ms.saturating_sub(millis(now.instant.saturating_duration_since(started)));
            let again = match holds.remove(&task.spec.id) {
                Some(held) => self.hold_lost(held, task.spec.owners()),
                None => self.unreserved(&task.spec),
            };
            lost.push((task.spec.id, until_ms.saturating_sub(started_ms)));
            ties.insert(task.spec.id, again);
        }
        let started = holds.into_iter().map(|(id, held)| {
            let (hold, started_ms) = (held.hold.clone(), held.started_at_ms);
            let owners = hold.holder.as_ref().map(Holder::owners).unwrap_or_default();
            (id, hold, started_ms, started_ms.map(|_| self.hold_lost(held, owners)))
        });
        let gone: Vec<_> = started.collect();
        for (id, ran_ms) in lost {
            if let Some(spending) = ties.get(&id).and_then(|ties| ties.spending.as_ref()) {
                spending.ran(ran_ms);
            }
        }
        for (id, hold, started_ms, ties) in gone {
            let charged = ties.and_then(|ties| ties.spending).and_then(|spending| {
                spending.ran(until_ms.saturating_sub(started_ms.unwrap_or(until_ms)));
                Some(spending.settle(Tokens::default(), 0, now.unix_ms)?.charged)
            });
            journal.settled(id, now.unix_ms, charged.unwrap_or_default(), (&hold, started_ms));
        }
        ties
    }

    /// The turn of a task in its session, where that is still there and has not given way to another.
    fn enter_again(self: &Arc<Self>, session: Option<(Key, u64)>) -> Option<Turn> {
        let (key, number) = session?;
        Some(self.enter(key)).filter(|turn| turn.session() == number)
    }

    fn hold_again(self: &Arc<Self>, held: Held, owners: Owners) -> Ties {
        let Hold { amounts, terms, .. } = held.hold;
        let turn = self.enter_again(held.session);
        let reservation = self.budgets.reserve_again(holders(turn.as_ref(), owners), |_| amounts);
        let spending = Spending::new(&self.budgets, reservation, terms, turn.as_ref().map(Turn::session));
        tied(turn, spending)
    }

    /// Of a task that ran: what it had reserved at first, which was covered, also where the limit was lowered since.
    fn hold_lost(self: &Arc<Self>, held: Held, owners: Owners) -> Ties {
        let Hold { amounts, terms, .. } = held.hold;
        let turn = self.enter_again(held.session);
        let reservation = self.budgets.reserve_again(holders(turn.as_ref(), owners), |_| amounts);
        let spending = Spending::lost(&self.budgets, reservation, terms, turn.as_ref().map(Turn::session));
        tied(turn, spending)
    }

    /// Of a task that had reserved nothing.
    fn unreserved(&self, spec: &TaskSpec) -> Ties {
        tied(None, Spending::unreserved(&self.budgets, spec.owners(), spec.price))
    }
}

/// What a task counts for.
fn holders(turn: Option<&Turn>, owners: Owners) -> Holders {
    Holders { accounts: turn.map(Turn::account).into_iter().collect(), owners }
}

fn tied(turn: Option<Turn>, spending: Spending) -> Ties {
    let held = turn.into_iter().map(|turn| Box::new(turn) as Box<dyn Observer>).collect();
    Ties { held, spending: Some(spending) }
}

impl Held {
    /// `None` where it is nothing that can be read.
    fn read(row: &HoldRow, session: Option<(Key, u64)>) -> Option<Self> {
        let hold = serde_json::from_str(&row.held);
        let hold = hold.inspect_err(|error| tracing::error!(task_id = row.task_id, %error, "a reservation is lost"));
        Some(Self { session, hold: hold.ok()?, started_at_ms: row.started_at_ms.map(i64::cast_unsigned) })
    }
}
