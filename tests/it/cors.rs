//! Web pages of other origins: none may read anything, unless the configuration names them.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::StatusCode;

use crate::harness::{Answer, Gate, read, request, says};
use crate::openapi::documents::Document;

const APP: &str = "https://app.example";
const CHAT: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}]}"#;

async fn with_origins(origins: &str) -> Gate {
    Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__CORS__ORIGINS", origins)]).await.with_key().await
}

/// What a page of `origin` is answered.
async fn page(gate: &Gate, origin: &str, method: &str, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let body = if method == "POST" { Body::from(CHAT) } else { Body::empty() };
    let mut request = request(method, path, body);
    request.headers_mut().insert("origin", origin.parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    read(gate.send(request).await).await
}

const PREFLIGHT: [(&str, &str); 2] = [
    ("access-control-request-method", "POST"),
    ("access-control-request-headers", "authorization,content-type,x-stainless-lang,anthropic-beta"),
];

/// A preflight is sent without a key.
async fn preflight(gate: &mut Gate, origin: &str) -> Answer {
    let key = gate.key.take();
    let answer = page(gate, origin, "OPTIONS", "/v1/chat/completions", &PREFLIGHT).await;
    gate.key = key;
    answer
}

fn allowed(answer: &Answer) -> &str {
    answer.header("access-control-allow-origin")
}

fn varies(answer: &Answer) -> bool {
    answer.headers.get_all("vary").iter().any(|value| value.to_str().unwrap().contains("origin"))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_about_origins_unless_some_are_named() {
    let mut gate = with_origins("[]").await;
    let answer = page(&gate, APP, "POST", "/v1/chat/completions", &[]).await;
    assert_eq!((answer.status, allowed(&answer), varies(&answer)), (StatusCode::OK, "", false));
    let asked = preflight(&mut gate, APP).await;
    assert_eq!((asked.status, allowed(&asked)), (StatusCode::UNAUTHORIZED, ""));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn pages_of_the_origins_that_are_named_may_ask_and_read_with_a_key() {
    let mut gate = with_origins(r#"["https://app.example", "http://localhost:3000"]"#).await;
    let asked = preflight(&mut gate, APP).await;
    assert_eq!((asked.status, allowed(&asked)), (StatusCode::OK, APP));
    assert_eq!(asked.header("access-control-allow-headers"), PREFLIGHT[1].1);
    assert!(asked.header("access-control-allow-methods").split(',').any(|method| method == "PATCH"));
    assert_eq!((asked.header("access-control-max-age"), asked.header("access-control-allow-credentials")), ("600", ""));
    for origin in [APP, "http://localhost:3000"] {
        let answer = page(&gate, origin, "POST", "/v1/chat/completions", &[]).await;
        assert_eq!((answer.status, allowed(&answer)), (StatusCode::OK, origin));
        assert!(varies(&answer), "caches keep the origins apart");
    }
    // Why one is refused may be read as well.
    gate.key = None;
    let refused = page(&gate, APP, "GET", "/v1/models", &[]).await;
    assert_eq!((refused.status, allowed(&refused)), (StatusCode::UNAUTHORIZED, APP));
    for stranger in ["https://evil.example", "https://app.example.evil", "http://app.example", "null"] {
        let asked = preflight(&mut gate, stranger).await;
        assert_eq!(allowed(&asked), "", "{stranger}");
        assert_eq!(allowed(&page(&gate, stranger, "GET", "/healthz", &[]).await), "", "{stranger}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_origin_has_to_be_meant_and_never_comes_with_credentials() {
    let mut gate = with_origins(r#"["*"]"#).await;
    let asked = preflight(&mut gate, "https://anything.example").await;
    assert_eq!((allowed(&asked), asked.header("access-control-allow-credentials")), ("*", ""));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_foreign_page_is_refused_whatever_is_named() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__CORS__ORIGINS", r#"["https://app.example"]"#)]).await;
    assert_eq!(page(&gate, APP, "POST", "/v1/chat/completions", &[]).await.status, StatusCode::FORBIDDEN);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn pages_may_read_every_header_that_is_documented() {
    let gate = with_origins(r#"["https://app.example"]"#).await;
    let answer = page(&gate, APP, "GET", "/v1/models", &[]).await;
    let exposed: BTreeSet<_> = answer.header("access-control-expose-headers").split(',').map(str::to_owned).collect();
    // Those that pages may always read, what is for proxies, and what stands on answers to methods that there are not.
    let others = ["cache-control", "x-accel-buffering", "allow"];
    let mut documented = 0;
    for document in Document::both() {
        for operation in document.operations() {
            for response in operation.value["responses"].as_object().unwrap().values() {
                for name in document.resolve(response)["headers"].as_object().into_iter().flat_map(|it| it.keys()) {
                    let name = name.to_ascii_lowercase();
                    assert!(exposed.contains(&name) || others.contains(&name.as_str()), "{name} is not exposed");
                    documented += 1;
                }
            }
        }
    }
    assert!(documented > 100, "{documented}");
    gate.finish().await;
}
