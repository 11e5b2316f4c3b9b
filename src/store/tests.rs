//! The store over databases of its own: reopened, owned, full of secrets, and in paused time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

#[path = "../../tests/support/postgres.rs"]
mod cluster;
mod ledger;
mod outage;
mod postgres;

use ledger::{
    a_long_sum_holds_up_no_commit, a_row_that_cannot_go_in_does_not_take_others_with_it,
    rows_of_the_ledger_go_in_together_whatever_their_number,
    what_somebody_has_spent_is_the_same_however_it_is_added_up,
};

/// Where a test has its database.
struct Place {
    location: Location,
    schema: String,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { location: Location::in_folder(folder.path()), schema: String::new(), _folder: Some(folder) }
    }

    fn postgres() -> Self {
        let url = cluster::fresh_url();
        let schema = url.rsplit("%3D").next().expect("a schema").to_owned();
        let location = Location::Postgres(DatabaseUrl::parse(&url).expect("a URL"));
        Self { location, schema, _folder: None }
    }

    /// Of PostgreSQL.
    fn schema(&self) -> &str {
        &self.schema
    }

    async fn open(&self) -> Store {
        Store::open(&self.location, &Lifecycle::new()).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Runs each of these on both kinds of database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::sqlite()).await })*
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::Place::postgres()).await })*
        }
    };
}

mod audit;

on_both!(
    the_first_end_of_a_task_is_in_the_ledger_and_no_other,
    the_ledger_is_added_up_and_forgotten_by_time,
    rows_of_the_ledger_go_in_together_whatever_their_number,
    what_somebody_has_spent_is_the_same_however_it_is_added_up,
    a_row_that_cannot_go_in_does_not_take_others_with_it,
    a_long_sum_holds_up_no_commit,
    what_was_committed_is_there_after_the_store_is_opened_again,
    one_operation_that_fails_does_not_take_others_with_it,
    what_comes_after_the_end_is_told_so_at_once,
    keys_are_forgotten_by_their_age_and_used_again_afterwards,
    many_that_wait_share_a_commit,
    documents_are_filed_with_their_lineage_or_not_at_all,
    models_pools_and_workers_are_as_they_were_filed_last,
    a_session_is_charged_once_for_a_task,
    a_change_of_a_tenant_counts_where_nothing_came_between,
    a_command_beside_the_gateway_is_heard_of,
);

fn task(number: i64) -> TaskRow {
    TaskRow {
        position: number,
        id: format!("task-{number}"),
        facts: "{}".into(),
        request: Some("canary-in-a-prompt".into()),
        started: None,
        ended_at_ms: None,
        outcome: None,
    }
}

fn entry(number: i64) -> LedgerRow {
    LedgerRow {
        number,
        task_id: format!("task-{number}"),
        tenant: if number % 2 == 0 { "even" } else { "odd" }.into(),
        api_key: String::new(),
        model: "m".into(),
        pool: "p".into(),
        tokens_in: number,
        tokens_cached: 0,
        tokens_out: 10 * number,
        queue_ms: 1,
        engine_ms: 2,
        cost: 3,
        outcome: "stop".into(),
        ended_ms: 1000 * number,
    }
}

fn ended(number: i64) -> EndedRow {
    EndedRow { id: format!("task-{number}"), ended_at_ms: 7, outcome: "canary-in-an-output".into() }
}

/// What a callback is told.
type Told = Result<(), StoreError>;

/// A callback with the future of what it is told.
fn told() -> (impl FnOnce(Told) + Send, oneshot::Receiver<Told>) {
    let (sender, receiver) = oneshot::channel();
    (move |result| sender.send(result).expect("the test waits"), receiver)
}

async fn opened(folder: &Path) -> Store {
    Store::open(&Location::in_folder(folder), &Lifecycle::new()).await.expect("a store")
}

/// Whether the database, its log or its index hold these bytes.
fn holds(folder: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let mut files = files.map(|file| std::fs::read(file).expect("a file"));
    files.any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

async fn what_was_committed_is_there_after_the_store_is_opened_again(place: Place) {
    let store = place.open().await;
    for number in 1..=3 {
        let (done, durable) = told();
        store.task_accepted(task(number), None, HeldRows::default(), done);
        assert_eq!(durable.await, Ok(Ok(())));
    }
    store.task_started("task-1".into(), "{}".into(), |_| ());
    let (done, durable) = told();
    store.task_ended(ended(1), None, Some(entry(1)), done);
    // The first end stays.
    store.task_ended(EndedRow { outcome: "another".into(), ..ended(1) }, None, Some(entry(2)), |_| ());
    assert_eq!(durable.await, Ok(Ok(())));
    store.task_withdrawn("task-3".into());
    store.close().await;

    let store = place.open().await;
    let tasks = store.tasks().await.expect("tasks");
    let first = TaskRow {
        started: Some("{}".into()),
        ended_at_ms: Some(7),
        request: None,
        outcome: Some("canary-in-an-output".into()),
        ..task(1)
    };
    assert_eq!(tasks, [first, task(2)]);
}

#[tokio::test]
async fn a_second_gateway_is_refused_under_every_name_of_the_database() {
    let (folder, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let store = opened(folder.path()).await;
    let database = folder.path().join("sluicegate.db");
    let (symbolic, hard) = (other.path().join("symbolic.db"), other.path().join("hard.db"));
    std::os::unix::fs::symlink(&database, &symbolic).expect("a link");
    std::fs::hard_link(&database, &hard).expect("a link");
    std::fs::remove_file(folder.path().join("sluicegate.lock")).expect("a lock file");
    for path in [symbolic, hard, database] {
        let second = Store::open(&Location::File(path.clone()), &Lifecycle::new()).await;
        let message = second.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("in use by another gateway"), "{}: {message}", path.display());
    }
    store.close().await;
    opened(folder.path()).await.close().await;
}

#[tokio::test]
async fn a_second_gateway_is_refused_with_the_folder_and_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    let second = Store::open(&Location::in_folder(folder.path()), &Lifecycle::new()).await;
    let message = second.err().expect("a refusal").to_string();
    let (path, pid) = (folder.path().display(), std::process::id());
    assert_eq!(
        message,
        format!(
            "the data folder {path} is in use by another gateway (process {pid}); give each gateway its own data_dir and store.url"
        )
    );
    store.close().await;
    opened(folder.path()).await;
}

#[tokio::test]
async fn no_folder_but_that_of_the_data_is_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("no/such/folder/x.db");
    let opened = Store::open(&Location::File(path), &Lifecycle::new()).await;
    let message = opened.err().expect("a refusal").to_string();
    assert!(message.contains("no/such/folder: No such file or directory"), "{message}");
    assert!(!folder.path().join("no").exists());
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let opened = Store::open(&Location::in_folder(&file.path().join("below")), &Lifecycle::new()).await;
    let message = opened.err().expect("a refusal").to_string();
    assert!(message.starts_with("cannot use the folder /"), "{message}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluicegate.db");
    std::fs::write(&path, "a letter ".repeat(1000)).expect("a file");
    let opened = Store::open(&Location::File(path.clone()), &Lifecycle::new()).await;
    let message = opened.err().expect("a refusal").to_string();
    assert!(message.starts_with("cannot open the store /") && !message.contains('\n'), "{message}");
    assert_eq!(std::fs::read(path).expect("a file"), "a letter ".repeat(1000).as_bytes());
}

#[tokio::test]
async fn what_is_forgotten_cannot_be_read_from_the_files_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    (1..=20).for_each(|number| store.task_accepted(task(number), None, HeldRows::default(), |_| ()));
    assert_eq!(store.tasks().await.expect("tasks").len(), 20);
    assert!(holds(folder.path(), "canary-in-a-prompt"));
    (1..=20).for_each(|number| store.task_ended(ended(number), None, None, |_| ()));
    assert_eq!(store.tasks().await.expect("tasks").len(), 20);
    assert!(holds(folder.path(), "canary-in-an-output"));
    let (done, deleted) = told();
    store.tasks_forgotten((1..=20).map(|number| format!("task-{number}")).collect(), done);
    assert_eq!(deleted.await, Ok(Ok(())));
    assert_eq!(store.tasks().await.expect("tasks"), []);
    assert!(!holds(folder.path(), "canary"), "while it is open");
    store.close().await;
    assert!(!holds(folder.path(), "canary"), "once it is closed");
}

async fn one_operation_that_fails_does_not_take_others_with_it(place: Place) {
    let store = place.open().await;
    let ((first, one), (second, two), (third, three)) = (told(), told(), told());
    store.task_accepted(task(1), None, HeldRows::default(), first);
    store.task_accepted(task(1), None, HeldRows::default(), second);
    store.task_accepted(task(2), None, HeldRows::default(), third);
    assert_eq!(one.await, Ok(Ok(())));
    assert!(matches!(two.await, Ok(Err(StoreError::Failed(_)))));
    assert_eq!(three.await, Ok(Ok(())));
    assert_eq!(store.tasks().await.expect("tasks"), [task(1), task(2)]);
}

async fn what_comes_after_the_end_is_told_so_at_once(place: Place) {
    let store = place.open().await;
    store.close().await;
    let (done, durable) = told();
    store.task_accepted(task(1), None, HeldRows::default(), done);
    assert_eq!(durable.await, Ok(Err(StoreError::Closed)));
    assert_eq!(store.tasks().await, Err(StoreError::Closed));
}

#[tokio::test(start_paused = true)]
async fn paused_time_stands_still_while_a_commit_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    let began = tokio::time::Instant::now();
    for number in 1..=20 {
        let (done, durable) = told();
        store.task_accepted(task(number), None, HeldRows::default(), done);
        let told = tokio::time::timeout(Duration::from_millis(1), durable).await;
        assert_eq!(told.expect("in time"), Ok(Ok(())));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

async fn keys_are_forgotten_by_their_age_and_used_again_afterwards(place: Place) {
    let store = place.open().await;
    let key = |name: &str, number: i64| KeyRow {
        tenant: "default".into(),
        name: name.into(),
        fingerprint: "00".into(),
        task_id: format!("task-{number}"),
        answer: None,
        created_at_ms: number * 10,
    };
    for (name, number) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        store.task_accepted(task(number), Some(key(name, number)), HeldRows::default(), |_| ());
    }
    store.task_answered("task-3".into(), "{}".into());
    store.task_withdrawn("task-4".into());
    let answered = KeyRow { answer: Some("{}".into()), ..key("a", 3) };
    assert_eq!(store.keys().await, Ok(vec![key("b", 2), answered.clone()]));
    assert_eq!(store.tasks().await.expect("tasks").len(), 3);
    store.keys_forgotten(30);
    assert_eq!(store.keys().await, Ok(vec![answered]));
}

async fn many_that_wait_share_a_commit(place: Place) {
    let store = place.open().await;
    let committed = Arc::new(AtomicUsize::new(0));
    for number in 0..2000 {
        let committed = Arc::clone(&committed);
        store.task_accepted(task(number), None, HeldRows::default(), move |result| {
            assert_eq!(result, Ok(()));
            committed.fetch_add(1, Ordering::SeqCst);
        });
    }
    assert_eq!(store.tasks().await.expect("tasks").len(), 2000);
    assert_eq!(committed.load(Ordering::SeqCst), 2000);
}

fn document(id: &str, tags: &[&str], parents: &[&str], at_ms: i64) -> NewArtifact {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    NewArtifact {
        tenant: "default".into(),
        id: id.into(),
        document: "{}".into(),
        tags: owned(tags),
        parents: owned(parents),
        at_ms,
        most_tags: 3,
        most_parents: 2,
        most_children: 10,
    }
}

async fn documents_are_filed_with_their_lineage_or_not_at_all(place: Place) {
    let store = place.open().await;
    assert!(matches!(store.put_artifact(document("a", &["z", "B"], &[], 1)).await, Ok(Put::Created(_))));
    let known = store.put_artifact(document("a", &["a"], &[], 2)).await;
    let Ok(Put::Known(row)) = known else { panic!("{known:?}") };
    assert_eq!((row.tags, row.created_at_ms, row.updated_at_ms), (vec!["B".into(), "a".into(), "z".into()], 1, 2));
    assert!(matches!(store.put_artifact(document("b", &[], &["a"], 3)).await, Ok(Put::Created(_))));
    assert_eq!(store.put_artifact(document("c", &["t"], &["a", "no"], 4)).await, Ok(Put::NoParent("no".into())));
    assert_eq!(store.put_artifact(document("a", &["1", "2"], &[], 5)).await, Ok(Put::TooManyTags));
    assert_eq!(store.put_artifact(document("a", &[], &["b"], 5)).await, Ok(Put::LaterParent("b".into())));
    assert_eq!(store.artifact("default".into(), "c".into(), 10).await, Ok(None));
    let first = store.artifact("default".into(), "a".into(), 10).await.expect("an answer").expect("a document");
    assert_eq!((first.children, first.tags.len(), first.parents.len()), (vec!["b".to_owned()], 3, 0));
}

async fn models_pools_and_workers_are_as_they_were_filed_last(place: Place) {
    let store = place.open().await;
    let model = |id: &str, state: &str| ModelRow {
        id: id.into(),
        entry: None,
        state: state.into(),
        distrust: Some("why".into()),
        created_at_ms: 1,
        updated_at_ms: 2,
    };
    for row in [model("b", "ready"), model("a", "ready"), model("c", "ready"), model("b", "retired")] {
        assert_eq!(store.put_model(row).await, Ok(()));
    }
    assert_eq!(store.forget_model("c".into()).await, Ok(()));
    assert_eq!(store.models().await, Ok(vec![model("b", "retired"), model("a", "ready")]));

    assert_eq!(store.put_pool_drain("b".into(), Some(7)).await, Ok(()));
    assert_eq!(store.put_pool_model("B".into(), "one".into(), Some("other".into())).await, Ok(()));
    assert_eq!(store.put_pool_drain("a".into(), None).await, Ok(()));
    let ids = store.pools().await.expect("pools").into_iter().map(|pool| (pool.id, pool.draining_until_ms));
    assert_eq!(ids.collect::<Vec<_>>(), [("B".into(), None), ("a".into(), None), ("b".into(), Some(7))]);

    let worker = |slots| WorkerRow {
        id: "w".into(),
        pool: "a".into(),
        base_url: "http://w".into(),
        model: None,
        slots,
        ttl_ms: 5,
    };
    assert_eq!(store.put_worker(worker(None)).await, Ok(()));
    assert_eq!(store.put_worker(worker(Some(4))).await, Ok(()));
    assert_eq!(store.workers().await, Ok(vec![worker(Some(4))]));
}

async fn a_session_is_charged_once_for_a_task(place: Place) {
    let store = place.open().await;
    let session = session();
    let hold = HoldRow { task_id: "task-1".into(), session: Some(1), held: "{}".into(), started_at_ms: None };
    let held = HeldRows { session: Some(session.clone()), hold: Some(hold.clone()) };
    store.task_accepted(task(1), None, held, |_| ());
    assert_eq!(store.holds().await, Ok(vec![hold]));
    let spent =
        SpentRow { task_id: "task-1".into(), tokens: 5, time_ms: 6, cost: i64::MAX, turn: true, ended_at_ms: 7 };
    store.task_ended(ended(1), Some(spent.clone()), None, |_| ());
    store.hold_settled(spent, None, |_| ());
    let charged =
        SessionRow { turns: 1, expires_at_ms: 107, spent_tokens: 5, spent_time_ms: 6, spent_cost: i64::MAX, ..session };
    assert_eq!(store.sessions().await, Ok(vec![charged]));
    assert_eq!(store.holds().await, Ok(Vec::new()));
}

fn session() -> SessionRow {
    SessionRow {
        number: 1,
        tenant: "default".into(),
        id: "s".into(),
        ttl_ms: 100,
        expires_at_ms: 50,
        turns: 0,
        limit_tokens: Some(10),
        limit_time_ms: None,
        limit_cost: None,
        spent_tokens: 0,
        spent_time_ms: 0,
        spent_cost: 0,
    }
}

fn tenant(id: &str, version: i64) -> TenantChange {
    TenantChange::Tenant(tenant_row(id, version))
}

fn tenant_row(id: &str, version: i64) -> TenantRow {
    TenantRow {
        id: id.into(),
        name: None,
        weight: 1,
        suspended: true,
        created_ms: 1,
        deleted: false,
        version,
        policy: "{}".into(),
    }
}

async fn a_change_of_a_tenant_counts_where_nothing_came_between(place: Place) {
    let store = place.open().await;
    let Ok(Changed::As(first)) = store.change_tenants(tenant("acme", 0)).await else { panic!("it is new") };
    assert_eq!(store.change_tenants(tenant("acme", 0)).await, Ok(Changed::Meanwhile));
    let Ok(Changed::As(second)) = store.change_tenants(tenant("acme", first)).await else { panic!("it is known") };
    assert_eq!(store.change_tenants(tenant("acme", first)).await, Ok(Changed::Meanwhile));
    assert_eq!(store.tenants_since(first).await, Ok((vec![tenant_row("acme", second)], Vec::new())));
    assert_eq!(store.tenants_since(second).await, Ok((Vec::new(), Vec::new())));
}

async fn a_command_beside_the_gateway_is_heard_of(place: Place) {
    let (store, lifecycle) = (place.open().await, Lifecycle::new());
    let beside = Store::open_beside(&place.location, &lifecycle).await.expect("a store beside it");
    let changed = beside.change_tenants(tenant("acme", 0)).await;
    let Ok(Changed::As(number)) = changed else { panic!("{changed:?}") };
    assert_eq!(store.tenants_since(number - 1).await, Ok((vec![tenant_row("acme", number)], Vec::new())));
    beside.close().await;
    assert_eq!(store.change_tenants(tenant("other", 0)).await, Ok(Changed::As(number + 1)));
}

async fn the_first_end_of_a_task_is_in_the_ledger_and_no_other(place: Place) {
    let store = place.open().await;
    store.task_accepted(task(1), None, HeldRows::default(), |_| ());
    store.task_ended(ended(1), None, Some(entry(1)), |_| ());
    store.task_ended(ended(1), None, Some(entry(2)), |_| ());
    assert_eq!(store.ledger_last().await, Ok(1));
}

async fn the_ledger_is_added_up_and_forgotten_by_time(place: Place) {
    let store = place.open().await;
    assert_eq!(store.ledger_last().await, Ok(0));
    (1..=6).for_each(|number| store.ledger_entered(entry(number), |_| ()));
    assert_eq!(store.ledger_last().await, Ok(6));
    let all = UsageQuery { to_ms: i64::MAX, most: 100, ..UsageQuery::default() };
    let sums = async |query: UsageQuery| {
        let rows = store.usage(query).await.expect("sums");
        rows.into_iter().map(|row| (row.tenant, row.bucket, row.tasks, row.tokens_out)).collect::<Vec<_>>()
    };
    assert_eq!(sums(all.clone()).await, [(String::new(), 0, 6, 210)]);
    let by_tenant = UsageQuery { by_tenant: true, ..all.clone() };
    assert_eq!(sums(by_tenant.clone()).await, [("even".into(), 0, 3, 120), ("odd".into(), 0, 3, 90)]);
    let part = UsageQuery { from_ms: 2000, to_ms: 5000, by_ms: 2000, ..by_tenant };
    let expected = [("even".into(), 1, 1, 20), ("odd".into(), 1, 1, 30), ("even".into(), 2, 1, 40)];
    assert_eq!(sums(part).await, expected);
    let odd = UsageQuery { tenant: Some("odd".into()), model: Some("m".into()), ..all.clone() };
    assert_eq!(sums(odd).await, [(String::new(), 0, 3, 90)]);
    assert_eq!(sums(UsageQuery { pool: Some("q".into()), ..all.clone() }).await, []);
    store.ledger_forgotten(4000, 4000);
    assert_eq!(store.ledger_last().await, Ok(6));
    assert_eq!(sums(all.clone()).await, [(String::new(), 0, 6, 210)], "what is not added up stays");
    store.ledger_sum_up(6);
    store.ledger_forgotten(4000, 4000);
    assert_eq!(store.ledger_last().await, Ok(6));
    assert_eq!(sums(all).await, [(String::new(), 0, 3, 150)]);
}
