//! Where requests come from: what proxies may say about it, and addresses that guess keys.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use insta::assert_snapshot;
use sluicegate::api::ClientAddress;
use tower::ServiceExt as _;

use crate::harness::{Answer, Gate, masked, read, request, says};

const KEYS: [&str; 2] = ["sk-sg-guess", "sk-sg-0000000000000000-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"];

/// A request from `peer`, with a key and with what a proxy may have added.
fn from(peer: &str, path: &str, key: &str, forwarded: &str) -> Request<Body> {
    let mut request = request("GET", path, Body::empty());
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    if !forwarded.is_empty() {
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    request.extensions_mut().insert(ClientAddress(peer.parse::<IpAddr>().unwrap()));
    request
}

async fn ask(gate: &Gate, peer: &str, path: &str, key: &str, forwarded: &str) -> Answer {
    read(gate.send(from(peer, path, key, forwarded)).await).await
}

async fn status(gate: &Gate, peer: &str, key: &str, forwarded: &str) -> u16 {
    ask(gate, peer, "/v1/models", key, forwarded).await.status.as_u16()
}

#[tokio::test(start_paused = true)]
async fn an_address_that_guesses_is_told_to_wait_and_a_good_key_is_let_in_all_the_same() {
    let settings = [("SLUICEGATE_SERVER__FAILED_LOGINS", "{ burst = 2, per_minute = 20 }")];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    let good = gate.key.clone().unwrap();
    for key in KEYS {
        assert_eq!(status(&gate, "203.0.113.7", key, "").await, 401);
    }
    for key in KEYS {
        let refused = ask(&gate, "203.0.113.7", "/v1/models", key, "").await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((refused.header("retry-after"), refused.header("www-authenticate")), ("3", ""));
    }
    let told = async |path: &str| masked(&ask(&gate, "203.0.113.7", path, KEYS[0], "").await.body);
    assert_snapshot!(told("/v1/models").await, @r#"{"error":{"message":"too many API keys that are none have come from this address; a good one is let in at once","type":"requests","param":null,"code":"rate_limit_exceeded","policy_label":"rate.requests","retry_after_ms":3000}}"#);
    assert_snapshot!(told("/v1/messages/count_tokens").await, @r#"{"type":"error","error":{"type":"rate_limit_error","message":"too many API keys that are none have come from this address; a good one is let in at once","policy_label":"rate.requests","retry_after_ms":3000},"request_id":"<uuid>"}"#);
    assert_snapshot!(told("/v2/tasks").await, @r#"{"code":"ADMISSION_REJECT","message":"too many API keys that are none have come from this address; a good one is let in at once","retriable":true,"retry_after_ms":3000,"policy_label":"rate.requests","correlation_id":"<uuid>"}"#);

    assert_eq!(status(&gate, "203.0.113.7", &good, "").await, 200, "nobody is locked out by a neighbour");
    assert_eq!(status(&gate, "203.0.113.8", KEYS[0], "").await, 401, "another address is another matter");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(status(&gate, "203.0.113.7", KEYS[0], "").await, 401);
    assert_eq!(status(&gate, "203.0.113.7", KEYS[0], "").await, 429);
    let count = async |reason: &str| gate.metric(&format!(r#"failed_logins_total{{reason="{reason}"}}"#)).await;
    assert_eq!((count("throttled").await, count("malformed").await + count("unknown").await), (6.0, 4.0));
    assert_eq!((count("missing").await, count("expired").await, count("suspended").await), (0.0, 0.0, 0.0));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_sent_no_key_or_a_suspended_tenants_has_not_guessed() {
    let settings = [("SLUICEGATE_SERVER__FAILED_LOGINS__BURST", "1")];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    for _ in 0..5 {
        let mut without = from("203.0.113.7", "/v1/models", "", "");
        without.headers_mut().remove("authorization");
        let answer = gate.app.router.clone().oneshot(without).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(gate.metric(r#"failed_logins_total{reason="missing"}"#).await, 5.0);
    assert_eq!(status(&gate, "203.0.113.7", KEYS[0], "").await, 401);
    assert_eq!(status(&gate, "203.0.113.7", KEYS[0], "").await, 429);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_trusted_proxy_each_client_counts_for_itself_and_elsewhere_nobody_is_believed() {
    let settings = [
        ("SLUICEGATE_SERVER__FAILED_LOGINS__BURST", "1"),
        ("SLUICEGATE_SERVER__TRUSTED_PROXIES", r#"["10.0.0.0/8", "::1"]"#),
    ];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    for (peer, forwarded, expected) in [
        ("10.0.0.1", "203.0.113.7", 401),
        ("10.0.0.1", "203.0.113.8", 401),
        ("::1", "203.0.113.7", 429),
        ("10.0.0.1", "203.0.113.9, 203.0.113.7, 10.9.9.9", 429),
        ("10.0.0.1", "not, an, address", 401),
        ("198.51.100.1", "203.0.113.10", 401),
        ("198.51.100.1", "203.0.113.11", 429),
        ("203.0.113.8", "", 429),
    ] {
        assert_eq!(status(&gate, peer, KEYS[0], forwarded).await, expected, "{peer} {forwarded}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_keys_nobody_is_answered_through_a_proxy_that_is_trusted_either() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__TRUSTED_PROXIES", r#"["127.0.0.1"]"#)]).await;
    assert_eq!(status(&gate, "127.0.0.1", "", "").await, 200);
    assert_eq!(status(&gate, "127.0.0.1", "", "127.0.0.1").await, 403);
    gate.finish().await;
}
