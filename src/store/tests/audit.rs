//! What administrators did, filed with what it changes.

use super::*;
use crate::audit::{Act, Action, Actor, Entry};

on_both!(
    what_is_done_is_filed_with_what_it_changes_or_not_at_all,
    actions_are_found_by_who_what_and_when_and_forgotten_by_time,
    a_price_is_as_it_was_filed_last_and_goes_with_its_model,
);

fn act(action: Action, target: &str) -> Arc<Act> {
    let by = Actor::Key { id: "k".into(), tenant: "t".into() };
    let act = Act::new(action, &by, Some("203.0.113.7".into()), "c");
    act.about(target);
    Arc::new(act)
}

fn all() -> AuditQuery {
    AuditQuery { to_ms: i64::MAX, most: 100, ..AuditQuery::default() }
}

async fn found(store: &Store, query: AuditQuery) -> Vec<(String, String, i64)> {
    // What was handed over before is done when this is answered.
    store.prices().await.expect("prices");
    let entries = store.audit(query).await.expect("entries");
    entries.into_iter().map(|entry| (entry.action, entry.target, entry.status)).collect()
}

async fn what_is_done_is_filed_with_what_it_changes_or_not_at_all(place: Place) {
    let store = place.open().await;
    let (made, late) = (act(Action::CREATE_TENANT, "acme"), act(Action::CREATE_TENANT, "acme"));
    assert!(matches!(store.acting(&made).change_tenants(tenant("acme", 0)).await, Ok(Changed::As(_))));
    assert_eq!(store.acting(&late).change_tenants(tenant("acme", 0)).await, Ok(Changed::Meanwhile));
    let drain = act(Action::DRAIN_POOL, "default");
    assert_eq!(store.acting(&drain).put_pool_drain("default".into(), Some(7)).await, Ok(()));
    let expected = [("pool.drain", "default", 202), ("tenant.create", "acme", 201)];
    let expected = expected.map(|(action, target, status)| (action.to_owned(), target.to_owned(), status));
    assert_eq!(found(&store, all()).await, expected);
    // A second copy of the first entry has its place, and nothing else changes with it.
    let again = Entry { status: 500, ..made.entry() };
    assert_eq!(store.acted(again).await, Ok(()));
    assert_eq!(found(&store, all()).await[1], ("tenant.create".into(), "acme".into(), 500));
    store.close().await;
    let store = place.open().await;
    assert_eq!(found(&store, all()).await.len(), 2);
}

async fn actions_are_found_by_who_what_and_when_and_forgotten_by_time(place: Place) {
    let store = place.open().await;
    let at = |ms: i64, by: &Actor, action: Action, target: &str| {
        let act = Act::new(action, by, None, "c");
        act.about(target);
        Entry { at_ms: ms, ..act.entry() }
    };
    let key = Actor::Key { id: "k".into(), tenant: "t".into() };
    for entry in [
        at(1, &key, Action::CREATE_TENANT, "a"),
        at(2, &Actor::Cli, Action::CREATE_TENANT, "b"),
        at(3, &key, Action::DELETE_TENANT, "a"),
        at(4, &Actor::Loopback, Action::DRAIN_POOL, "a"),
    ] {
        assert_eq!(store.acted(entry).await, Ok(()));
    }
    let targets = async |query: AuditQuery| {
        store.prices().await.expect("prices");
        let found = store.audit(query).await.expect("entries");
        found.into_iter().map(|entry| entry.at_ms).collect::<Vec<_>>()
    };
    assert_eq!(targets(all()).await, [4, 3, 2, 1]);
    assert_eq!(targets(AuditQuery { actor: Some("k".into()), ..all() }).await, [3, 1]);
    assert_eq!(targets(AuditQuery { actor: Some("cli".into()), ..all() }).await, [2]);
    assert_eq!(targets(AuditQuery { actor: Some("key".into()), ..all() }).await, [0; 0]);
    assert_eq!(targets(AuditQuery { action: Some("tenant.create".into()), ..all() }).await, [2, 1]);
    assert_eq!(targets(AuditQuery { target: Some("a".into()), from_ms: 2, ..all() }).await, [4, 3]);
    assert_eq!(targets(AuditQuery { to_ms: 3, ..all() }).await, [2, 1]);
    let page = store.audit(AuditQuery { most: 2, ..all() }).await.expect("a page");
    assert_eq!(targets(AuditQuery { before: Some(page[1].id.clone()), ..all() }).await, [2, 1]);
    store.audit_forgotten(3);
    assert_eq!(targets(all()).await, [4, 3]);
}

async fn a_price_is_as_it_was_filed_last_and_goes_with_its_model(place: Place) {
    let store = place.open().await;
    let row = |version, price: Option<&str>| PriceRow {
        model: "m".into(),
        price: price.map(str::to_owned),
        version,
        changed_ms: 5,
    };
    assert_eq!(store.put_price(row(1, Some("{}"))).await, Ok(()));
    let reset = act(Action::RESET_PRICE, "m");
    assert_eq!(store.acting(&reset).put_price(row(2, None)).await, Ok(()));
    assert_eq!(store.prices().await, Ok(vec![row(2, None)]));
    assert_eq!(found(&store, all()).await, [("price.reset".into(), "m".into(), 204)]);
    assert_eq!(store.forget_model("m".into()).await, Ok(()));
    assert_eq!(store.prices().await, Ok(Vec::new()));
}
