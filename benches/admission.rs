//! What it costs to let a task in, ask for its place and cancel it while 100,000 others wait: of the queue by itself, and of
//! the whole gateway below HTTP (checks, tokens, registry, log, metrics).

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use sluicegate::admission::Caller;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use sluicegate::gateway::Gateway;
use sluicegate::ids::{CorrelationId, TaskId, TenantId};
use sluicegate::pools::{Floor, Queue, Share, Ticket, Work};
use sluicegate::tenants::Identity;
use sluicegate_compat::native::{Priority, TaskRequest};
use tokio::runtime::Runtime;

#[path = "support/gate.rs"]
mod gate;

const WAITING: usize = 100_000;

fn queue(criterion: &mut Criterion) {
    let work = Work { tasks: 1, sequences: 1, slots: 1, cache: 0, prefill_tokens: 300, decode_tokens: 200 };
    for tenants in [1, 10, 100] {
        with_tenants(criterion, work, tenants);
    }
}

/// A quarter of the entries is of the batch class.
fn with_tenants(criterion: &mut Criterion, work: Work, tenants: u32) {
    let mut group = criterion.benchmark_group(format!("queue with 100,000 entries of {tenants} tenants"));
    let shares: Vec<Share> = (1..=tenants)
        .filter_map(|weight| Some((weight, NonZeroU32::new(weight)?)))
        .map(|(number, weight)| Share { tenant: TenantId::from(number.to_string()), weight })
        .collect();
    let mut queue = Queue::new(2 * WAITING, Floor::new(0.1));
    let mut number = 0;
    let mut push = |queue: &mut Queue<u64>| {
        number += 1;
        let priority = if number % 4 == 0 { Priority::Batch } else { Priority::Interactive };
        let share = &shares[number / 4 % shares.len()];
        queue.push(priority, share, work, 7).unwrap_or_else(|full| panic!("{full:?}"))
    };
    let tickets: Vec<Ticket> = (0..WAITING).map(|_| push(&mut queue)).collect();
    group.bench_function("position of one in the middle", |bencher| {
        bencher.iter(|| queue.ahead(black_box(tickets[WAITING / 2])));
    });
    group.bench_function("push, position, remove", |bencher| {
        bencher.iter(|| {
            let ticket = push(&mut queue);
            black_box(queue.ahead(ticket));
            queue.remove(ticket)
        });
    });
    group.bench_function("pop the head, push at the end", |bencher| {
        bencher.iter(|| {
            black_box(queue.pop());
            push(&mut queue)
        });
    });
    assert_eq!(queue.len(), WAITING);
    group.finish();
}

fn request() -> TaskRequest {
    let prompt = "What does a sluice gate do, and why would anybody want one? ".repeat(5);
    let body = serde_json::json!({"model_ref": "builtin", "prompt": prompt, "max_tokens": 200});
    serde_json::from_value(body).unwrap_or_else(|error| panic!("{error}"))
}

fn submit(runtime: &Runtime, gateway: &Arc<Gateway>, request: TaskRequest, caller: &Caller) -> TaskId {
    let admitted = runtime.block_on(gateway.submit(request, caller));
    admitted.unwrap_or_else(|error| panic!("{error:?}")).task.spec.id
}

fn gateway(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    // One slot, and the task in it never gets on.
    let stalled = Failure { after: 0, kind: FailureKind::Stall, times: u32::MAX };
    let script = Script { failure: Some(stalled), slots: 1, ..Script::default() };
    let settings = [
        ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "200000"),
        ("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "3600000"),
        ("SLUICEGATE_POOLS__0__WATCHDOG__WALL_MS", "3600000"),
        ("SLUICEGATE_ADMISSION__RETENTION_MAX_BYTES", "1000000"),
    ];
    let app = runtime.block_on(gate::start(script, &settings));
    let gateway = &app.gateway;
    let caller = Caller::new(CorrelationId::from("bench"), &Identity::anybody());
    let request = request();
    let ids: Vec<TaskId> = (0..=WAITING).map(|_| submit(&runtime, gateway, request.clone(), &caller)).collect();
    let cancel = |id| {
        runtime.block_on(gateway.cancel(&caller.share.tenant, Some(id))).unwrap_or_else(|error| panic!("{error:?}"))
    };
    let view = |id| gateway.view(&caller.share.tenant, Some(id)).unwrap_or_else(|error| panic!("{error:?}"));

    let mut group = criterion.benchmark_group("gateway with 100,000 waiting tasks");
    group.bench_function("look at one in the middle", |bencher| bencher.iter(|| view(ids[WAITING / 2])));
    group.bench_function("submit and cancel", |bencher| {
        bencher.iter(|| cancel(submit(&runtime, gateway, request.clone(), &caller)));
    });
    group.bench_function("submit, look, cancel", |bencher| {
        bencher.iter(|| {
            let id = submit(&runtime, gateway, request.clone(), &caller);
            let position = view(id).show().summary.facts.queue_position;
            cancel(id);
            position
        });
    });
    group.finish();
    drop(app);
    runtime.shutdown_background();
}

criterion_group!(benches, queue, gateway);
criterion_main!(benches);
