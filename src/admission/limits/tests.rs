//! The laws of rates, and what is counted together.

use std::time::Duration;

use proptest::prelude::*;
use sluicegate_compat::native::PolicyLabel;

use super::rate::{Mark, Rate, Short};
use super::*;

/// Steps in ms, each with an amount that is asked for then.
fn asked() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..20_000_u64, 1..30_u64), 1..200)
}

/// A rate, and the time that it goes by.
struct Timed {
    rate: Rate,
    moment: Moment,
    now_ns: u64,
}

impl Timed {
    fn new(per_minute: u64) -> Self {
        let moment = Moment::default();
        Self { rate: Rate::new(per_minute, &moment), moment, now_ns: 0 }
    }

    fn wait_ns(&mut self, ns: u64) {
        self.now_ns += ns;
        self.moment.set(Duration::from_nanos(self.now_ns));
    }
}

/// A task that was let in.
struct Counted {
    at_ms: u64,
    amount: u64,
    used: u64,
    mark: Mark,
}

proptest! {
    #[test]
    fn no_window_has_more_than_the_burst_and_the_rate_of_what_was_used(
        rate in 1..50_u64,
        // With what is used of the amount, and after how many others that is known.
        asked in prop::collection::vec((0..20_000_u64, 1..30_u64, 0.0..=1.0_f64, 0..6_usize), 1..200),
    ) {
        let mut timed = Timed::new(rate);
        let (mut counted, mut open): (Vec<Counted>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        for (number, (pause_ms, amount, part, after)) in asked.into_iter().enumerate() {
            timed.wait_ns(pause_ms * 1_000_000);
            open.retain(|(task, until)| {
                let ends = *until <= number;
                if ends {
                    let Counted { amount, used, mark, .. } = counted[*task];
                    timed.rate.give_back(mark, amount - used);
                    timed.rate.release(mark);
                }
                !ends
            });
            if let Ok(mark) = timed.rate.take(amount) {
                let used = (amount as f64 * part) as u64;
                counted.push(Counted { at_ms: timed.now_ns / 1_000_000, amount, used, mark });
                open.push((counted.len() - 1, number + 1 + after));
            }
        }
        for (first, Counted { at_ms: from_ms, .. }) in counted.iter().enumerate() {
            let mut sum = 0;
            for Counted { at_ms, used, .. } in &counted[first..] {
                sum += used;
                // In 60,000ths, so that nothing is rounded.
                prop_assert!(sum * 60_000 <= rate * 60_000 + rate * (at_ms - from_ms));
            }
        }
    }

    #[test]
    fn what_was_used_is_all_that_is_left_of_what_was_taken(
        rate in 1..50_u64,
        asked in prop::collection::vec((0..20_000_u64, 1..30_u64, 0.0..=1.0_f64, 0..6_usize), 1..200),
    ) {
        let (mut timed, mut ideal) = (Timed::new(rate), Timed::new(rate));
        let mut open: Vec<(Mark, u64, usize)> = Vec::new();
        let count = asked.len();
        for (number, (pause_ms, amount, part, after)) in asked.into_iter().chain([(0, u64::MAX, 0.0, 0)]).enumerate() {
            timed.wait_ns(pause_ms * 1_000_000);
            ideal.wait_ns(pause_ms * 1_000_000);
            open.retain(|(mark, back, until)| {
                let ends = *until <= number || number == count;
                if ends {
                    timed.rate.give_back(*mark, *back);
                    timed.rate.release(*mark);
                }
                !ends
            });
            prop_assert!(timed.rate.level() >= ideal.rate.level());
            if let Ok(mark) = timed.rate.take(amount) {
                let used = (amount as f64 * part) as u64;
                ideal.rate.overdraw(used);
                open.push((mark, amount - used, number + 1 + after));
            }
        }
        prop_assert_eq!(timed.rate.level(), ideal.rate.level(), "all is settled");
    }

    #[test]
    fn what_is_refused_is_let_in_when_it_was_told_to_come_again_and_not_before(
        rate in 1..50_u64, asked in asked()
    ) {
        let mut timed = Timed::new(rate);
        for (pause_ms, amount) in asked {
            timed.wait_ns(pause_ms * 1_000_000);
            match timed.rate.take(amount) {
                Ok(_) => {}
                Err(Short::ForEver) => prop_assert!(amount > rate),
                Err(Short::For(wait_ns)) => {
                    prop_assert!(amount <= rate && wait_ns > 0);
                    timed.wait_ns(wait_ns - 1);
                    prop_assert!(timed.rate.short_for(amount).is_some());
                    timed.wait_ns(1);
                    prop_assert!(timed.rate.short_for(amount).is_none() && timed.rate.take(amount).is_ok());
                }
            }
        }
    }
}

#[test]
fn a_billion_a_minute_is_let_in_but_for_the_thousandth_part_and_never_more() {
    let mut timed = Timed::new(1_000_000_000);
    assert!(timed.rate.take(1_000_000_000).is_ok());
    timed.wait_ns(6_000_000_000);
    assert!(timed.rate.take(100_000_001).is_err());
    assert!(timed.rate.take(99_900_000).is_ok());
}

#[test]
fn another_rate_keeps_what_was_taken() {
    let mut timed = Timed::new(60);
    let mark = timed.rate.take(30).unwrap();
    timed.rate.change(120);
    assert_eq!(timed.rate.standing(), Standing { limit: 120, remaining: 90, reset_ms: 15_000 });
    // What was taken of the earlier one is not given back to this.
    timed.rate.give_back(mark, 30);
    timed.rate.release(mark);
    assert_eq!(timed.rate.standing().remaining, 90);
    timed.rate.change(10);
    assert_eq!(timed.rate.standing(), Standing { limit: 10, remaining: 0, reset_ms: 180_000 });
}

fn of(limits: RateLimits) -> Scopes {
    vec![(ScopeId::Tenant("a".into()), limits)]
}

fn one(limiter: &Arc<Limiter>, scopes: &Scopes, tokens: u64, task_ms: u64) -> Result<(Charge, AtOnce), NoRoom> {
    limiter.admit(scopes, &[tokens], || task_ms).map(|mut all| all.remove(0))
}

fn label(no_room: NoRoom) -> (PolicyLabel, bool, Option<u64>) {
    match no_room {
        NoRoom::Now { label, retry_after_ms, .. } => (label, true, Some(retry_after_ms)),
        NoRoom::Ever { label, .. } => (label, false, None),
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_counted_for_every_limit_or_for_none() {
    let (requests_per_minute, tokens_per_minute) = (Some(2), Some(100));
    let scopes =
        of(RateLimits { requests_per_minute, tokens_per_minute, concurrency: Some(2), tokens_in_flight: Some(200) });
    let limiter = Arc::new(Limiter::default());
    let admit = |tokens, task_ms| one(&limiter, &scopes, tokens, task_ms);
    assert_eq!(label(admit(101, 0).unwrap_err()), (PolicyLabel::RateTokens, false, None));
    let (first, running) = admit(60, 0).unwrap();
    let _first = first.keep();
    assert_eq!(label(admit(60, 0).unwrap_err()), (PolicyLabel::RateTokens, true, Some(12_000)));
    // One that finds no place in the queue has taken nothing.
    drop(admit(40, 0).unwrap());
    let [requests, tokens] = limiter.standing(&scopes);
    assert_eq!(requests, Some(Standing { limit: 2, remaining: 1, reset_ms: 30_000 }));
    assert_eq!(tokens, Some(Standing { limit: 100, remaining: 40, reset_ms: 36_000 }));
    let (second, last) = admit(40, 0).unwrap();
    let _second = second.keep();
    // Of several limits the one that takes longest is told: whoever waits for it succeeds.
    assert_eq!(label(admit(1, 3000).unwrap_err()), (PolicyLabel::RateRequests, true, Some(30_000)));
    assert_eq!(label(admit(1, 90_000).unwrap_err()), (PolicyLabel::RateConcurrency, true, Some(45_000)));
    drop((running, last));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(limiter.check(&scopes, 50, || 0).is_ok() && admit(50, 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_guess_of_tokens_is_corrected_either_way() {
    let scopes = of(RateLimits { tokens_per_minute: Some(60), tokens_in_flight: Some(500), ..RateLimits::default() });
    let limiter = Arc::new(Limiter::default());
    let guess = || one(&limiter, &scopes, 20, 0).map(|(charge, at_once)| (charge.keep(), at_once)).unwrap();
    let remaining = || limiter.standing(&scopes)[1].unwrap().remaining;
    let (less, _running) = guess();
    less.correct(5);
    assert_eq!(remaining(), 55);
    let (more, _too) = guess();
    more.correct(115);
    assert_eq!(limiter.standing(&scopes)[1], Some(Standing { limit: 60, remaining: 0, reset_ms: 120_000 }));
    // What was overdrawn is paid back first.
    assert_eq!(label(one(&limiter, &scopes, 1, 0).unwrap_err()), (PolicyLabel::RateTokens, true, Some(61_000)));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(remaining(), 1);
    // One that is dropped before it is corrected stays counted.
    let (charge, _as_well) = one(&limiter, &scopes, 1, 0).unwrap();
    drop(charge.keep());
    assert_eq!(remaining(), 0);
    assert!(limiter.check(&scopes, 380, || 0).is_err(), "121 tokens are in flight");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_come_together_are_counted_together_or_not_at_all() {
    let (requests_per_minute, tokens_per_minute) = (Some(4), Some(100));
    let scopes =
        of(RateLimits { requests_per_minute, tokens_per_minute, concurrency: Some(3), tokens_in_flight: None });
    let limiter = Arc::new(Limiter::default());
    let standing = || limiter.standing(&scopes).map(|standing| standing.unwrap().remaining);
    let refused = |tokens: &[u64]| limiter.admit(&scopes, tokens, || 600).map(drop).unwrap_err();
    let NoRoom::Ever { asked, bound, .. } = refused(&[1; 4]) else { panic!("it never fits") };
    assert_eq!((asked, bound), (4, 3));
    let NoRoom::Ever { asked, bound, .. } = refused(&[50, 30, 21]) else { panic!("it never fits") };
    assert_eq!((asked, bound), (101, 100));
    assert_eq!(standing(), [4, 100]);
    // Those that find no place in the queue have taken nothing.
    drop(limiter.admit(&scopes, &[30, 30], || 0).unwrap());
    assert_eq!(standing(), [4, 100]);
    let two = limiter.admit(&scopes, &[30, 30], || 0).unwrap();
    assert_eq!(standing(), [2, 40]);
    assert_eq!(label(refused(&[1, 1, 1])), (PolicyLabel::RateRequests, true, Some(15_000)));
    let running: Vec<_> = two.into_iter().map(|(charge, at_once)| (charge.keep(), at_once)).collect();
    drop(running);
    assert_eq!(label(refused(&[20, 21])), (PolicyLabel::RateTokens, true, Some(600)));
    assert_eq!(standing(), [2, 40]);
}

#[tokio::test(start_paused = true)]
async fn each_scope_has_its_own_and_is_forgotten_when_nothing_is_counted() {
    let limits = RateLimits { requests_per_minute: Some(1), ..RateLimits::default() };
    let of = |key: &str, all: u64| -> Scopes {
        let all = RateLimits { requests_per_minute: Some(all), ..limits };
        vec![(ScopeId::Key(key.into()), limits), (ScopeId::Tenant("a".into()), all)]
    };
    let limiter = Arc::new(Limiter::default());
    let mut running = Vec::new();
    let mut let_in = |key: &str, all| {
        let (charge, at_once) = one(&limiter, &of(key, all), 1, 0)?;
        running.push((charge.keep(), at_once));
        Ok::<_, NoRoom>(())
    };
    let_in("one", 2).unwrap();
    assert!(let_in("one", 2).is_err());
    let_in("two", 2).unwrap();
    assert!(let_in("three", 2).is_err(), "the tenant has had its two");
    // A limit that is raised meanwhile holds at once.
    let_in("three", 4).unwrap();
    drop(running);
    limiter.sweep();
    assert_eq!(limiter.standing(&of("one", 4))[0].unwrap().remaining, 0);
    tokio::time::advance(Duration::from_secs(60)).await;
    limiter.sweep();
    let known = limiter.lock();
    assert!(known.scopes.is_empty() && known.places.is_empty());
}
