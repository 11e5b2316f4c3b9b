//! The laws of budgets, under any interleaving.

use proptest::prelude::*;

use super::*;

fn tokens(tokens: u64) -> Amounts {
    Amounts { tokens, ..Amounts::default() }
}

fn at_most(tokens: u64) -> Left {
    Left { tokens: Some(tokens), ..Left::default() }
}

fn open(budgets: &Budgets, limits: Left) -> AccountId {
    budgets.open(limits, Amounts::default())
}

fn reserve(budgets: &Budgets, accounts: &[AccountId], wanted: Amounts) -> Result<Reservation, Exceeded> {
    budgets.reserve(accounts.to_vec(), |_| Ok((wanted, ()))).map(|(reservation, ())| reservation)
}

#[test]
fn what_is_not_used_is_given_back_and_what_is_used_is_not() {
    let budgets = Budgets::new();
    let session = open(&budgets, at_most(100));
    let reservation = reserve(&budgets, &[session], tokens(80)).unwrap();
    assert_eq!(reserve(&budgets, &[session], tokens(21)).unwrap_err(), Exceeded(Unit::Tokens));
    reservation.settle(tokens(30), 0);
    assert_eq!(budgets.left(vec![session]), at_most(70));
    drop(reserve(&budgets, &[session], tokens(70)).unwrap());
    assert_eq!(budgets.left(vec![session]), at_most(70));
    assert!(budgets.is_settled());
}

#[test]
fn accounts_reserve_together_or_not_at_all() {
    let budgets = Budgets::new();
    let (session, tenant) = (open(&budgets, at_most(100)), open(&budgets, at_most(10)));
    assert!(reserve(&budgets, &[session, tenant], tokens(11)).is_err());
    assert_eq!(budgets.left(vec![session]), at_most(100));
    let reservation = reserve(&budgets, &[session, tenant], tokens(10)).unwrap();
    assert_eq!((budgets.left(vec![session]), budgets.left(vec![tenant])), (at_most(90), at_most(0)));
    reservation.settle(tokens(4), 0);
    assert_eq!((budgets.left(vec![session]), budgets.left(vec![tenant])), (at_most(96), at_most(6)));
}

#[test]
fn a_closed_account_takes_nothing_and_hinders_nobody() {
    let budgets = Budgets::new();
    let (closed, other) = (open(&budgets, at_most(5)), open(&budgets, at_most(50)));
    let reservation = reserve(&budgets, &[closed, other], tokens(5)).unwrap();
    budgets.close(closed);
    assert_eq!(reservation.left(), at_most(45));
    reservation.settle(tokens(5), 0);
    assert_eq!(budgets.left(vec![other]), at_most(45));
    assert_ne!(open(&budgets, at_most(5)), closed);
}

#[test]
fn two_hundred_threads_never_take_more_than_there_is_for_fifty() {
    let budgets = Budgets::new();
    let session = open(&budgets, at_most(50 * 7));
    let kept: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..200).map(|_| scope.spawn(|| reserve(&budgets, &[session], tokens(7)).ok())).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((kept.len(), budgets.left(vec![session])), (50, at_most(0)));
    drop(kept);
    assert_eq!(budgets.left(vec![session]), at_most(350));
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(Vec<usize>, Amounts),
    Renew(usize, Amounts),
    Settle(usize, Amounts),
    Drop(usize),
}

fn amounts() -> impl Strategy<Value = Amounts> {
    let edge = || prop_oneof![8 => 0..40_u64, 1 => Just(u64::MAX)];
    (edge(), edge(), edge()).prop_map(|(tokens, time_ms, cost)| Amounts { tokens, time_ms, cost })
}

fn limits() -> impl Strategy<Value = Left> {
    let limit = || proptest::option::of(0..100_u64);
    (limit(), limit(), limit()).prop_map(|(tokens, time_ms, cost)| Left { tokens, time_ms, cost })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (proptest::sample::subsequence(vec![0, 1, 2], 1..=3), amounts())
            .prop_map(|(who, much)| Step::Reserve(who, much)),
        (0..8_usize, amounts()).prop_map(|(which, much)| Step::Renew(which, much)),
        (0..8_usize, amounts()).prop_map(|(which, much)| Step::Settle(which, much)),
        (0..8_usize).prop_map(Step::Drop),
    ]
}

/// Spent and reserved are together within the limit, unit by unit.
fn lawful(budgets: &Budgets, account: AccountId, limits: Left) -> bool {
    let (spent, reserved) = budgets.lock().ledger.used(account).unwrap();
    let within = |limit: Option<u64>, spent: u64, reserved: u64| {
        limit.is_none_or(|limit| u128::from(spent) + u128::from(reserved) <= u128::from(limit))
    };
    within(limits.tokens, spent.tokens, reserved.tokens)
        && within(limits.time_ms, spent.time_ms, reserved.time_ms)
        && within(limits.cost, spent.cost, reserved.cost)
}

proptest! {
    #[test]
    fn nothing_is_ever_overspent_and_nothing_stays_reserved(
        limits in proptest::collection::vec(limits(), 3),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let budgets = Budgets::new();
        let accounts: Vec<_> = limits.iter().map(|limits| open(&budgets, *limits)).collect();
        let mut reservations: Vec<Reservation> = Vec::new();
        for step in steps {
            match step {
                Step::Reserve(who, much) => {
                    let who: Vec<_> = who.into_iter().map(|place| accounts[place]).collect();
                    reservations.extend(reserve(&budgets, &who, much));
                }
                Step::Renew(which, much) => {
                    if let Some(reservation) = reservations.get_mut(which) {
                        let before = reservation.held();
                        let renewed = reservation.renew(|_| Ok(much));
                        prop_assert_eq!(reservation.held(), if renewed.is_ok() { before.plus(much) } else { before });
                    }
                }
                Step::Settle(which, used) if which < reservations.len() => _ = reservations.swap_remove(which).settle(used, 0),
                Step::Drop(which) if which < reservations.len() => drop(reservations.swap_remove(which)),
                Step::Settle(..) | Step::Drop(_) => {}
            }
            for (account, limits) in accounts.iter().zip(&limits) {
                prop_assert!(lawful(&budgets, *account, *limits));
            }
        }
        reservations.clear();
        prop_assert!(budgets.is_settled());
    }
}
