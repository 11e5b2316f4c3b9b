//! How a gateway behaves while its engine is busy: cancelled tasks, seeds, a reload, a drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::rounds::ms;
use crate::sides::{OverHttp, Question, Side};
use crate::{Failure, MODEL};

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at a pool.
const LOOK: Duration = Duration::from_millis(20);

/// Tokens of a prompt, and of an answer of middle length.
const PROMPT: usize = 32;
const ANSWER: u32 = 64;

/// Tokens of an answer that is to last, at most.
const LONG: u64 = 1024;

/// Clients that go on asking while something is done with their pool.
const CLIENTS: usize = 8;

/// How fast a place is free again.
#[derive(Debug, Serialize)]
pub struct Canceled {
    /// Streams at once.
    pub at_once: usize,
    /// The engine by itself: from the cancellation until it has let go of the sequence.
    pub engine_lets_go_ms: f64,
    /// The gateway with every slot taken: from a client's hanging up to the first token of one that waited.
    pub next_first_token_ms: f64,
}

/// Has every slot taken, one more task wait, and one of the running ones hang up.
pub async fn canceled(gateway: &Gateway) -> Result<Canceled, Failure> {
    let engine_lets_go_ms = ms(gateway.direct.let_go(&Question::new(0, PROMPT, ANSWER)).await?);
    let (http, slots) = (&gateway.http, gateway.slots());
    let tokens =
        gateway.info().cache.map_or(LONG, |cache| (cache.tokens / slots as u64).saturating_sub(PROMPT as u64 * 2));
    let long = Question::new(1, PROMPT, u32::try_from(tokens.clamp(1, LONG))?);
    let began = Arc::new(Semaphore::new(0));
    let mut running = JoinSet::new();
    let mut hang_up = None;
    for number in 0..slots {
        let (http, question) = (http.clone(), long.clone().telling(&began));
        let task = running.spawn(async move { http.ask(question, number).await.map(drop) });
        hang_up.get_or_insert(task);
    }
    let all = u32::try_from(slots)?;
    timeout(PATIENCE, began.acquire_many(all)).await.map_err(|_| "not every slot got a task")??.forget();
    let waits = tokio::spawn({
        let (http, question) = (http.clone(), Question::new(2, PROMPT, 2).telling(&began));
        async move { http.ask(question, 0).await.map(drop) }
    });
    wait_for(gateway, "a task waits", |health| health["metrics"]["queue_depth"] == 1).await?;
    let hung_up = Instant::now();
    hang_up.into_iter().for_each(|task| task.abort());
    timeout(PATIENCE, began.acquire()).await.map_err(|_| "no slot was free again")??.forget();
    let next_first_token_ms = ms(hung_up.elapsed());
    waits.await??;
    running.shutdown().await;
    wait_for(gateway, "all have let go", |health| health["metrics"]["slots_active"] == 0).await?;
    Ok(Canceled { at_once: slots, engine_lets_go_ms, next_first_token_ms })
}

/// Whether a seed gives the text again that it gave alone.
#[derive(Debug, Serialize)]
pub struct Seeds {
    /// Streams at once, the one that counts among them.
    pub at_once: usize,
    /// Alone once more.
    pub alone: bool,
    /// Among others, and how much of the text is the same from its beginning on, 0 to 1.
    pub among_others: bool,
    pub same_part: f64,
    /// As a strict task, among others: promised.
    pub strict: bool,
}

pub async fn seeds(gateway: &Gateway) -> Result<Seeds, Failure> {
    let http = &gateway.http;
    let question = || Question::new(3, PROMPT, ANSWER).seeded(7);
    let others = gateway.slots().clamp(1, 32) - 1;
    let crowd = || join_all((0..others).map(|number| http.ask(Question::new(number as u64, PROMPT, ANSWER), 0)));
    let alone = http.ask(question(), 0).await?.text;
    let again = http.ask(question(), 0).await?.text;
    let (_, amid) = tokio::join!(crowd(), http.ask(question(), 0));
    let amid = amid?.text;
    let asked = question();
    let strict_alone = strict(http, &asked).await?;
    let (_, strict_amid) = tokio::join!(crowd(), strict(http, &asked));
    let same = alone.bytes().zip(amid.bytes()).take_while(|(one, other)| one == other).count();
    Ok(Seeds {
        at_once: others + 1,
        alone: alone == again,
        among_others: alone == amid,
        same_part: same as f64 / alone.len().max(1) as f64,
        strict: strict_alone == strict_amid?,
    })
}

/// The text of a strict task, from the native API.
async fn strict(http: &OverHttp, question: &Question) -> Result<String, Failure> {
    let task = json!({"model_ref": MODEL, "prompt": &*question.prompt, "max_tokens": question.max_tokens,
        "seed": question.seed, "temperature": 1.0, "determinism": "strict"});
    let accepted: Value = http.post("/v2/tasks").json(&task).send().await?.json().await?;
    let id = accepted["task_id"].as_str().ok_or_else(|| accepted.to_string())?;
    // The events end with the task.
    http.get(&format!("/v2/tasks/{id}/events")).send().await?.error_for_status()?.bytes().await?;
    let view: Value = http.get(&format!("/v2/tasks/{id}")).send().await?.json().await?;
    Ok(view["output"].as_str().ok_or_else(|| view.to_string())?.to_owned())
}

/// A reload while clients ask.
#[derive(Debug, Serialize)]
pub struct Reloaded {
    pub seconds: f64,
    pub answered: usize,
    /// Should be none.
    pub failed: usize,
    /// From one answer to the next, whoever's they are.
    pub longest_gap_s: f64,
}

pub async fn reloaded(gateway: &Gateway) -> Result<Reloaded, Failure> {
    let enough = CancellationToken::new();
    let clients = join_all((0..CLIENTS).map(|number| client(&gateway.http, number as u64, &enough)));
    let reload = async {
        let began = Instant::now();
        gateway.operate("reload", &json!({"new_model_ref": MODEL})).await?;
        let health = wait_for(gateway, "the reload ends", |health| health["reloading"] == false).await?;
        enough.cancel();
        match health["last_error"].as_str() {
            Some(error) => Err(error.to_owned().into()),
            None => Ok::<_, Failure>(began.elapsed()),
        }
    };
    let (answers, took) = tokio::join!(clients, reload);
    let mut times: Vec<_> = answers.iter().flat_map(|(answered, _)| answered).collect();
    times.sort();
    let gaps = times.windows(2).map(|pair| pair[1].duration_since(*pair[0]).as_secs_f64());
    Ok(Reloaded {
        seconds: took?.as_secs_f64(),
        answered: times.len(),
        failed: answers.iter().map(|(_, failed)| failed).sum(),
        longest_gap_s: gaps.fold(0.0, f64::max),
    })
}

/// Asks until it is enough; when there was an answer, and how often none.
async fn client(http: &OverHttp, first: u64, enough: &CancellationToken) -> (Vec<Instant>, usize) {
    let (mut answered, mut failed) = (Vec::new(), 0);
    for turn in 0.. {
        if enough.is_cancelled() {
            break;
        }
        match http.ask(Question::new(first + turn * CLIENTS as u64, PROMPT, ANSWER), 0).await {
            Ok(_) => answered.push(Instant::now()),
            Err(error) => {
                eprintln!("  failed while the pool was reloaded: {error}");
                failed += 1;
                sleep(LOOK).await;
            }
        }
    }
    (answered, failed)
}

/// A drain while streams run.
#[derive(Debug, Serialize)]
pub struct Drained {
    /// Streams that ran when it began: all of them came to their end.
    pub running: usize,
    pub seconds: f64,
    /// A task that came meanwhile was refused, as it should be.
    pub refused: bool,
    /// From the order to resume to an answer.
    pub resumed_ms: f64,
}

pub async fn drained(gateway: &Gateway) -> Result<Drained, Failure> {
    let (http, began) = (&gateway.http, Arc::new(Semaphore::new(0)));
    let running = gateway.slots().min(CLIENTS);
    let question = |number| Question::new(number as u64, PROMPT, ANSWER * 4).telling(&began);
    let streams = try_join_all((0..running).map(|number| http.ask(question(number), number)));
    let drain = async {
        drop(began.acquire_many(u32::try_from(running)?).await?);
        let ordered = Instant::now();
        gateway.operate("drain", &json!({"deadline_ms": PATIENCE.as_millis() as u64})).await?;
        let refused = http.ask(Question::new(0, PROMPT, 2), 0).await.is_err();
        wait_for(gateway, "the pool is empty", |health| health["metrics"]["slots_active"] == 0).await?;
        Ok::<_, Failure>((ordered.elapsed(), refused))
    };
    let (_, (took, refused)) = tokio::try_join!(streams, drain)?;
    let resumed = Instant::now();
    gateway.operate("resume", &json!({})).await?;
    http.ask(Question::new(0, PROMPT, 2), 0).await?;
    Ok(Drained { running, seconds: took.as_secs_f64(), refused, resumed_ms: ms(resumed.elapsed()) })
}

/// Looks at the pool until it is so.
async fn wait_for(gateway: &Gateway, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    let began = Instant::now();
    loop {
        let health = gateway.health().await?;
        if is_so(&health) {
            return Ok(health);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("waited too long until {what}: {health}").into());
        }
        sleep(LOOK).await;
    }
}
