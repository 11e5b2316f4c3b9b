//! A request that is sent again with the same key gets what the first one got, and there is no second task.
//!
//! Only what was admitted is remembered: a request that was refused had no effect, and may succeed the next time. Of two
//! that come at once the second waits for the first. A task that was cancelled because its only client hung up is not
//! held against a client that comes back for it: it is run anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, detail};
use tokio::time::Instant;

use crate::ids::{TaskId, TenantId};
use crate::pools::Place;
use crate::store::KeyRow;
use crate::tasks::{Clock, Durable, Key, Owner};

/// Keys that are remembered at most; beyond them the oldest are forgotten before their time.
const MOST: usize = 100_000;

/// Characters of a key at most.
const LONGEST: usize = 128;

/// What makes a request the same as another: its key, and what it asks for.
#[derive(Debug, Clone)]
pub struct Once(Key);

impl Once {
    /// From the header's value, the operation, and the body.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS where the key is not 1 to 128 visible ASCII characters.
    pub fn new(key: &[u8], operation: &str, body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let fits = (1..=LONGEST).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
        let Some(key) = std::str::from_utf8(key).ok().filter(|_| fits) else {
            let message = "`Idempotency-Key` is 1 to 128 visible ASCII characters";
            return Err(ErrorEnvelope::invalid("Idempotency-Key", message));
        };
        let hash = Sha256::new().chain_update(operation).chain_update([0]).chain_update(body);
        Ok(Self(Key { name: key.to_owned(), fingerprint: format!("{:x}", hash.finalize()) }))
    }

    /// Of one of the tasks that the request is: under a name that no client can give.
    #[must_use]
    pub fn part(&self, index: usize) -> Self {
        Self(Key { name: format!("{} #{index}", self.0.name), fingerprint: self.0.fingerprint.clone() })
    }

    /// As it is filed beside its task.
    pub fn key(&self) -> Key {
        self.0.clone()
    }
}

/// What a first request got.
#[derive(Clone)]
pub struct First {
    fingerprint: String,
    pub id: TaskId,
    /// Where the task stood; not known where the process ended before it was filed.
    pub place: Option<Place>,
    /// Of a task that ends when its clients hang up.
    pub owner: Option<Weak<Owner>>,
    /// Of a task that outlives the process.
    pub durable: Option<Durable>,
}

/// A key that is in use: locked while a request with it is admitted, and empty until one was.
pub type Entry = tokio::sync::Mutex<Option<First>>;

/// The keys of late.
pub struct Idempotency {
    ttl: Duration,
    state: Mutex<State>,
}

type Name = (TenantId, Box<str>);

#[derive(Default)]
struct State {
    entries: HashMap<Name, Arc<Entry>>,
    /// In the order of their coming.
    order: VecDeque<(Instant, Name)>,
}

impl Idempotency {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, state: Mutex::default() }
    }

    /// The entry of a key, which is new where it was not used within the time that keys are remembered.
    pub fn entry(&self, tenant: &TenantId, once: &Once) -> Arc<Entry> {
        let now = Instant::now();
        let mut state = self.lock();
        while let Some((since, _)) = state.order.front()
            && (now.saturating_duration_since(*since) >= self.ttl || state.order.len() > MOST)
        {
            if let Some((_, name)) = state.order.pop_front() {
                state.entries.remove(&name);
            }
        }
        let name = (tenant.clone(), once.0.name.as_str().into());
        if let Some(entry) = state.entries.get(&name) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry::default());
        state.entries.insert(name.clone(), Arc::clone(&entry));
        state.order.push_back((now, name));
        entry
    }

    /// Remembers a key of an earlier process. To be called with the oldest first; what cannot be read, or is too old, is
    /// left out.
    pub fn remember(&self, row: &KeyRow) {
        let (now, unix_ms) = (Instant::now(), Clock::now().unix_ms);
        let age = Duration::from_millis(unix_ms.saturating_sub(row.created_at_ms.cast_unsigned()));
        let Some(first) = First::read(row).filter(|_| age < self.ttl) else { return };
        let name = (TenantId::from(row.tenant.as_str()), row.name.as_str().into());
        let mut state = self.lock();
        state.order.push_back((now.checked_sub(age).unwrap_or(now), Name::clone(&name)));
        state.entries.insert(name, Arc::new(Entry::new(Some(first))));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl First {
    /// Of a task that lives as long as its clients.
    pub fn owned(once: &Once, id: TaskId, place: Place, owner: Weak<Owner>) -> Self {
        Self { fingerprint: once.0.fingerprint.clone(), id, place: Some(place), owner: Some(owner), durable: None }
    }

    /// Of a task that outlives the process.
    pub fn kept(once: &Once, id: TaskId, place: Place, durable: Option<Durable>) -> Self {
        Self { fingerprint: once.0.fingerprint.clone(), id, place: Some(place), owner: None, durable }
    }

    fn read(row: &KeyRow) -> Option<Self> {
        Some(Self {
            fingerprint: row.fingerprint.clone(),
            id: TaskId::parse(&row.task_id)?,
            place: row.answer.as_ref().and_then(|answer| serde_json::from_str(answer).ok()),
            owner: None,
            durable: None,
        })
    }

    /// Refuses a request that is not the first one sent again.
    ///
    /// # Errors
    ///
    /// CONFLICT.
    pub fn check(&self, once: &Once) -> Result<(), ErrorEnvelope> {
        if self.fingerprint == once.0.fingerprint { Ok(()) } else { Err(used_for_something_else()) }
    }
}

fn used_for_something_else() -> ErrorEnvelope {
    let message = "this `Idempotency-Key` was used with another body; take a new key for a new request";
    ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::IDEMPOTENCY_CONFLICT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(key: &str, body: &str) -> Once {
        Once::new(key.as_bytes(), "operation", body.as_bytes()).expect("a key")
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::from(name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_of_one_tenant_and_for_a_time() {
        let keys = Idempotency::new(Duration::from_secs(60));
        let first = keys.entry(&tenant("a"), &once("k", "body"));
        assert!(Arc::ptr_eq(&first, &keys.entry(&tenant("a"), &once("k", "body"))));
        assert!(!Arc::ptr_eq(&first, &keys.entry(&tenant("b"), &once("k", "body"))));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!Arc::ptr_eq(&first, &keys.entry(&tenant("a"), &once("k", "body"))));
        assert_eq!(keys.lock().entries.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_bounded_in_number() {
        let keys = Idempotency::new(Duration::from_secs(60));
        for number in 0..MOST + 10 {
            keys.entry(&tenant("a"), &once(&number.to_string(), "body"));
        }
        assert!(keys.lock().entries.len() <= MOST + 1);
    }

    #[test]
    fn a_key_that_no_header_should_carry_is_refused() {
        let long = "k".repeat(129);
        for key in ["", "with blank", "é", long.as_str()] {
            assert_eq!(Once::new(key.as_bytes(), "o", b"").expect_err(key).param.as_deref(), Some("Idempotency-Key"));
        }
    }
}
