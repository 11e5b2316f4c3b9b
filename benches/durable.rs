//! How many tasks a second are accepted for good: filed in SQLite or in PostgreSQL on this disk before each is answered, by one
//! client and by many at once, whose commits are shared. Beside it the same with nothing on the disk. And how many rows a
//! second go into the ledger, each of which is waited for.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use sluicegate::admission::Caller;
use sluicegate::engine::scripted::Script;
use sluicegate::gateway::Gateway;
use sluicegate::ids::CorrelationId;
use sluicegate::lifecycle::Lifecycle;
use sluicegate::store::{DatabaseUrl, LedgerRow, Location, Store};
use sluicegate::tenants::Identity;
use sluicegate_compat::native::TaskRequest;
use tokio::runtime::Runtime;

#[path = "support/gate.rs"]
mod gate;
#[path = "../tests/support/postgres.rs"]
mod postgres;

const AT_ONCE: [usize; 3] = [1, 32, 256];

const BODY: &str = r#"{"model_ref": "builtin", "prompt": "What does a sluice gate do?", "max_tokens": 1}"#;

/// One task, from its request to the moment at which its client is told that it is accepted.
async fn accept(gateway: &Arc<Gateway>, caller: &Caller) {
    let request: TaskRequest = serde_json::from_str(BODY).unwrap_or_else(|error| panic!("{error}"));
    let accepted = gateway.submit_once(None, request, BODY.into(), caller).await;
    accepted.unwrap_or_else(|error| panic!("{error:?}"));
}

fn durable(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let caller = Caller::new(CorrelationId::from("bench"), &Identity::anybody());
    let on_disk = format!("sqlite:{}", folder.path().join("tasks.db").display());
    let server = postgres::fresh_url();
    let stores = [("on disk", on_disk.as_str()), ("in memory", "sqlite::memory:"), ("in PostgreSQL", server.as_str())];
    for (name, store) in stores {
        // Tasks end as fast as they come; their starts and ends are filed as well.
        let script = Script { slots: 1024, first_token: Duration::ZERO, ..Script::default() };
        let settings = [
            ("SLUICEGATE_STORE__URL", store),
            ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "100000"),
            ("SLUICEGATE_ADMISSION__RETENTION_MS", "1000"),
        ];
        let app = runtime.block_on(gate::start(script, &settings));
        let mut group = criterion.benchmark_group(format!("accepted tasks, {name}"));
        group.sample_size(20);
        for at_once in AT_ONCE {
            group.throughput(Throughput::Elements(at_once as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{at_once} at once")), |bencher| {
                bencher.iter(|| {
                    runtime.block_on(async { join_all((0..at_once).map(|_| accept(&app.gateway, &caller))).await })
                });
            });
        }
        group.finish();
    }
    runtime.shutdown_background();
}

fn row(number: i64) -> LedgerRow {
    LedgerRow {
        number,
        task_id: format!("00000000-0000-7000-8000-{number:012}"),
        tenant: "default".into(),
        api_key: "key_0123456789abcdef".into(),
        model: "builtin".into(),
        pool: "default".into(),
        tokens_in: 40,
        tokens_cached: 0,
        tokens_out: 200,
        queue_ms: 3,
        engine_ms: 900,
        cost: 0,
        outcome: "stop".into(),
        ended_ms: 1_795_651_200_000 + number,
    }
}

fn ledger(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let server = DatabaseUrl::parse(&postgres::fresh_url()).unwrap_or_else(|error| panic!("{error}"));
    let on_disk = Location::in_folder(folder.path());
    for (name, location) in
        [("on disk", on_disk), ("in memory", Location::Memory), ("in PostgreSQL", Location::Postgres(server))]
    {
        let opened = runtime.block_on(Store::open(&location, &Lifecycle::new()));
        let store = opened.unwrap_or_else(|error| panic!("{error}"));
        let mut last = 0;
        let mut enter = || {
            last += 1;
            let (told, durable) = tokio::sync::oneshot::channel();
            store.ledger_entered(row(last), move |result| _ = told.send(result));
            durable
        };
        let mut group = criterion.benchmark_group(format!("rows of the ledger, {name}"));
        group.sample_size(20);
        for at_once in AT_ONCE {
            group.throughput(Throughput::Elements(at_once as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("{at_once} at once")), |bencher| {
                bencher.iter(|| {
                    let rows: Vec<_> = (0..at_once).map(|_| enter()).collect();
                    for durable in runtime.block_on(join_all(rows)) {
                        assert_eq!(durable, Ok(Ok(())));
                    }
                });
            });
        }
        group.finish();
    }
    runtime.shutdown_background();
}

criterion_group!(benches, durable, ledger);
criterion_main!(benches);
