//! The store over files of its own: reopened, owned, full of secrets, and in paused time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

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

#[tokio::test]
async fn what_was_committed_is_there_after_the_store_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    for number in 1..=3 {
        let (done, durable) = told();
        store.task_accepted(task(number), None, None, done);
        assert_eq!(durable.await, Ok(Ok(())));
    }
    store.task_started("task-1".into(), "{}".into(), |_| ());
    let (done, durable) = told();
    store.task_ended(ended(1), None, done);
    // The first end stays.
    store.task_ended(EndedRow { outcome: "another".into(), ..ended(1) }, None, |_| ());
    assert_eq!(durable.await, Ok(Ok(())));
    store.task_withdrawn("task-3".into());
    store.close().await;

    let store = opened(folder.path()).await;
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
    (1..=20).for_each(|number| store.task_accepted(task(number), None, None, |_| ()));
    assert_eq!(store.tasks().await.expect("tasks").len(), 20);
    assert!(holds(folder.path(), "canary-in-a-prompt"));
    (1..=20).for_each(|number| store.task_ended(ended(number), None, |_| ()));
    assert_eq!(store.tasks().await.expect("tasks").len(), 20);
    assert!(holds(folder.path(), "canary-in-an-output"));
    store.tasks_forgotten((1..=20).map(|number| format!("task-{number}")).collect(), |_| ());
    assert_eq!(store.tasks().await.expect("tasks"), []);
    assert!(!holds(folder.path(), "canary"), "while it is open");
    store.close().await;
    assert!(!holds(folder.path(), "canary"), "once it is closed");
}

#[tokio::test]
async fn one_operation_that_fails_does_not_take_others_with_it() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.expect("a store");
    let ((first, one), (second, two), (third, three)) = (told(), told(), told());
    store.task_accepted(task(1), None, None, first);
    store.task_accepted(task(1), None, None, second);
    store.task_accepted(task(2), None, None, third);
    assert_eq!(one.await, Ok(Ok(())));
    assert!(matches!(two.await, Ok(Err(StoreError::Failed(_)))));
    assert_eq!(three.await, Ok(Ok(())));
    assert_eq!(store.tasks().await.expect("tasks"), [task(1), task(2)]);
}

#[tokio::test]
async fn what_comes_after_the_end_is_told_so_at_once() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.expect("a store");
    store.close().await;
    let (done, durable) = told();
    store.task_accepted(task(1), None, None, done);
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
        store.task_accepted(task(number), None, None, done);
        let told = tokio::time::timeout(Duration::from_millis(1), durable).await;
        assert_eq!(told.expect("in time"), Ok(Ok(())));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn keys_are_forgotten_by_their_age_and_used_again_afterwards() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.expect("a store");
    let key = |name: &str, number: i64| KeyRow {
        tenant: "default".into(),
        name: name.into(),
        fingerprint: "00".into(),
        task_id: format!("task-{number}"),
        answer: None,
        created_at_ms: number * 10,
    };
    for (name, number) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        store.task_accepted(task(number), Some(key(name, number)), None, |_| ());
    }
    store.task_answered("task-3".into(), "{}".into());
    store.task_withdrawn("task-4".into());
    let answered = KeyRow { answer: Some("{}".into()), ..key("a", 3) };
    assert_eq!(store.keys().await, Ok(vec![key("b", 2), answered.clone()]));
    assert_eq!(store.tasks().await.expect("tasks").len(), 3);
    store.keys_forgotten(30);
    assert_eq!(store.keys().await, Ok(vec![answered]));
}

#[tokio::test]
async fn many_that_wait_share_a_commit() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = opened(folder.path()).await;
    let committed = Arc::new(AtomicUsize::new(0));
    for number in 0..2000 {
        let committed = Arc::clone(&committed);
        store.task_accepted(task(number), None, None, move |result| {
            assert_eq!(result, Ok(()));
            committed.fetch_add(1, Ordering::SeqCst);
        });
    }
    assert_eq!(store.tasks().await.expect("tasks").len(), 2000);
    assert_eq!(committed.load(Ordering::SeqCst), 2000);
}
