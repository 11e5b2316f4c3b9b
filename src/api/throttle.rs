//! How often somebody may be told no, before there is no other answer than to wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gcra::{GcraError, GcraState, RateLimit};
use tokio::time::Instant;

use crate::ids::KeyId;

/// Sources that are remembered, at most; beyond them all others share one rate until some are forgotten.
const MOST_SOURCES: usize = 50_000;

/// How many refusals may be of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalRate {
    /// At once, at least 1.
    pub burst: u32,
    /// And then per minute, at least 1.
    pub per_minute: u32,
}

/// Of one key: each refusal of an administrator's action is recorded, and whoever has any key can ask for as many as he likes.
const REFUSED_ACTIONS: RefusalRate = RefusalRate { burst: 60, per_minute: 60 };

/// What was refused lately, by where it came from.
pub struct Throttle<S> {
    rate: RateLimit,
    /// `None`: everybody for whom there is no room. Held for one look-up.
    sources: Mutex<HashMap<Option<S>, GcraState>>,
    most: usize,
}

/// Refused keys, by the networks of addresses. A good key is let in always, so nobody is locked out by a neighbour behind the same
/// address: a key has 256 random bits, and what is to be kept away is the noise of those that try.
pub type FailedLogins = Throttle<IpAddr>;

/// Actions of administrators that others have asked for, by their keys.
pub type RefusedActions = Throttle<KeyId>;

impl RefusedActions {
    pub fn of_keys() -> Self {
        Self::new(REFUSED_ACTIONS)
    }
}

impl<S: Eq + Hash> Throttle<S> {
    pub fn new(rate: RefusalRate) -> Self {
        let RefusalRate { burst, per_minute } = rate;
        let period = Duration::from_secs(60) * burst / per_minute.max(1);
        Self { rate: RateLimit::new(burst.max(1), period), sources: Mutex::default(), most: MOST_SOURCES }
    }

    /// Notes that something from this source was refused.
    ///
    /// # Errors
    ///
    /// For how long the source has to wait, where that is one too many.
    pub fn note(&self, source: S) -> Result<(), Duration> {
        let now = Instant::now().into_std();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Some(source);
        let source = if sources.len() < self.most || sources.contains_key(&source) { source } else { None };
        let state = sources.entry(source).or_default();
        state.check_and_modify_at(&self.rate, now, 1).map_err(|denied| match denied {
            GcraError::DeniedUntil { next_allowed_at } => next_allowed_at.saturating_duration_since(now),
            GcraError::DeniedIndefinitely { .. } => self.rate.period,
        })
    }

    /// Forgets the sources that may send as many as any other. Called now and then.
    pub fn forget(&self) {
        let now = Instant::now().into_std();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, state| state.tat.is_some_and(|until| until > now));
        sources.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::ClientAddress;
    use super::*;

    fn logins(most: usize) -> FailedLogins {
        FailedLogins { most, ..FailedLogins::new(RefusalRate { burst: 3, per_minute: 20 }) }
    }

    fn address(text: &str) -> ClientAddress {
        ClientAddress(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_one_every_three_seconds() {
        let logins = logins(10);
        let stranger = address("203.0.113.7");
        for _ in 0..3 {
            assert_eq!(logins.note(stranger.network()), Ok(()));
        }
        assert_eq!(logins.note(stranger.network()), Err(Duration::from_secs(3)));
        assert_eq!(logins.note(address("203.0.113.8").network()), Ok(()), "another address is another matter");
        tokio::time::advance(Duration::from_secs(2)).await;
        // Trying again makes the wait no longer.
        assert_eq!(logins.note(stranger.network()), Err(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(logins.note(stranger.network()), Ok(()));
        assert!(logins.note(stranger.network()).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        for _ in 0..3 {
            assert_eq!(logins.note(stranger.network()), Ok(()));
        }
        assert!(logins.note(stranger.network()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_that_of_ipv4() {
        let logins = logins(10);
        for host in ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"] {
            assert_eq!(logins.note(address(host).network()), Ok(()));
        }
        assert!(logins.note(address("2001:db8::9").network()).is_err());
        assert_eq!(logins.note(address("2001:db8:0:1::1").network()), Ok(()));
        assert_eq!(address("::ffff:10.0.0.1").network(), address("10.0.0.1").network());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_given_back() {
        let logins = logins(100);
        let noted = |number: u32| logins.note(ClientAddress(number.to_be_bytes().into()).network());
        let refused = (0..1000).filter(|number| noted(*number).is_err()).count();
        // A hundred have their own rate, and the burst of all others is one.
        assert_eq!(refused, 1000 - 100 - 3);
        assert_eq!(logins.sources.lock().unwrap().len(), 101);
        assert_eq!(noted(5), Ok(()), "who is remembered is not among the others");
        tokio::time::advance(Duration::from_secs(10)).await;
        logins.forget();
        assert_eq!(logins.sources.lock().unwrap().len(), 0);
    }
}
