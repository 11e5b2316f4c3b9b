//! Servers that register with a pool, and go.

use super::*;

/// Registers a server under a name, and returns the answer.
async fn register(gate: &Gate, name: &str, address: SocketAddr, more: serde_json::Value) -> serde_json::Value {
    let mut body = json!({"worker_id": name, "pool_id": "default", "base_url": format!("http://{address}/v1")});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = gate.post("/v2/workers/register", &body.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
    answer.json()
}

/// Waits until the replicas of the pool, with their states, are these.
async fn await_replicas(gate: &Gate, wanted: &[&str]) {
    let are = |health: &serde_json::Value| {
        let replicas = health["replicas"].as_array().into_iter().flatten();
        let replicas = replicas.map(|it| format!("{} {}", it["replica_id"], it["state"]).replace('"', ""));
        replicas.eq(wanted.iter().copied())
    };
    gate.until("/v2/pools/default/health", are).await;
}

#[tokio::test]
async fn a_server_that_registers_serves_until_it_registers_no_longer() {
    let [first, second]: [Arc<Server>; 2] = Default::default();
    let gate = before(&first).await;
    let address = second.start().await;
    let registered = register(&gate, "gpu-7", address, json!({"ttl_ms": 1500, "slots": 3})).await;
    assert_eq!(
        registered,
        json!({"worker_id": "gpu-7", "pool_id": "default", "replica_id": "default-1", "state": "starting",
            "ttl_ms": 1500, "heartbeat_ms": 500})
    );
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    assert_eq!(gate.app.pools[0].slots(), (0, 4 + 3));

    // The first server fails before the first token: the other one gets the task.
    first.down.store(true, Ordering::SeqCst);
    let body = json!({"model_ref": "builtin", "prompt": "misbehave: not at all", "max_tokens": 5});
    let task = gate.submit(&body.to_string()).await;
    let seen = gate.events(&task).await;
    assert!(seen.contains(r#""t":"well""#) && !seen.contains("event: error"), "{seen}");
    assert_eq!(gate.get(&format!("/v2/tasks/{task}")).await.json()["replica_id"], "default-1");
    first.down.store(false, Ordering::SeqCst);
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;

    let renewed = register(&gate, "gpu-7", address, json!({"ttl_ms": 1000, "slots": 3})).await;
    assert_eq!((&renewed["replica_id"], &renewed["state"]), (&json!("default-1"), &json!("ready")));
    await_replicas(&gate, &["default-0 ready"]).await;
    assert_eq!(gate.app.pools[0].slots(), (0, 4));
    assert_eq!(gate.metric(r#"slots_total{pool_id="default",replica_id="default-1"}"#).await, 0.0);

    // Its place is used again.
    let again = register(&gate, "gpu-8", address, json!({})).await;
    assert_eq!(again["replica_id"], "default-1");
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    gate.finish().await;
}

#[tokio::test]
async fn a_server_that_has_moved_takes_its_own_place() {
    let [first, second, third]: [Arc<Server>; 3] = Default::default();
    let gate = before(&first).await;
    register(&gate, "gpu-7", second.start().await, json!({})).await;
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    let moved = register(&gate, "gpu-7", third.start().await, json!({"model": "other"})).await;
    assert_eq!((&moved["replica_id"], &moved["state"]), (&json!("default-1"), &json!("starting")));
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    let asked = third.requests.lock().unwrap().clone();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.contains(r#""model":"other""#)), "{asked:?}");
    gate.finish().await;
}

#[tokio::test]
async fn a_server_is_sent_its_own_key_and_never_that_of_the_pool() {
    let [first, second, third]: [Arc<Server>; 3] = Default::default();
    let remote =
        format!(r#"{{ base_url = "http://{}/v1", model = "m", api_key_env = "UPSTREAM_KEY" }}"#, first.start().await);
    let pools = format!(r#"[{{ id = "default", engine = "remote", remote = {remote} }}]"#);
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", &pools), ("UPSTREAM_KEY", "geheim")]).await;
    register(&gate, "plain", second.start().await, json!({})).await;
    register(&gate, "keyed", third.start().await, json!({"api_key": "own"})).await;
    await_replicas(&gate, &["default-0 ready", "default-1 ready", "default-2 ready"]).await;
    let keys = [first, second, third].map(|server| {
        let request = server.requests.lock().unwrap()[0].to_ascii_lowercase();
        request.lines().find_map(|line| line.strip_prefix("authorization: ").map(str::to_owned))
    });
    assert_eq!(keys, [Some("bearer geheim".to_owned()), None, Some("bearer own".to_owned())]);
    gate.finish().await;
}

#[tokio::test]
async fn only_a_pool_with_a_remote_engine_takes_servers() {
    let gate = Gate::scripted(crate::harness::says(&["hi"])).await;
    let body = r#"{"worker_id": "a", "pool_id": "default", "base_url": "http://127.0.0.1:1/v1"}"#;
    let answer = gate.post("/v2/workers/register", body).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["param"]), (400, &json!("pool_id")));
    gate.finish().await;
}

/// Over the database in `folder`, with the server as the first of its pool.
async fn stored(folder: &tempfile::TempDir, server: &Arc<Server>) -> Gate {
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let remote = format!(r#"{{ base_url = "http://{}/v1", model = "m" }}"#, server.start().await);
    let pools = format!(r#"[{{ id = "default", engine = "remote", remote = {remote} }}]"#);
    Gate::configured(&[("SLUICEGATE_POOLS", &pools), ("SLUICEGATE_STORE__URL", &url)]).await
}

#[tokio::test]
async fn a_server_is_there_after_a_restart_and_goes_if_it_does_not_register_again() {
    let folder = tempfile::TempDir::new().unwrap();
    let [first, second, third]: [Arc<Server>; 3] = Default::default();
    let gate = stored(&folder, &first).await;
    register(&gate, "gpu-7", second.start().await, json!({"ttl_ms": 600_000, "slots": 3, "model": "there"})).await;
    let address = third.start().await;
    register(&gate, "keyed", address, json!({"api_key": "geheim"})).await;
    await_replicas(&gate, &["default-0 ready", "default-1 ready", "default-2 ready"]).await;
    gate.crash().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"geheim"), "no key is on the disk");
    }

    let gate = stored(&folder, &first).await;
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    assert_eq!(gate.app.pools[0].slots().1, 32 + 3);
    assert!(second.requests.lock().unwrap().last().unwrap().contains(r#""model":"there""#));
    // It is the same one when it registers again, for a second now.
    let again = register(&gate, "gpu-7", second.start().await, json!({"ttl_ms": 1000})).await;
    assert_eq!((&again["replica_id"], &again["state"]), (&json!("default-1"), &json!("starting")), "it has moved");
    await_replicas(&gate, &["default-0 ready"]).await;
    gate.crash().await;
    let gate = stored(&folder, &first).await;
    assert_eq!(gate.app.store.workers().await.unwrap(), []);
    gate.finish().await;
}

#[tokio::test]
async fn the_lease_of_a_server_that_came_back_runs_from_the_restart() {
    let folder = tempfile::TempDir::new().unwrap();
    let [first, second]: [Arc<Server>; 2] = Default::default();
    let gate = stored(&folder, &first).await;
    let address = second.start().await;
    register(&gate, "gpu-7", address, json!({"ttl_ms": 2000})).await;
    gate.crash().await;
    let gate = stored(&folder, &first).await;
    await_replicas(&gate, &["default-0 ready", "default-1 ready"]).await;
    let renewed = register(&gate, "gpu-7", address, json!({"ttl_ms": 2000})).await;
    assert_eq!((&renewed["replica_id"], &renewed["state"]), (&json!("default-1"), &json!("ready")));
    await_replicas(&gate, &["default-0 ready"]).await;
    gate.finish().await;
}

#[tokio::test]
async fn a_server_whose_pool_is_gone_is_forgotten() {
    let folder = tempfile::TempDir::new().unwrap();
    let [first, second]: [Arc<Server>; 2] = Default::default();
    let gate = stored(&folder, &first).await;
    register(&gate, "gpu-7", second.start().await, json!({})).await;
    gate.crash().await;
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let pools = r#"[{ id = "other", engine = "scripted" }]"#;
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", pools), ("SLUICEGATE_STORE__URL", &url)]).await;
    let forgotten = async {
        while !gate.app.store.workers().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), forgotten).await.unwrap();
    gate.finish().await;
}
