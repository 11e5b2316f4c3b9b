//! Rows of the ledger that go in together, and sums beside them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::*;
use super::{Place, ended, entry, holds, opened, task, told};

fn all() -> UsageQuery {
    UsageQuery { to_ms: i64::MAX, most: 100, ..UsageQuery::default() }
}

async fn rows(store: &Store) -> (i64, i64) {
    let sums = store.usage(all()).await.expect("sums");
    sums.first().map_or((0, 0), |sum| (sum.tasks, sum.tokens_in))
}

/// Enters these, and waits until all are durable.
async fn enter(store: &Store, numbers: std::ops::RangeInclusive<i64>) {
    let waiting: Vec<_> = numbers
        .map(|number| {
            let (done, durable) = told();
            store.ledger_entered(entry(number), done);
            durable
        })
        .collect();
    for durable in waiting {
        assert_eq!(durable.await, Ok(Ok(())));
    }
}

pub(super) async fn rows_of_the_ledger_go_in_together_whatever_their_number(place: Place) {
    let store = place.open().await;
    let mut last = 0;
    for count in [1, 2, 8, 9, 31, 128, 129, 700] {
        enter(&store, last + 1..=last + count).await;
        last += count;
        assert_eq!(rows(&store).await, (last, last * (last + 1) / 2));
    }
    // With others in one transaction.
    for number in 1..=20 {
        store.task_accepted(task(number), None, HeldRows::default(), |_| ());
        store.ledger_entered(entry(last + 2 * number), |_| ());
        store.task_ended(ended(number), None, Some(entry(last + 2 * number - 1)), |_| ());
    }
    last += 40;
    assert_eq!(store.ledger_last().await, Ok(last));
    assert_eq!(rows(&store).await, (last, last * (last + 1) / 2));
}

pub(super) async fn a_row_that_cannot_go_in_does_not_take_others_with_it(place: Place) {
    let store = place.open().await;
    let refused = Arc::new(AtomicUsize::new(0));
    // One number is there twice, first among rows only, then among others.
    for (number, accepted) in [(1, false), (2, false), (2, false), (3, false), (4, true), (4, true), (5, true)] {
        if accepted {
            store.task_accepted(task(number), None, HeldRows::default(), |_| ());
        }
        let refused = Arc::clone(&refused);
        let count =
            move |result: Result<(), StoreError>| _ = refused.fetch_add(result.is_err().into(), Ordering::SeqCst);
        store.ledger_entered(entry(number), count);
    }
    assert_eq!(store.ledger_last().await, Ok(5));
    assert_eq!((rows(&store).await, refused.load(Ordering::SeqCst)), ((5, 15), 2));
    // What is taken back takes its row with it.
    store.task_ended(ended(4), None, Some(entry(5)), |_| ());
    assert!(store.tasks().await.expect("tasks").iter().all(|task| task.ended_at_ms.is_none()));
}

/// Reads until it is let go, `within` a transaction. What is returned second is ready once it reads.
fn read(
    store: &Store,
    within: bool,
) -> (oneshot::Sender<()>, oneshot::Receiver<()>, BoxFuture<'static, Result<i64, StoreError>>) {
    let ((go, gone), (begun, begins)) = (oneshot::channel::<()>(), oneshot::channel());
    let both = Mutex::new(Some((gone, begun)));
    let reading = store.read(move |connection| {
        let both = both.lock().expect("a lock").take();
        Box::pin(async move {
            let (count, mut open) = (sql::query("SELECT COUNT(*) FROM ledger"), None);
            let count: i64 = if within {
                let transaction: &mut sql::Transaction<'_> = open.insert(connection.begin().await?);
                count.fetch_one(transaction).await?
            } else {
                count.fetch_one(connection).await?
            };
            if let Some((gone, begun)) = both {
                begun.send(()).expect("the test waits");
                gone.await.expect("the test lets it go");
            }
            drop(open);
            Ok(count)
        })
    });
    (go, begins, reading)
}

pub(super) async fn a_long_sum_holds_up_no_commit(place: Place) {
    let store = place.open().await;
    enter(&store, 1..=3).await;
    let (go, begun, reading) = read(&store, false);
    let test = async {
        begun.await.expect("it reads");
        enter(&store, 4..=9).await;
        store.task_accepted(task(1), None, HeldRows::default(), |_| ());
        assert_eq!(store.tasks().await.expect("tasks").len(), 1);
        go.send(()).expect("it waits");
    };
    assert_eq!(tokio::join!(reading, test).0, Ok(3));
    assert_eq!(rows(&store).await.0, 9);
    store.close().await;
    assert_eq!(store.usage(all()).await, Err(StoreError::Closed));
}

#[tokio::test]
async fn what_is_deleted_during_a_sum_is_gone_when_that_is_told_and_others_need_not_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    store.task_accepted(task(1), None, HeldRows::default(), |_| ());
    enter(&store, 1..=1).await;
    let (go, begun, reading) = read(&store, true);
    let test = async {
        begun.await.expect("it reads");
        let (done, mut deleted) = told();
        store.tasks_forgotten(vec!["task-1".into()], done);
        enter(&store, 2..=3).await;
        assert!(deleted.try_recv().is_err(), "the log still has it");
        go.send(()).expect("it waits");
        assert_eq!(deleted.await, Ok(Ok(())));
        assert!(!holds(folder.path(), "canary"));
    };
    assert_eq!(tokio::join!(reading, test).0, Ok(1));
    store.close().await;
}

#[tokio::test]
async fn a_sum_that_takes_too_long_is_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    let endless = "WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers) \
                   SELECT COUNT(*) FROM numbers";
    let ended = store.read(move |connection| {
        Box::pin(async move {
            let limit = std::time::Duration::from_millis(20);
            connection.within(limit, |connection| Box::pin(sql::query(endless).fetch_one::<i64>(connection))).await
        })
    });
    assert!(matches!(ended.await, Err(StoreError::Failed(_))));
    assert_eq!(rows(&store).await.0, 0);
}

pub(super) async fn what_somebody_has_spent_is_the_same_however_it_is_added_up(place: Place) {
    let store = place.open().await;
    let (quarter, day) = (15 * 60_000, 24 * 3_600_000);
    for number in 1..=8 {
        let (api_key, ended_ms) = (format!("key-{}", number % 4), number * quarter);
        store.ledger_entered(LedgerRow { api_key, ended_ms, ..entry(number) }, |_| ());
    }
    let spent = async |tenant: &str, key: Option<&str>, from_ms: i64| {
        let sums = store.spent(tenant.into(), key.map(str::to_owned), from_ms).await.expect("sums");
        [sums.tokens, sums.cost]
    };
    let all = async || {
        [spent("odd", None, 0).await, spent("even", Some("key-2"), 0).await, spent("odd", None, 5 * quarter).await]
    };
    let before = all().await;
    assert!(before.iter().flatten().all(|sum| *sum > 0) && before[0] > before[2], "{before:?}");
    for last in [3, 3, 6, 8] {
        store.ledger_sum_up(last);
        assert_eq!((all().await, store.ledger_summed().await), (before, Ok(last)));
    }
    store.ledger_forgotten(100 * quarter, 0);
    assert_eq!((all().await, store.ledger_last().await), (before, Ok(8)), "sums outlive their rows, and numbers");
    // What is long over is in one sum, which only those ask for who ask for all.
    store.ledger_forgotten(0, 100 * day);
    let after = all().await;
    assert_eq!((after[0], after[1], after[2]), (before[0], before[1], [0, 0]));
    assert_eq!(spent("nobody", None, 0).await, [0, 0]);
}

#[tokio::test]
async fn a_database_that_was_full_is_written_to_once_there_is_room() {
    let place = Place::sqlite();
    let store = place.open().await;
    let most = async |pages: &'static str| {
        store.run(move |connection| Box::pin(sql::query(pages).execute(connection))).await.expect("a bound");
    };
    // No more than there are now.
    most("PRAGMA max_page_count = 1").await;
    let mut refused = 0;
    for number in 1..=40 {
        let (done, durable) = told();
        let entry = LedgerRow { model: "m".repeat(20_000), ..entry(number) };
        store.ledger_entered(entry, done);
        refused += usize::from(durable.await != Ok(Ok(())));
    }
    assert!(refused > 0, "it was never full");
    most("PRAGMA max_page_count = 1000000").await;
    let before = rows(&store).await.0;
    enter(&store, 101..=120).await;
    assert_eq!(rows(&store).await.0, before + 20);
}
