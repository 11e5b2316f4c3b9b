//! What it costs to know who asks and what he may, with 100,000 keys of 10,000 tenants: the key by its hash, the policies of key
//! and tenant, and the limits and budgets of both, counted, reserved and settled. Each request is of another key than the last, so that little of
//! it is in the processor's caches. On one thread, so that the time is the processor's.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use sluicegate::admission::{Accounts, Caller, Limiter};
use sluicegate::budgets::{Amounts, Budgets, Holders};
use sluicegate::ids::CorrelationId;
use sluicegate::lifecycle::Lifecycle;
use sluicegate::store::{Location, Store};
use sluicegate::tenants::{ChangeError, Tenants};
use sluicegate_compat::native::{
    Budget, BudgetKind, BudgetPeriod, KeyRequest, RateLimits, Scope, TaskRequest, TenantRequest,
};
use tokio::runtime::Runtime;

const TENANTS: usize = 10_000;
const KEYS_OF_EACH: usize = 10;

/// Requests to the store at once while keys are made.
const AT_ONCE: usize = 256;

/// Between the keys of two requests; it and the number of keys have no common divisor, so that all have their turn.
const STRIDE: usize = 7919;

const TASK_TOKENS: u64 = 300;

fn limits() -> RateLimits {
    RateLimits {
        requests_per_minute: Some(1_000_000),
        tokens_per_minute: Some(1_000_000_000),
        tokens_in_flight: Some(1_000_000),
        concurrency: Some(1000),
    }
}

fn budgets() -> Option<Vec<Budget>> {
    let budget = |kind, period| Budget { kind, limit: 1 << 50, period, timezone: None, soft_limit: Some(1 << 49) };
    let (daily, monthly) = (BudgetPeriod::Daily, BudgetPeriod::Monthly);
    Some(vec![budget(BudgetKind::Tokens, daily), budget(BudgetKind::Cost, monthly)])
}

fn models() -> Option<Vec<String>> {
    Some(["a-model", "another", "builtin"].map(str::to_owned).to_vec())
}

fn fail<T>(error: ChangeError) -> T {
    panic!("{error}")
}

/// Makes all tenants with their keys, and returns the keys as their owners have them.
async fn fill(tenants: &Tenants) -> Vec<String> {
    let tenant = |number: usize| TenantRequest {
        id: format!("tenant-{number}"),
        allowed_models: models(),
        limits: Some(limits()),
        budgets: budgets(),
        ..TenantRequest::default()
    };
    let make = |number| async move { tenants.create_tenant(&tenant(number)).await.map(drop) };
    let made = stream::iter(0..TENANTS).map(make).buffer_unordered(AT_ONCE).try_collect::<()>().await;
    made.unwrap_or_else(fail);
    let key = |number: usize| KeyRequest {
        tenant_id: format!("tenant-{}", number % TENANTS),
        scopes: vec![Scope::Infer],
        allowed_models: models(),
        limits: Some(limits()),
        budgets: budgets(),
        ..KeyRequest::default()
    };
    let make = |number| async move { Ok(tenants.create_key(&key(number)).await?.1.reveal().to_owned()) };
    let made =
        stream::iter(0..TENANTS * KEYS_OF_EACH).map(make).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await;
    made.unwrap_or_else(fail)
}

fn access(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    let budgets = Budgets::new();
    let (tenants, keys, accounts) = runtime.block_on(async {
        let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap_or_else(|error| panic!("{error}"));
        let tenants = Tenants::open(store.clone()).await.map(Arc::new).unwrap_or_else(|error| panic!("{error}"));
        let keys = fill(&tenants).await;
        let accounts = Accounts::new(budgets.clone(), Arc::clone(&tenants), store);
        for key in &keys {
            let identity = tenants.identify(Some(key)).unwrap_or_else(|denied| panic!("{denied}"));
            let caller = Caller::new(CorrelationId::from("bench"), &identity);
            accounts.ready(&caller.owners()).await.unwrap_or_else(|error| panic!("{error}"));
        }
        (tenants, keys, accounts)
    });
    let limiter = Arc::new(Limiter::default());
    let correlation = CorrelationId::from("bench");
    let mut number = 0;
    let mut next = || {
        number = (number + STRIDE) % keys.len();
        keys[number].as_str()
    };
    let identify = |key: &str| tenants.identify(Some(key)).unwrap_or_else(|denied| panic!("{denied}"));
    let permitted = |key: &str| {
        let caller = Caller::new(correlation.clone(), &identify(key));
        assert!(caller.rights.allow_model(&["builtin"]));
        caller
    };

    let mut group = criterion.benchmark_group("a request of one of 100,000 keys");
    group.bench_function("authentication", |bencher| bencher.iter(|| black_box(identify(next()))));
    group.bench_function("authentication, policy", |bencher| bencher.iter(|| black_box(permitted(next()))));
    group.bench_function("authentication, policy, limits", |bencher| {
        let mut request = TaskRequest::new("builtin");
        bencher.iter(|| {
            let caller = permitted(next());
            caller.grade(&mut request);
            let scopes = caller.scopes(RateLimits::default(), None);
            let admitted = limiter.admit(&scopes, &[TASK_TOKENS], || 0);
            black_box(admitted.is_ok_and(|taken| taken.len() == 1))
        });
    });
    group.bench_function("authentication, policy, limits, budgets", |bencher| {
        let mut request = TaskRequest::new("builtin");
        let reserved = Amounts { tokens: TASK_TOKENS, time_ms: 1000, cost: 10 };
        bencher.iter(|| {
            let caller = permitted(next());
            caller.grade(&mut request);
            let ready = accounts.ready(&caller.owners()).now_or_never();
            assert!(matches!(ready, Some(Ok(()))));
            let holders = Holders { accounts: Vec::new(), owners: caller.owners() };
            let (reservation, ()) =
                budgets.reserve(holders, |_| Ok((reserved, ()))).unwrap_or_else(|_| panic!("used up"));
            let scopes = caller.scopes(RateLimits::default(), None);
            let admitted = limiter.admit(&scopes, &[TASK_TOKENS], || 0);
            reservation.settle(Amounts { tokens: 1, time_ms: 1, cost: 1 }, 0);
            black_box(admitted.is_ok_and(|taken| taken.len() == 1))
        });
    });
    group.finish();
    runtime.shutdown_background();
}

criterion_group!(benches, access);
criterion_main!(benches);
