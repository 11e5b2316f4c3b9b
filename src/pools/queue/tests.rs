//! Laws of the queue, against the obvious way to say the same.

use std::collections::HashMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::ids::TenantId;

fn share(tenant: u8, weight: u32) -> Share {
    Share { tenant: TenantId::from(format!("t{tenant}")), weight: NonZeroU32::new(weight).expect("positive") }
}

fn work(tokens: u64) -> Work {
    Work { tasks: 1, sequences: 1, slots: 1, cache: 0, prefill_tokens: tokens, decode_tokens: 2 * tokens }
}

#[derive(Debug, Clone)]
enum Step {
    Push { priority: Priority, tenant: u8, tokens: u64 },
    Pop,
    Remove(usize),
    Settle { tenant: u8, expected: u64, used: u64 },
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![3 => Just(Priority::Interactive), 2 => Just(Priority::Batch)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (priority(), 0u8..4, 0u64..100).prop_map(|(priority, tenant, tokens)| Step::Push { priority, tenant, tokens }),
        3 => Just(Step::Pop),
        2 => (0usize..64).prop_map(Step::Remove),
        1 => (0u8..4, 0u64..300, 0u64..300).prop_map(|(tenant, expected, used)| Step::Settle { tenant, expected, used }),
    ]
}

/// What is in the queue, by ticket.
type Known = HashMap<Ticket, (Priority, u8, u64, usize)>;

fn check(queue: &Queue<usize>, known: &Known) -> Result<(), TestCaseError> {
    prop_assert_eq!(queue.len(), known.len());
    let upcoming: Vec<_> = queue.upcoming().map(|(ticket, work, serial)| (ticket, *work, *serial)).collect();
    prop_assert_eq!(upcoming.len(), known.len());
    let mut ahead = Work::default();
    for (ticket, work, serial) in upcoming {
        prop_assert_eq!(known.get(&ticket).map(|entry| entry.3), Some(serial));
        prop_assert_eq!(queue.get(ticket), Some(&serial));
        prop_assert_eq!(queue.ahead(ticket), Some(ahead), "position {}", ahead.tasks);
        ahead = ahead + work;
    }
    prop_assert_eq!(queue.total(), ahead);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Nothing is lost or served twice, bounds hold, a tenant is served in its own order, and every position is the number
    /// of entries that `upcoming` and then `pop` bring before it.
    #[test]
    fn what_comes_in_goes_out_once_and_in_the_order_foretold(
        steps in proptest::collection::vec(step(), 0..120),
        capacity in 1usize..30,
        floor in prop_oneof![Just(0.0), 0.0f64..0.9],
        weights in [1u32..5, 1u32..5, 1u32..5, 1u32..5],
    ) {
        let mut queue = Queue::new(capacity, Floor::new(floor));
        let mut known = Known::new();
        let mut served: HashMap<(Priority, u8), usize> = HashMap::new();
        for (serial, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { priority, tenant, tokens } => {
                    let foretold = queue.ahead_of_new(priority, &share(tenant, weights[usize::from(tenant)]), work(tokens));
                    match queue.push(priority, &share(tenant, weights[usize::from(tenant)]), work(tokens), serial) {
                        Ok(ticket) => {
                            prop_assert_eq!(queue.ahead(ticket), Some(foretold));
                            prop_assert!(known.insert(ticket, (priority, tenant, tokens, serial)).is_none());
                        }
                        Err(Full(back)) => {
                            prop_assert_eq!(back, serial);
                            prop_assert_eq!(known.len(), capacity);
                        }
                    }
                }
                Step::Pop => {
                    let foretold = queue.upcoming().next().map(|(ticket, _, _)| ticket);
                    let peeked = queue.peek().copied();
                    let popped = queue.pop();
                    prop_assert_eq!(peeked, popped);
                    let entry = foretold.and_then(|ticket| known.remove(&ticket));
                    prop_assert_eq!(entry.map(|entry| entry.3), popped);
                    if let Some((priority, tenant, _, serial)) = entry {
                        let earlier = served.insert((priority, tenant), serial);
                        prop_assert!(earlier < Some(serial), "a tenant is served in its own order");
                    }
                }
                Step::Remove(index) => {
                    let mut tickets: Vec<_> = known.keys().copied().collect();
                    tickets.sort_unstable();
                    if let Some(ticket) = tickets.get(index) {
                        let entry = known.remove(ticket).expect("known");
                        prop_assert_eq!(queue.remove(*ticket), Some(entry.3));
                        prop_assert_eq!(queue.remove(*ticket), None);
                        prop_assert_eq!(queue.ahead(*ticket), None);
                    }
                }
                Step::Settle { tenant, expected, used } => {
                    let share = share(tenant, weights[usize::from(tenant)]);
                    queue.settle(Priority::Interactive, &share, Work { prefill_tokens: expected, ..Work::default() }, used);
                }
            }
            check(&queue, &known)?;
            for priority in [Priority::Interactive, Priority::Batch] {
                let serials = || known.iter().filter(|(_, entry)| entry.0 == priority).map(|(ticket, entry)| (entry.3, *ticket));
                prop_assert_eq!(queue.oldest(priority), serials().min().map(|(_, ticket)| ticket));
                prop_assert_eq!(queue.newest(priority), serials().max().map(|(_, ticket)| ticket));
                prop_assert_eq!(queue.depth(priority), serials().count() as u64);
            }
        }
        let foretold: Vec<usize> = queue.upcoming().map(|(_, _, serial)| *serial).collect();
        let popped: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
        prop_assert_eq!(foretold, popped);
    }

    /// While every tenant has tasks waiting, what each was served in proportion to its weight differs between any two by at
    /// most one task of each.
    #[test]
    fn shares_follow_the_weights(
        sizes in proptest::collection::vec(1u64..200, 40),
        weights in [1u32..9, 1u32..9, 1u32..9],
    ) {
        let mut queue = Queue::new(10_000, Floor::new(0.1));
        for (tenant, weight) in (0u8..).zip(weights) {
            for size in sizes.iter().cycle().skip(usize::from(tenant) * 7).take(400) {
                queue.push(Priority::Interactive, &share(tenant, weight), work(*size), (tenant, work(*size).cost())).expect("room");
            }
        }
        let mut served = [0u64; 3];
        let largest = work(200).cost() as f64;
        for _ in 0..300 {
            let (tenant, cost) = queue.pop().expect("more");
            served[usize::from(tenant)] += cost;
            let normal: Vec<f64> = served.iter().zip(weights).map(|(served, weight)| *served as f64 / f64::from(weight)).collect();
            for (a, weight_a) in normal.iter().zip(weights) {
                for (b, weight_b) in normal.iter().zip(weights) {
                    prop_assert!(a - b <= largest / f64::from(weight_a) + largest / f64::from(weight_b));
                }
            }
        }
    }

    /// Tasks that use more than was expected are paid for by their tenant: the shares are those of what was used.
    #[test]
    fn shares_are_those_of_the_tokens_used(factor in 1u64..6, weight in 1u32..4) {
        let mut queue = Queue::new(10_000, Floor::new(0.1));
        for serial in 0..3000u32 {
            let (tenant, weight) = if serial % 2 == 0 { (0, 1) } else { (1, weight) };
            queue.push(Priority::Interactive, &share(tenant, weight), work(10), (tenant, weight)).expect("room");
        }
        let mut used = [0u64; 2];
        for _ in 0..1200 {
            let (tenant, weight) = queue.pop().expect("more");
            let tokens = if tenant == 0 { 30 * factor } else { 30 };
            used[usize::from(tenant)] += tokens;
            queue.settle(Priority::Interactive, &share(tenant, weight), work(10), tokens);
        }
        let ratio = used[1] as f64 / used[0] as f64;
        prop_assert!((ratio / f64::from(weight) - 1.0).abs() < 0.05, "{:?}", used);
    }

    /// While both classes wait, batch gets its floor of the work, within one task; and nobody waits for ever.
    #[test]
    fn batch_gets_its_floor_and_not_more(
        sizes in proptest::collection::vec(1u64..100, 30),
        floor in 0.02f64..0.5,
    ) {
        let mut queue = Queue::new(10_000, Floor::new(floor));
        for size in sizes.iter().cycle().take(1500) {
            for priority in [Priority::Interactive, Priority::Batch] {
                queue.push(priority, &share(0, 1), work(*size), (priority, work(*size).cost())).expect("room");
            }
        }
        let mut served = [0f64; 2];
        for _ in 0..1000 {
            let (priority, cost) = queue.pop().expect("more");
            served[usize::from(priority == Priority::Batch)] += cost as f64;
            let floor = (floor * 1000.0).round() / 1000.0;
            let behind = floor * (served[0] + served[1]) - served[1];
            prop_assert!(behind <= 300.0 && behind > -300.0, "{} {:?}", behind, served);
        }
    }
}

#[test]
fn a_tenant_that_was_away_has_no_claim_on_the_past() {
    let mut queue = Queue::new(1000, Floor::new(0.1));
    for serial in 0..100 {
        queue.push(Priority::Interactive, &share(0, 1), work(10), serial).expect("room");
    }
    for _ in 0..50 {
        queue.pop();
    }
    for serial in 100..150 {
        queue.push(Priority::Interactive, &share(1, 1), work(10), serial).expect("room");
    }
    let first: Vec<usize> = queue.upcoming().take(10).map(|(_, _, serial)| *serial).collect();
    assert_eq!(first.iter().filter(|serial| **serial >= 100).count(), 5, "{first:?}");
}

#[test]
fn tenants_that_make_no_difference_are_forgotten() {
    let mut queue = Queue::new(1000, Floor::new(0.1));
    for tenant in 0..=u8::MAX {
        queue.push(Priority::Interactive, &share(tenant, 1), work(1), 0).expect("room");
        queue.pop();
    }
    assert!(queue.interactive.known_tenants() <= 64);
}
