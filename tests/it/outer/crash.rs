//! `kill -9` under load, again and again over one store: what was answered with 202 is not lost and ends once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::running::{Running, eventually};
use crate::postgres;

const ROUNDS: usize = 4;
const SUBMITTERS: usize = 6;
/// Accepted tasks after which a process is killed.
const ACCEPTED: usize = 150;

/// The tasks that were answered with 202, each with the last event that a client has seen of it.
type Seen = Arc<Mutex<HashMap<String, Option<String>>>>;

/// What is there for the next process: a data folder, and where its store is.
struct Place {
    folder: TempDir,
    store: String,
}

impl Place {
    fn sqlite() -> Self {
        Self { folder: TempDir::new().unwrap(), store: "sqlite:".to_owned() }
    }

    fn postgres() -> Self {
        Self { store: postgres::fresh_url(), ..Self::sqlite() }
    }
}

fn start(place: &Place) -> Running {
    let data = place.folder.path().display().to_string();
    Running::scripted(&[
        ("DATA_DIR", &data),
        ("STORE__URL", &place.store),
        ("POOLS__0__SLOTS", "2"),
        ("POOLS__0__QUEUE__CAPACITY", "5000"),
        ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "2"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "1"),
    ])
}

fn last_event(stream: &str) -> Option<String> {
    let last = stream.trim_end().rsplit("\n\n").next()?;
    let ends = last.contains("event: end") || last.contains("event: error");
    ends.then(|| last.to_owned())
}

/// Submits until the process is gone, and follows every fourth task to its end.
async fn submit(client: reqwest::Client, address: std::net::SocketAddr, seen: Seen) {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": 5});
    for number in 0_usize.. {
        let sent = client.post(format!("http://{address}/v2/tasks")).json(&task).send().await;
        let Ok(answer) = sent else { return };
        assert_eq!(answer.status(), 202);
        let Ok(answer) = answer.json::<Value>().await else { return };
        let id = answer["task_id"].as_str().unwrap().to_owned();
        seen.lock().unwrap().insert(id.clone(), None);
        if number.is_multiple_of(4) {
            let stream = client.get(format!("http://{address}/v2/tasks/{id}/events")).send().await;
            let Ok(stream) = stream else { return };
            let Ok(stream) = stream.text().await else { return };
            seen.lock().unwrap().insert(id, last_event(&stream));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_task_is_lost_and_none_ends_twice() {
    nothing_is_lost(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_task_is_lost_and_none_ends_twice_in_postgresql() {
    nothing_is_lost(Place::postgres()).await;
}

async fn nothing_is_lost(place: Place) {
    let seen = Seen::default();
    for round in 1..=ROUNDS {
        let gateway = start(&place);
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|_| tokio::spawn(submit(gateway.client().clone(), gateway.address, Arc::clone(&seen))))
            .collect();
        eventually("tasks are accepted", async || seen.lock().unwrap().len() >= round * ACCEPTED).await;
        // Killed, not asked.
        drop(gateway);
        for submitter in submitters {
            submitter.await.unwrap();
        }
    }
    let gateway = start(&place);
    gateway.idle().await;
    let seen = seen.lock().unwrap().clone();
    let (mut reset, mut compared) = (0, 0);
    for (id, earlier) in &seen {
        let stream = gateway.get(&format!("/v2/tasks/{id}/events")).await;
        assert_eq!(stream.status(), 200, "{id} is lost");
        let last = last_event(&stream.text().await.unwrap());
        assert!(last.is_some(), "{id} has not ended");
        reset += usize::from(last.as_ref().is_some_and(|last| last.contains("WORKER_RESET")));
        if earlier.is_some() {
            assert_eq!(&last, earlier, "{id} has ended twice");
            compared += 1;
        }
    }
    println!("{} tasks accepted, {compared} seen to end before a crash, {reset} interrupted by one", seen.len());
    assert!(compared > 0);
    // Each process ran two tasks at most when it was killed.
    assert!(reset <= 2 * ROUNDS, "{reset}");
}

const SESSION: &str = "0192d3a0-0000-7000-8000-000000000001";
/// Tokens of the session, of which a task takes one for its prompt and five for its output.
const BUDGET: u64 = 3000;

/// What the session's tasks have used, as far as a client has seen how they ended; and how many of them.
#[derive(Default)]
struct Used {
    tokens: AtomicU64,
    ended: AtomicUsize,
}

/// Sends tasks of the session one after the other, native ones or chats, until the process is gone or the budget is used up.
async fn spend(client: reqwest::Client, address: std::net::SocketAddr, native: bool, used: Arc<Used>) {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": 5, "session_id": SESSION});
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5,
                      "sluicegate": {"session_id": SESSION}});
    let (path, body) = if native { ("/v2/tasks", task) } else { ("/v1/chat/completions", chat) };
    loop {
        let Ok(answer) = client.post(format!("http://{address}{path}")).json(&body).send().await else { return };
        let status = answer.status().as_u16();
        let Ok(answer) = answer.json::<Value>().await else { return };
        if status == 429 {
            let label = if native { &answer["policy_label"] } else { &answer["error"]["policy_label"] };
            assert_eq!(label, "budget.tokens", "{answer}");
            return;
        }
        let tokens = if native {
            let path = format!("/v2/tasks/{}/events", answer["task_id"].as_str().unwrap());
            let Ok(stream) = client.get(format!("http://{address}{path}")).send().await else { return };
            let Ok(stream) = stream.text().await else { return };
            let Some(last) = last_event(&stream) else { return };
            let end: Value = serde_json::from_str(&last[last.find('{').unwrap()..]).unwrap();
            end["tokens_in"].as_u64().unwrap() + end["tokens_out"].as_u64().unwrap()
        } else {
            answer["usage"]["total_tokens"].as_u64().unwrap()
        };
        used.tokens.fetch_add(tokens, Ordering::SeqCst);
        used.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_never_overspent_and_never_given_back_whatever_kills_the_gateway() {
    nothing_is_overspent(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_never_overspent_and_never_given_back_whatever_kills_the_gateway_in_postgresql() {
    nothing_is_overspent(Place::postgres()).await;
}

async fn nothing_is_overspent(place: Place) {
    let used = Arc::new(Used::default());
    let path = format!("/v2/sessions/{SESSION}");
    let spent = async |gateway: &Running| {
        let session = gateway.get_json(&path).await;
        BUDGET - session["tokens_budget_remaining"].as_u64().unwrap_or_else(|| panic!("{session}"))
    };
    let gateway = start(&place);
    assert_eq!(gateway.post(&path, &json!({"budget": {"tokens": BUDGET}})).await.status(), 204);
    drop(gateway);
    spend_it_all(&place, &reqwest::Client::builder().no_proxy().build().unwrap(), &used, async |gateway, seen| {
        assert!(spent(gateway).await >= seen, "{seen} were seen");
    })
    .await;
    let gateway = start(&place);
    let (spent, seen) = (spent(&gateway).await, used.tokens.load(Ordering::SeqCst));
    println!("{seen} tokens seen of {spent} spent and a budget of {BUDGET}");
    assert!((seen..=BUDGET).contains(&spent));
    // Each process was killed with no more than so many tasks that it had let in.
    let lost = (ROUNDS - 1) * SUBMITTERS;
    assert!(seen + 20 * (lost as u64 + 1) >= BUDGET, "{seen} of {BUDGET} were seen, the rest was lost");
}

/// Spends a budget through several processes that are killed, but for the last. Each is looked at when it has started, with what
/// clients have seen used by then.
async fn spend_it_all(place: &Place, client: &reqwest::Client, used: &Arc<Used>, look: impl AsyncFn(&Running, u64)) {
    for round in 1..=ROUNDS {
        let gateway = start(place);
        look(&gateway, used.tokens.load(Ordering::SeqCst)).await;
        let spenders: Vec<_> = (0..SUBMITTERS)
            .map(|number| spend(client.clone(), gateway.address, number % 2 == 0, Arc::clone(used)))
            .map(tokio::spawn)
            .collect();
        // The last process is left alone until nothing is left of the budget.
        if round < ROUNDS {
            eventually("tasks end", async || used.ended.load(Ordering::SeqCst) >= round * 60).await;
            drop(gateway);
        } else {
            eventually("the budget is used up", async || spenders.iter().all(tokio::task::JoinHandle::is_finished))
                .await;
            gateway.idle().await;
        }
        for spender in spenders {
            spender.await.unwrap();
        }
    }
}

/// Makes a tenant with a budget; its keys for administration and for tasks.
async fn tenant_with_a_budget(gateway: &Running) -> (String, String) {
    let tenant = json!({"id": "acme", "budgets": [{"kind": "tokens", "limit": BUDGET, "period": "total"}]});
    assert_eq!(gateway.post("/v2/admin/tenants", &tenant).await.status(), 201);
    let admin = json!({"tenant_id": "acme", "scopes": ["admin"]});
    let admin = gateway.post("/v2/admin/keys", &admin).await.json::<Value>().await.unwrap()["key"].clone();
    let admin = admin.as_str().unwrap().to_owned();
    let infer = json!({"tenant_id": "acme", "scopes": ["infer"]});
    let made = client(&admin).post(format!("http://{}/v2/admin/keys", gateway.address)).json(&infer).send().await;
    let infer = made.unwrap().json::<Value>().await.unwrap()["key"].as_str().unwrap().to_owned();
    (admin, infer)
}

fn client(key: &str) -> reqwest::Client {
    let key = format!("Bearer {key}").parse().unwrap();
    let headers = [(reqwest::header::AUTHORIZATION, key)].into_iter().collect();
    reqwest::Client::builder().no_proxy().default_headers(headers).build().unwrap()
}

/// What is spent and reserved of the tenant's budget, and what the ledger comes to.
async fn accounts(gateway: &Running, admin: &str) -> [u64; 3] {
    let ask = async |path: &str| {
        let answer = client(admin).get(format!("http://{}{path}", gateway.address)).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let (tenant, usage) = (ask("/v2/admin/tenants/acme").await, ask("/v2/usage?tenant_id=acme").await);
    let (budget, total) = (&tenant["budgets"][0], &usage["total"]);
    let tokens = total["tokens_in"].as_u64().unwrap() + total["tokens_out"].as_u64().unwrap();
    [budget["spent"].as_u64().unwrap(), budget["reserved"].as_u64().unwrap(), tokens]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_budget_is_what_its_ledger_says_whatever_kills_the_gateway() {
    a_tenant_overspends_nothing(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_budget_is_what_its_ledger_says_whatever_kills_the_gateway_in_postgresql() {
    a_tenant_overspends_nothing(Place::postgres()).await;
}

async fn a_tenant_overspends_nothing(place: Place) {
    let used = Arc::new(Used::default());
    let gateway = start(&place);
    let (admin, infer) = tenant_with_a_budget(&gateway).await;
    drop(gateway);
    spend_it_all(&place, &client(&infer), &used, async |gateway, seen| {
        let [spent, _, entered] = accounts(gateway, &admin).await;
        let sound = entered >= seen && spent >= seen && spent <= BUDGET;
        assert!(sound, "{seen} were seen, {entered} entered, {spent} spent");
    })
    .await;
    let gateway = start(&place);
    gateway.idle().await;
    let ([spent, reserved, entered], seen) = (accounts(&gateway, &admin).await, used.tokens.load(Ordering::SeqCst));
    println!("{seen} tokens seen of {spent} spent and a budget of {BUDGET}");
    assert_eq!((spent, reserved), (entered, 0));
    assert!((seen..=BUDGET).contains(&spent));
}
