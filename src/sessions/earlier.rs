//! The sessions of an earlier process, and what its tasks had reserved in them when it ended.
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
use crate::budgets::price::{Tokens, time_cost};
use crate::budgets::{Amounts, Budgets, Left};
use crate::ids::TaskId;
use crate::store::{HoldRow, Store, StoreError};
use crate::tasks::{Clock, Hold, Journal, Kept, Spending, Stage, Ties, millis};

/// What the tasks of an earlier process had reserved.
pub struct Holds(HashMap<TaskId, Held>);

struct Held {
    session: Key,
    /// Of the session.
    number: u64,
    hold: Hold,
    /// Of a task that ended with its process.
    started_at_ms: Option<u64>,
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
        let (rows, holds) = (store.sessions().await?, store.holds().await?);
        let used: HashSet<_> = holds.iter().map(|hold| hold.session).collect();
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
        let held = |row: HoldRow| Some((TaskId::parse(&row.task_id)?, Held::read(&row, there.get(&row.session)?)?));
        Ok((sessions, Holds(holds.into_iter().filter_map(held).collect())))
    }

    /// What those of the tasks that are `kept` hold again which have not ended. What others held is charged or given back.
    pub fn resume(self: &Arc<Self>, holds: Holds, kept: &[Kept], journal: &Journal) -> HashMap<TaskId, Ties> {
        let (Holds(mut holds), now) = (holds, Clock::now());
        let mut ties = HashMap::new();
        // What waits had its reservation before what ran is charged for its time.
        for task in kept.iter().filter(|task| matches!(task.stage, Stage::Waiting(_))) {
            let again = holds.remove(&task.spec.id).and_then(|held| self.hold_again(held));
            ties.extend(again.map(|ties| (task.spec.id, ties)));
        }
        for task in kept {
            let Stage::Started(log) = &task.stage else { continue };
            let Some(held) = holds.remove(&task.spec.id) else { continue };
            let started = log.progress().started.map_or(now.instant, |(at, _)| at);
            let ran_ms = millis(now.instant.saturating_duration_since(started));
            ties.extend(self.hold_lost(held, ran_ms).map(|ties| (task.spec.id, ties)));
        }
        for (id, held) in holds {
            let charged = held.started_at_ms.map(|started_at_ms| now.unix_ms.saturating_sub(started_at_ms));
            let charged =
                charged.and_then(|ran_ms| self.hold_lost(held, ran_ms)?.spending?.settle(Tokens::default(), 0));
            journal.settled(id, now.unix_ms, charged.unwrap_or_default());
        }
        ties
    }

    /// The turn of a task in its session, unless that has given way to another.
    fn enter_again(self: &Arc<Self>, session: Key, number: u64) -> Option<Turn> {
        Some(self.enter(session)).filter(|turn| turn.session() == number)
    }

    fn hold_again(self: &Arc<Self>, held: Held) -> Option<Ties> {
        let Held { session, number, hold: Hold { amounts, terms }, .. } = held;
        let turn = self.enter_again(session, number)?;
        let reservation = self.budgets.reserve_again(vec![turn.account()], |_| amounts);
        Some(Ties { held: vec![Box::new(turn)], spending: Some(Spending::new(reservation, terms, number)) })
    }

    /// Of a task that ran for no longer than this.
    fn hold_lost(self: &Arc<Self>, held: Held, ran_ms: u64) -> Option<Ties> {
        let Held { session, number, hold: Hold { amounts, terms }, .. } = held;
        let turn = self.enter_again(session, number)?;
        let cost = terms.tokens_cost.saturating_add(time_cost(&terms.price, ran_ms));
        let most = Amounts { tokens: amounts.tokens, time_ms: ran_ms, cost };
        // What was reserved at first was covered, also where the limit was lowered since.
        let plan = |left: &Left| most.least(left.whole().most(amounts));
        let reservation = self.budgets.reserve_again(vec![turn.account()], plan);
        Some(Ties { held: vec![Box::new(turn)], spending: Some(Spending::lost(reservation, terms, number)) })
    }
}

impl Held {
    /// `None` where it is nothing that can be read.
    fn read(row: &HoldRow, session: &Key) -> Option<Self> {
        let hold = serde_json::from_str(&row.held);
        let hold = hold.inspect_err(|error| tracing::error!(task_id = row.task_id, %error, "a reservation is lost"));
        Some(Self {
            session: session.clone(),
            number: row.session.cast_unsigned(),
            hold: hold.ok()?,
            started_at_ms: row.started_at_ms.map(i64::cast_unsigned),
        })
    }
}
