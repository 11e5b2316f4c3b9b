//! The laws of rates, and what is counted together.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Steps in ms, each with an amount that is asked for then.
fn asked() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..20_000_u64, 1..30_u64), 1..200)
}

proptest! {
    #[test]
    fn no_window_has_more_than_the_burst_and_the_rate(rate in 1..50_u64, asked in asked()) {
        let mut bucket = Bucket::new(rate);
        let (mut now_ms, mut taken) = (0, Vec::new());
        for (pause_ms, amount) in asked {
            now_ms += pause_ms;
            if bucket.short_for(now_ms * 1_000_000, amount).is_none() {
                bucket.take(amount);
                taken.push((now_ms, amount));
            }
        }
        for (first, (from_ms, _)) in taken.iter().enumerate() {
            let mut sum = 0;
            for (to_ms, amount) in &taken[first..] {
                sum += amount;
                // In 60,000ths, so that nothing is rounded.
                prop_assert!(sum * 60_000 <= rate * 60_000 + rate * (to_ms - from_ms));
            }
        }
    }

    #[test]
    fn what_is_refused_is_let_in_when_it_was_told_to_come_again_and_not_before(
        rate in 1..50_u64, asked in asked()
    ) {
        let mut bucket = Bucket::new(rate);
        let mut now_ns = 0;
        for (pause_ms, amount) in asked {
            now_ns += pause_ms * 1_000_000;
            match bucket.short_for(now_ns, amount) {
                None => bucket.take(amount),
                Some(Short::ForEver) => prop_assert!(amount > rate),
                Some(Short::For(wait_ns)) => {
                    prop_assert!(amount <= rate && wait_ns > 0);
                    let early = &mut bucket.clone();
                    prop_assert!(early.short_for(now_ns + wait_ns - 1, amount).is_some());
                    now_ns += wait_ns;
                    prop_assert_eq!(bucket.short_for(now_ns, amount), None);
                    bucket.take(amount);
                }
            }
        }
    }

    #[test]
    fn what_is_given_back_leaves_no_more_than_if_it_was_never_taken(rate in 1..50_u64, asked in asked()) {
        let (mut bucket, mut without) = (Bucket::new(rate), Bucket::new(rate));
        let mut now_ns = 0;
        for (at, (pause_ms, amount)) in asked.into_iter().enumerate() {
            let taken_ns = now_ns;
            let lost = at % 2 == 1 && bucket.short_for(taken_ns, amount).is_none();
            if lost {
                bucket.take(amount);
            }
            now_ns += pause_ms * 1_000_000;
            // Another one comes in between.
            if bucket.short_for(now_ns, 1).is_none() {
                bucket.take(1);
                without.pay_back(now_ns);
                without.take(1);
            }
            if lost {
                bucket.give_back(now_ns, amount, taken_ns);
            }
            without.pay_back(now_ns);
            prop_assert!(bucket.debt >= without.debt);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_counted_for_every_limit_or_for_none() {
    let (requests_per_minute, tokens_per_minute) = (Some(2), Some(100));
    let limits = RateLimits { requests_per_minute, tokens_per_minute, concurrency: Some(2) };
    let limiter = Arc::new(Limiter::new(limits));
    let label = |no_room| match no_room {
        NoRoom::Now { label, retry_after_ms, .. } => (label, true, Some(retry_after_ms)),
        NoRoom::Ever { label, .. } => (label, false, None),
    };
    let admit = |tokens, task_ms| one(&limiter, tokens, task_ms);
    let refused = admit(101, 0).unwrap_err();
    assert_eq!(label(refused), (PolicyLabel::RateTokens, false, None));
    let (first, running) = admit(60, 0).unwrap();
    first.keep();
    let refused = admit(60, 0).unwrap_err();
    assert_eq!(label(refused), (PolicyLabel::RateTokens, true, Some(12_000)));
    // One that finds no place in the queue has taken nothing.
    drop(admit(40, 0).unwrap());
    let [requests, tokens] = limiter.standing();
    assert_eq!(requests, Some(Standing { limit: 2, remaining: 1, reset_ms: 30_000 }));
    assert_eq!(tokens, Some(Standing { limit: 100, remaining: 40, reset_ms: 36_000 }));
    let (second, last) = admit(40, 0).unwrap();
    second.keep();
    assert_eq!(label(admit(1, 3000).unwrap_err()), (PolicyLabel::RateConcurrency, true, Some(1500)));
    drop(running);
    assert_eq!(label(admit(1, 0).unwrap_err()), (PolicyLabel::RateTokens, true, Some(600)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(label(admit(1, 0).unwrap_err()), (PolicyLabel::RateRequests, true, Some(29_000)));
    drop(last);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert!(limiter.check(50, || 0).is_ok() && admit(50, 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_guess_of_tokens_is_corrected_either_way() {
    let limits = RateLimits { tokens_per_minute: Some(60), ..RateLimits::default() };
    let limiter = Arc::new(Limiter::new(limits));
    let guess = || one(&limiter, 20, 0).unwrap().0.keep_guess();
    let remaining = || limiter.standing()[1].unwrap().remaining;
    guess().correct(5);
    assert_eq!(remaining(), 55);
    guess().correct(115);
    assert_eq!(limiter.standing()[1], Some(Standing { limit: 60, remaining: 0, reset_ms: 120_000 }));
    let retry = |refused: Result<_, NoRoom>| match refused {
        Err(NoRoom::Now { retry_after_ms, .. }) => Some(retry_after_ms),
        _ => None,
    };
    // What was overdrawn is paid back first.
    assert_eq!(retry(one(&limiter, 1, 0)), Some(61_000));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(remaining(), 1);
    // One that is dropped before it is corrected stays counted.
    drop(one(&limiter, 1, 0).unwrap().0.keep_guess());
    assert_eq!(remaining(), 0);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_come_together_are_counted_together_or_not_at_all() {
    let (requests_per_minute, tokens_per_minute) = (Some(4), Some(100));
    let limits = RateLimits { requests_per_minute, tokens_per_minute, concurrency: Some(3) };
    let limiter = Arc::new(Limiter::new(limits));
    let standing = || limiter.standing().map(|standing| standing.unwrap().remaining);
    let ever = |label, asked, bound| Err(NoRoom::Ever { label, asked, bound });
    let refused = |tokens: &[u64]| limiter.admit(tokens, || 600).map(drop);
    assert_eq!(refused(&[1; 5]), ever(PolicyLabel::RateConcurrency, 5, 3));
    assert_eq!(refused(&[50, 30, 21]), ever(PolicyLabel::RateTokens, 101, 100));
    assert_eq!(standing(), [4, 100]);
    // Those that find no place in the queue have taken nothing.
    drop(limiter.admit(&[30, 30], || 0).unwrap());
    assert_eq!(standing(), [4, 100]);
    let two = limiter.admit(&[30, 30], || 0).unwrap();
    assert_eq!(standing(), [2, 40]);
    let Err(NoRoom::Now { label, retry_after_ms, .. }) = refused(&[1, 1, 1]) else { panic!("there is no room") };
    assert_eq!((label, retry_after_ms), (PolicyLabel::RateConcurrency, 400), "two have to end");
    let running: Vec<_> = two.into_iter().map(|(charge, at_once)| (charge.keep(), at_once)).collect();
    drop(running);
    let Err(NoRoom::Now { label, retry_after_ms, .. }) = refused(&[20, 21]) else { panic!("there is no room") };
    assert_eq!((label, retry_after_ms), (PolicyLabel::RateTokens, 600));
    assert_eq!(standing(), [2, 40]);
}

fn one(limiter: &Arc<Limiter>, tokens: u64, task_ms: u64) -> Result<(Charge, AtOnce), NoRoom> {
    limiter.admit(&[tokens], || task_ms).map(|mut all| all.remove(0))
}
