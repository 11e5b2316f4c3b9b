//! Who is told that a budget is nearly used up, and how.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc;

use super::*;

type Received = mpsc::Sender<(HeaderMap, String)>;

/// Takes events at this path; refuses the first one once.
async fn receiver() -> (String, mpsc::Receiver<(HeaderMap, String)>) {
    let (sender, receiver) = mpsc::channel(16);
    let refused = Arc::new(AtomicU64::new(0));
    let take = async move |State(sender): State<Received>, headers: HeaderMap, body: String| {
        if refused.fetch_add(1, Ordering::Relaxed) == 0 {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        sender.send((headers, body)).await.unwrap();
        StatusCode::NO_CONTENT
    };
    let router = Router::new().route("/hook", post(take)).with_state(sender);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/hook"), receiver)
}

#[tokio::test]
async fn a_soft_limit_is_told_with_a_header_a_metric_and_one_signed_event_and_stops_nobody() {
    let (url, mut events) = receiver().await;
    let secret = format!("whsec_{}", STANDARD.encode([7; 32]));
    let settings = [
        ("SLUICEGATE_BUDGETS__WEBHOOK_URL", url.as_str()),
        ("SLUICEGATE_BUDGETS__WEBHOOK_SECRET_ENV", "HOOK_SECRET"),
        ("HOOK_SECRET", secret.as_str()),
    ];
    let gate = Gate::with(Script::default(), &settings).await;
    let soft = Budget { soft_limit: Some(10), ..tokens(40) };
    let admin = acme(&gate, vec![Budget { period: BudgetPeriod::Daily, ..soft }]).await;
    let (_, key) = key(&gate, vec![]).await;
    let first = chat(&gate, &key, 2).await;
    assert_eq!(first.header("x-budget-soft-limit-reached"), "");
    let second = chat(&gate, &key, 9).await;
    assert_eq!((second.status, second.header("x-budget-soft-limit-reached")), (StatusCode::OK, "tenant-daily-tokens"));
    assert_eq!(chat(&gate, &key, 1).await.status, StatusCode::OK);
    // Who asks what would become of a task is refused nothing.
    let preview = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 40}).to_string();
    let preview = ask(&gate, &key, "POST", "/v2/tasks/preview", &preview).await.json();
    assert_eq!((&preview["feasible"], &preview["error"]["policy_label"]), (&json!(false), &json!("budget.tokens")));
    let metrics = ask(&gate, &admin, "GET", "/metrics", "").await.body;
    assert!(metrics.contains(r#"budget_limits_reached_total{kind="tokens"} 0"#));
    assert_eq!(chat(&gate, &key, 40).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(chat(&gate, &key, 40).await.status, StatusCode::TOO_MANY_REQUESTS);
    let (headers, body) = events.recv().await.unwrap();
    let event: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(event["type"], "budget.soft_limit_reached");
    let data = &event["data"];
    assert_eq!((&data["tenant_id"], &data["key_id"], &data["kind"]), (&json!("acme"), &Value::Null, &json!("tokens")));
    assert_eq!(data["spent"], used(&first) + used(&second));
    let [id, time, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| headers[name].to_str().unwrap());
    assert_eq!(signature, signed(&format!("{id}.{time}.{body}")));
    let (_, body) = events.recv().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["type"], "budget.limit_reached");
    assert!(events.try_recv().is_err(), "each is told once");
    let metrics = ask(&gate, &admin, "GET", "/metrics", "").await.body;
    for line in [
        r#"budget_soft_limits_reached_total{kind="tokens"} 1"#,
        r#"budget_limits_reached_total{kind="tokens"} 1"#,
        r#"budget_webhooks_total{outcome="failed"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    gate.finish().await;
}

fn signed(text: &str) -> String {
    use hmac::Mac as _;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&[7; 32]).unwrap();
    mac.update(text.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_webhook_without_a_good_secret_is_a_mistake_that_is_told_and_the_secret_is_not() {
    let wrong = |settings: &[(&str, &str)]| {
        let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let overrides = sluicegate::config::Overrides::default();
        sluicegate::config::Config::load(None, environment, overrides).unwrap_err().to_string()
    };
    let url = ("SLUICEGATE_BUDGETS__WEBHOOK_URL", "https://ops.example.com/hook");
    let named = ("SLUICEGATE_BUDGETS__WEBHOOK_SECRET_ENV", "HOOK_SECRET");
    assert!(wrong(&[url]).contains("name the variable with the secret"));
    assert!(wrong(&[url, named]).contains("there is no environment variable HOOK_SECRET"));
    let short = wrong(&[url, named, ("HOOK_SECRET", "whsec_c2hvcnQ=")]);
    assert!(short.contains("24 to 64 bytes") && !short.contains("c2hvcnQ"), "{short}");
    assert!(wrong(&[("SLUICEGATE_BUDGETS__WEBHOOK_URL", "ftp://x"), named]).contains("an address such as"));
}
