//! A server that is away for a while: what is refused, what waits, what is kept in a file; and that all of it is written once.

use std::time::Duration;

use super::super::*;
use super::cluster::{self, Cluster};
use super::{ended, entry, session, task, told};

/// Nothing that a test waits for takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway's store, and what it needs.
struct Gateway {
    store: Store,
    lifecycle: Lifecycle,
}

fn location(url: &str) -> Location {
    Location::Postgres(DatabaseUrl::parse(url).expect("a URL"))
}

async fn gateway(url: &str, folder: &Path, longest: Duration) -> Gateway {
    let lifecycle = Lifecycle::new();
    let metrics = StoreMetrics::unregistered();
    let outage = Outage { longest, folder: folder.to_owned(), metrics };
    let store =
        Store::open_to_outlast(&location(url), outage, &lifecycle).await.unwrap_or_else(|error| panic!("{error}"));
    Gateway { store, lifecycle }
}

impl Gateway {
    async fn enter(&self, number: i64) -> Result<(), StoreError> {
        let (done, durable) = told();
        self.store.ledger_entered(entry(number), done);
        in_time(durable).await.expect("it is told")
    }

    async fn accept(&self, number: i64) -> Result<(), StoreError> {
        let (done, durable) = told();
        self.store.task_accepted(task(number), None, HeldRows::default(), done);
        in_time(durable).await.expect("it is told")
    }

    async fn end(&self, number: i64) -> Result<(), StoreError> {
        let (done, durable) = told();
        self.store.task_ended(ended(number), None, Some(entry(100 + number)), done);
        in_time(durable).await.expect("it is told")
    }

    /// The numbers of tasks in the ledger, and of those the first tokens added up.
    async fn sums(&self) -> (i64, i64) {
        let all = UsageQuery { to_ms: i64::MAX, most: 10, ..UsageQuery::default() };
        let rows = self.store.usage(all).await.expect("sums");
        rows.first().map_or((0, 0), |sum| (sum.tasks, sum.tokens_in))
    }

    async fn comes_back(&self) {
        eventually(|| !self.store.is_away()).await;
    }
}

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn eventually(mut is: impl FnMut() -> bool) {
    let look = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(look).await;
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

#[tokio::test]
async fn while_the_server_is_away_ends_are_kept_and_all_is_written_once_when_it_is_back() {
    let (mut server, folder) = (Cluster::of_its_own(), tempfile::tempdir().expect("a folder"));
    let gateway = gateway(&server.public_url(), folder.path(), PATIENCE).await;
    for number in 1..=3 {
        assert_eq!(gateway.accept(number).await, Ok(()));
    }
    assert_eq!(gateway.enter(1).await, Ok(()));
    server.stop();
    assert_eq!(gateway.enter(2).await, Ok(()));
    assert!(gateway.store.is_away());
    assert_eq!(gateway.accept(4).await, Err(StoreError::Away));
    assert_eq!(gateway.store.workers().await, Err(StoreError::Away));
    let (done, started) = told();
    gateway.store.task_started("task-2".into(), "{}".into(), done);
    assert_eq!(in_time(started).await, Ok(Ok(())));
    assert_eq!(gateway.end(1).await, Ok(()));
    assert_eq!(gateway.end(2).await, Ok(()));
    assert_eq!(files(folder.path()), 1);
    server.start();
    gateway.comes_back().await;
    assert_eq!(gateway.accept(5).await, Ok(()));
    assert_eq!(gateway.sums().await, (4, 1 + 2 + 101 + 102));
    let tasks = gateway.store.tasks().await.expect("tasks");
    let states = tasks.iter().map(|task| (task.position, task.started.is_some(), task.ended_at_ms.is_some()));
    let expected = [(1, false, true), (2, true, true), (3, false, false), (5, false, false)];
    assert_eq!(states.collect::<Vec<_>>(), expected);
    gateway.store.close().await;
    assert_eq!(files(folder.path()), 0);
    assert!(!gateway.lifecycle.failed());
}

#[tokio::test]
async fn what_a_process_leaves_that_ends_while_the_server_is_away_is_written_once_by_the_next() {
    let (mut server, folder) = (Cluster::of_its_own(), tempfile::tempdir().expect("a folder"));
    let url = server.public_url();
    let first = gateway(&url, folder.path(), PATIENCE).await;
    assert_eq!(first.accept(1).await, Ok(()));
    assert_eq!(first.enter(1).await, Ok(()));
    server.stop();
    assert_eq!(first.enter(2).await, Ok(()));
    assert_eq!(first.end(1).await, Ok(()));
    // One that is lost with the process, and one that has ended.
    for (id, ended) in [("lost", false), ("done", true)] {
        let hold = HoldRow { task_id: id.into(), session: Some(1), held: "{}".into(), started_at_ms: None };
        first.store.hold_taken(Some(session()), hold);
        let (done, started) = told();
        first.store.hold_started(id.into(), 5, done);
        assert_eq!(in_time(started).await, Ok(Ok(())));
        let (done, settled) = told();
        if ended {
            let used = SpentRow { task_id: id.into(), tokens: 1, time_ms: 1, cost: 1, turn: true, ended_at_ms: 9 };
            first.store.hold_settled(used, None, done);
            assert_eq!(in_time(settled).await, Ok(Ok(())));
        }
    }
    in_time(first.store.close()).await;
    let kept: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|file| file.expect("a file").path()).collect();
    let lines = std::fs::read(&kept[0]).expect("a file");
    server.start();
    // The second time as if the first had ended before the file was removed.
    for _ in 0..2 {
        std::fs::write(&kept[0], &lines).expect("room");
        let next = gateway(&url, folder.path(), PATIENCE).await;
        assert_eq!(next.sums().await, (3, 1 + 2 + 101));
        let holds = next.store.holds().await.expect("holds");
        let holds: Vec<_> = holds.iter().map(|hold| (hold.task_id.as_str(), hold.started_at_ms)).collect();
        assert_eq!(holds, [("lost", Some(5))]);
        let sessions = next.store.sessions().await.expect("sessions");
        assert_eq!((sessions[0].spent_tokens, sessions[0].turns), (1, 1), "charged once");
        assert!(next.store.tasks().await.expect("tasks")[0].ended_at_ms.is_some());
        assert_eq!(files(folder.path()), 0);
        next.store.close().await;
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_counts_once() {
    let (server, folder) = (Cluster::of_its_own(), tempfile::tempdir().expect("a folder"));
    let gateway = gateway(&server.public_url(), folder.path(), PATIENCE).await;
    // A commit is on the disk, and then waits for a standby that never comes.
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    server.sql("SELECT pg_reload_conf()");
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let (done, accepted) = told();
    gateway.store.task_accepted(task(1), None, HeldRows::default(), done);
    eventually(|| !server.sql(waiting).is_empty()).await;
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    assert_eq!(in_time(accepted).await, Ok(Ok(())));
    assert_eq!(gateway.store.tasks().await.expect("tasks"), [task(1)]);

    // And one that was taken back does not.
    server.sql(
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
    );
    server.sql(
        "CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION leave()",
    );
    assert_eq!(gateway.accept(2).await, Err(StoreError::Away));
    gateway.comes_back().await;
    assert_eq!(gateway.store.tasks().await.expect("tasks"), [task(1)]);
    server.sql("DROP TRIGGER leave ON tasks");
    assert_eq!(gateway.accept(2).await, Ok(()));
    gateway.store.close().await;
}

/// A role that can be kept out, and a schema for it.
struct Door {
    role: String,
    url: String,
    others: String,
}

impl Door {
    fn new() -> Self {
        let others = cluster::fresh_url();
        let schema = others.rsplit("%3D").next().expect("a schema").to_owned();
        let role = format!("role_{schema}");
        cluster::sql(&format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", cluster::PASSWORD));
        cluster::sql(&format!("GRANT ALL ON SCHEMA {schema} TO {role}"));
        let url = cluster::url(&role, cluster::PASSWORD, "postgres", &schema);
        Self { role, url, others }
    }

    fn shut(&self) {
        cluster::sql(&format!("ALTER ROLE {} NOLOGIN", self.role));
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename";
        cluster::sql(&format!("{end} = '{}'", self.role));
    }

    fn open(&self) {
        cluster::sql(&format!("ALTER ROLE {} LOGIN", self.role));
    }
}

#[tokio::test]
async fn a_gateway_ends_where_another_has_had_the_schema_meanwhile() {
    let (door, folder) = (Door::new(), tempfile::tempdir().expect("a folder"));
    let gateway = gateway(&door.url, folder.path(), PATIENCE).await;
    assert_eq!(gateway.enter(1).await, Ok(()));
    door.shut();
    // Without anything to write as well.
    eventually(|| gateway.store.is_away()).await;
    let other = Store::open(&location(&door.others), &Lifecycle::new()).await.expect("a store");
    // It takes a task of the first for lost, and charges it.
    let (done, charged) = told();
    other.ledger_entered(LedgerRow { number: 2, ended_ms: entry(3).ended_ms + 5, ..entry(3) }, done);
    assert_eq!(in_time(charged).await, Ok(Ok(())));
    other.close().await;
    door.open();
    in_time(gateway.lifecycle.draining().cancelled()).await;
    assert!(gateway.lifecycle.failed());
    // What still ends is kept.
    assert_eq!(gateway.enter(2).await, Ok(()));
    assert_eq!(gateway.enter(3).await, Ok(()));
    in_time(gateway.store.close()).await;
    assert_eq!(files(folder.path()), 1);
    let next = self::gateway(&door.url, folder.path(), PATIENCE).await;
    assert_eq!(next.sums().await, (3, 1 + 2 + 3), "each once");
    next.store.close().await;
}

#[tokio::test]
async fn a_gateway_ends_where_its_database_is_away_for_too_long() {
    let (door, folder) = (Door::new(), tempfile::tempdir().expect("a folder"));
    let gateway = gateway(&door.url, folder.path(), Duration::from_millis(50)).await;
    let (done, waits) = told();
    door.shut();
    eventually(|| gateway.store.is_away()).await;
    gateway.store.tasks_forgotten(vec!["task-1".into()], done);
    in_time(gateway.lifecycle.draining().cancelled()).await;
    assert!(gateway.lifecycle.failed());
    assert_eq!(gateway.enter(1).await, Ok(()));
    in_time(gateway.store.close()).await;
    assert_eq!(in_time(waits).await, Ok(Err(StoreError::Closed)));
    assert_eq!(files(folder.path()), 1);
}
