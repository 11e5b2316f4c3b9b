//! The machine behind sessions. Time comes in from outside, and rows go in and out.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::Gone;
use crate::budgets::{AccountId, Amounts, Budgets, Left};
use crate::ids::{PoolId, ReplicaId, SessionId, TenantId};
use crate::store::{SessionRow, signed};
use crate::tasks::{Clock, millis};

/// Whose session it is, and which of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub tenant: TenantId,
    pub id: SessionId,
}

/// What holds for all sessions.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a new session lives without use.
    pub ttl: Duration,
    /// Sessions that nothing uses at most; the one whose time is over soonest goes first.
    pub most_idle: usize,
    /// What the tasks of a new session may use in all.
    pub budget: Left,
}

/// Where a task of a session ran to an end of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Good {
    pub pool_id: PoolId,
    pub replica_id: ReplicaId,
    /// The part of its prompt that came from the engine's cache, 0 to 1.
    pub warmth: f64,
}

/// A session as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    pub ttl_remaining: Duration,
    pub turns: u64,
    /// The last good run.
    pub last: Option<Good>,
    /// Of its budgets.
    pub left: Left,
}

#[derive(Debug)]
struct Session {
    /// Never used twice.
    number: u64,
    ttl: Duration,
    /// Of it, that have not ended.
    tasks: u64,
    /// When it goes; counts only while it has no tasks, and then the same stands in `idle`.
    expires: Instant,
    turns: u64,
    last: Option<Good>,
    account: AccountId,
    budget: Left,
    /// Whether another process could find it.
    filed: bool,
}

/// All sessions.
#[derive(Debug)]
pub struct Book {
    settings: Settings,
    /// Where each session has an account.
    budgets: Budgets,
    sessions: HashMap<Key, Session>,
    /// Those without tasks, by when they go.
    idle: BTreeMap<(Instant, u64), Key>,
    /// The number of the last one that was made.
    made: u64,
    /// Which sessions have gone since somebody asked.
    gone: Vec<Departed>,
}

/// A session that has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departed {
    pub why: Gone,
    /// Of one that is filed.
    pub number: Option<u64>,
}

impl Book {
    pub fn new(settings: Settings, budgets: Budgets) -> Self {
        Self { settings, budgets, sessions: HashMap::new(), idle: BTreeMap::new(), made: 0, gone: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes in a session of an earlier process, as it was filed; where it is `used` its time to live starts anew.
    ///
    /// # Errors
    ///
    /// Its number, where it is over, and its row is to go.
    pub fn restore(&mut self, row: &SessionRow, used: bool, now: Clock) -> Result<Key, i64> {
        let number = row.number.cast_unsigned();
        self.made = self.made.max(number);
        let id = SessionId::parse(&row.id).ok_or(row.number)?;
        let key = Key { tenant: TenantId::from(row.tenant.as_str()), id };
        let ttl = Duration::from_millis(row.ttl_ms.cast_unsigned());
        let ahead_ms = row.expires_at_ms.cast_unsigned().saturating_sub(now.unix_ms);
        // Where the clock of the machine was turned back it lives no longer than a new one.
        let rest = if used { ttl } else { Duration::from_millis(ahead_ms).min(ttl) };
        if rest.is_zero() {
            return Err(row.number);
        }
        // There is one only, unless deleting has failed; the rows come in the order of their numbers.
        self.forget(&key, Gone::Expired);
        let unsigned = |limit: Option<i64>| limit.map(i64::cast_unsigned);
        let budget = Left {
            tokens: unsigned(row.limit_tokens),
            time_ms: unsigned(row.limit_time_ms),
            cost: unsigned(row.limit_cost),
        };
        let spent = Amounts {
            tokens: row.spent_tokens.cast_unsigned(),
            time_ms: row.spent_time_ms.cast_unsigned(),
            cost: row.spent_cost.cast_unsigned(),
        };
        let session = Session {
            number,
            ttl,
            tasks: 0,
            expires: now.instant + rest,
            turns: row.turns.cast_unsigned(),
            last: None,
            account: self.budgets.open(budget, spent),
            budget,
            filed: true,
        };
        self.idle.insert((session.expires, number), key.clone());
        self.sessions.insert(key.clone(), session);
        Ok(key)
    }

    /// A session as it is to be filed now, where it is still the one with this number.
    pub fn row(&mut self, key: &Key, number: u64, now: Clock) -> Option<SessionRow> {
        let session = self.sessions.get_mut(key).filter(|session| session.number == number)?;
        session.filed = true;
        let spent = self.budgets.spent(session.account);
        Some(SessionRow {
            number: signed(number),
            tenant: key.tenant.to_string(),
            id: key.id.0.to_string(),
            ttl_ms: signed(millis(session.ttl)),
            expires_at_ms: signed(now.unix_ms_at(session.expires)),
            turns: signed(session.turns),
            limit_tokens: session.budget.tokens.map(signed),
            limit_time_ms: session.budget.time_ms.map(signed),
            limit_cost: session.budget.cost.map(signed),
            spent_tokens: signed(spent.tokens),
            spent_time_ms: signed(spent.time_ms),
            spent_cost: signed(spent.cost),
        })
    }

    /// Which sessions have gone since this was called last.
    pub fn take_gone(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.gone)
    }

    /// One more task of a session, which is made where there is none; its number and its account.
    pub fn enter(&mut self, key: &Key, now: Instant) -> (u64, AccountId) {
        self.with(key, now, |session| {
            session.tasks += 1;
            (session.number, session.account)
        })
    }

    /// One task less, where the session is still the same.
    pub fn leave(&mut self, key: &Key, number: u64, now: Instant) {
        if self.sessions.get(key).is_some_and(|session| session.number == number) {
            self.with(key, now, |session| session.tasks -= 1);
        }
    }

    /// A task ran to an end of its own, where the session is still the same.
    pub fn good(&mut self, key: &Key, number: u64, good: Good) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.number == number) {
            session.turns += 1;
            session.last = Some(good);
        }
    }

    pub fn look(&self, key: &Key, now: Instant) -> Option<Look> {
        let session = self.sessions.get(key)?;
        let ttl_remaining =
            if session.tasks > 0 { session.ttl } else { session.expires.saturating_duration_since(now) };
        let look = Look {
            ttl_remaining,
            turns: session.turns,
            last: session.last.clone(),
            left: self.budgets.left(vec![session.account]),
        };
        // What is to go at the next sweep has gone.
        (!ttl_remaining.is_zero()).then_some(look)
    }

    /// Starts its time to live anew; its number, where there is one.
    pub fn extend(&mut self, key: &Key, now: Instant) -> Option<u64> {
        self.look(key, now)?;
        Some(self.with(key, now, |session| session.number))
    }

    /// What a task of the session counts for; of one that is not there yet, what it will begin with.
    pub fn accounts(&self, key: &Key, now: Instant) -> (Vec<AccountId>, Left) {
        let there = self.sessions.get(key).filter(|_| self.look(key, now).is_some());
        there.map_or((Vec::new(), self.settings.budget), |session| (vec![session.account], Left::default()))
    }

    /// Makes or changes a session, in what is named; its number. Budgets are what it may use in all, what is spent included.
    pub fn put(&mut self, key: &Key, ttl: Option<Duration>, budget: Left, now: Instant) -> u64 {
        let (number, account, limits) = self.with(key, now, |session| {
            session.ttl = ttl.unwrap_or(session.ttl);
            session.budget = budget.or(session.budget);
            (session.number, session.account, session.budget)
        });
        self.budgets.limit(account, limits);
        number
    }

    /// Forgets a session; whether there was one.
    pub fn evict(&mut self, key: &Key, now: Instant) -> bool {
        let found = self.look(key, now).is_some();
        self.forget(key, if found { Gone::Evicted } else { Gone::Expired });
        found
    }

    /// Forgets what is over.
    pub fn sweep(&mut self, now: Instant) {
        while let Some(((expires, _), key)) = self.idle.first_key_value() {
            if *expires > now {
                return;
            }
            let key = key.clone();
            self.forget(&key, Gone::Expired);
        }
    }

    /// Uses a session, made where there is none, and starts its time to live anew.
    fn with<T>(&mut self, key: &Key, now: Instant, change: impl FnOnce(&mut Session) -> T) -> T {
        if self.look(key, now).is_none() {
            self.forget(key, Gone::Expired);
        }
        let (made, budgets, Settings { ttl, budget, .. }) = (&mut self.made, &self.budgets, self.settings);
        let session = self.sessions.entry(key.clone()).or_insert_with(|| {
            *made += 1;
            Session {
                number: *made,
                ttl,
                tasks: 0,
                expires: now,
                turns: 0,
                last: None,
                account: budgets.open(budget, Amounts::default()),
                budget,
                filed: false,
            }
        });
        self.idle.remove(&(session.expires, session.number));
        let result = change(session);
        session.expires = now + session.ttl;
        if session.tasks == 0 {
            self.idle.insert((session.expires, session.number), key.clone());
        }
        self.make_room();
        result
    }

    fn make_room(&mut self) {
        while self.idle.len() > self.settings.most_idle {
            let Some((_, key)) = self.idle.first_key_value() else { return };
            let key = key.clone();
            self.forget(&key, Gone::Crowded);
        }
    }

    fn forget(&mut self, key: &Key, why: Gone) {
        if let Some(session) = self.sessions.remove(key) {
            self.idle.remove(&(session.expires, session.number));
            // What its tasks still hold goes with the account.
            self.budgets.close(session.account);
            self.gone.push(Departed { why, number: session.filed.then_some(session.number) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budgets::Amounts;

    const TTL: Duration = Duration::from_secs(60);

    fn book(most_idle: usize) -> (Book, Instant) {
        let settings = Settings { ttl: TTL, most_idle, budget: Left::default() };
        (Book::new(settings, Budgets::new()), Instant::now())
    }

    fn gone(book: &mut Book) -> Vec<Gone> {
        book.take_gone().into_iter().map(|departed| departed.why).collect()
    }

    fn key(number: u128) -> Key {
        Key { tenant: TenantId::from("default"), id: SessionId(uuid::Uuid::from_u128(number)) }
    }

    fn good(warmth: f64) -> Good {
        Good { pool_id: PoolId::from("p"), replica_id: ReplicaId::from("p-0"), warmth }
    }

    #[test]
    fn a_session_lives_as_long_as_its_tasks_and_then_for_its_time() {
        let (mut book, start) = book(10);
        let (number, _) = book.enter(&key(1), start);
        let late = start + TTL * 10;
        book.sweep(late);
        assert_eq!(book.look(&key(1), late).unwrap().ttl_remaining, TTL);
        book.leave(&key(1), number, late);
        assert_eq!(book.look(&key(1), late + TTL / 4).unwrap().ttl_remaining, TTL * 3 / 4);
        assert!(book.extend(&key(1), late + TTL / 2).is_some());
        book.sweep(late + TTL);
        assert!(book.look(&key(1), late + TTL).is_some());
        assert_eq!(book.look(&key(1), late + TTL * 3 / 2), None, "also before it is swept");
        assert!(book.extend(&key(1), late + TTL * 2).is_none());
        book.sweep(late + TTL * 2);
        assert!(book.is_empty());
        assert_eq!(gone(&mut book), [Gone::Expired]);
    }

    #[test]
    fn what_comes_late_for_an_evicted_session_does_not_meet_its_successor() {
        let (mut book, now) = book(10);
        let (first, _) = book.enter(&key(1), now);
        assert!(book.evict(&key(1), now));
        assert!(!book.evict(&key(1), now));
        let (second, _) = book.enter(&key(1), now);
        book.good(&key(1), first, good(1.0));
        book.leave(&key(1), first, now);
        assert_eq!(book.look(&key(1), now).unwrap().turns, 0);
        book.good(&key(1), second, good(0.5));
        let look = book.look(&key(1), now).unwrap();
        assert_eq!((look.turns, look.last), (1, Some(good(0.5))));
        book.leave(&key(1), second, now);
        assert_eq!(gone(&mut book), [Gone::Evicted]);
    }

    #[test]
    fn too_many_idle_sessions_go_in_the_order_in_which_their_time_is_over() {
        let (mut book, now) = book(2);
        book.put(&key(1), Some(TTL * 5), Left::default(), now);
        book.put(&key(2), None, Left::default(), now);
        let (busy, _) = book.enter(&key(3), now);
        book.put(&key(4), Some(TTL * 2), Left::default(), now);
        assert_eq!([1, 2, 3, 4].map(|number| book.look(&key(number), now).is_some()), [true, false, true, true]);
        book.leave(&key(3), busy, now);
        assert_eq!([1, 3, 4].map(|number| book.look(&key(number), now).is_some()), [true, false, true]);
        assert_eq!(gone(&mut book), [Gone::Crowded, Gone::Crowded]);
    }

    #[test]
    fn a_budget_changes_in_what_is_named_and_counts_what_was_spent() {
        let (mut book, now) = book(10);
        let left = |tokens, time_ms| Left { tokens, time_ms, cost: None };
        book.put(&key(1), None, left(Some(100), Some(50)), now);
        let (_, account) = book.enter(&key(1), now);
        let spent = Amounts { tokens: 30, ..Amounts::default() };
        book.budgets.reserve(vec![account], |_| Ok((spent, ()))).unwrap().0.settle(spent, 0);
        assert_eq!(book.look(&key(1), now).unwrap().left, left(Some(70), Some(50)));
        book.put(&key(1), None, left(Some(200), None), now);
        assert_eq!(book.look(&key(1), now).unwrap().left, left(Some(170), Some(50)));
        book.evict(&key(1), now);
        assert_eq!(book.accounts(&key(1), now), (Vec::new(), Left::default()));
    }

    #[test]
    fn sessions_of_two_tenants_are_two() {
        let (mut book, now) = book(10);
        book.put(&key(1), None, Left::default(), now);
        assert_eq!(book.look(&Key { tenant: TenantId::from("other"), ..key(1) }, now), None);
    }
}
