//! How many tasks a second are accepted for good: filed in SQLite or in PostgreSQL on this disk before each is answered, by one
//! client and by many at once, whose commits are shared. Beside it the same with nothing on the disk.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use sluicegate::admission::Caller;
use sluicegate::engine::scripted::Script;
use sluicegate::gateway::Gateway;
use sluicegate::ids::CorrelationId;
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

criterion_group!(benches, durable);
criterion_main!(benches);
