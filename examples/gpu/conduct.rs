//! How a gateway behaves while its engine is busy: cancelled tasks, seeds, a reload, a drain.

use std::collections::VecDeque;
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
use crate::quantile::quantile;
use crate::rounds::ms;
use crate::sides::{OverHttp, Question, Refused, Side, never_ends};
use crate::{Failure, MODEL};

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a client that was told to come again waits at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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

/// Times that a client hangs up.
const TIMES: usize = 5;

/// Has every slot taken, one more task wait, and one of the running ones hang up; several times.
pub async fn canceled(gateway: &Gateway) -> Result<Canceled, Failure> {
    let (mut lets_go, mut next) = (Vec::new(), Vec::new());
    for number in 0..TIMES {
        lets_go.push(ms(gateway.direct.let_go(&Question::new(number as u64, PROMPT, ANSWER)).await?));
    }
    let slots = gateway.slots();
    // As long as the cache allows, so that none of them ends by itself.
    let tokens =
        gateway.info().cache.map_or(LONG, |cache| (cache.tokens / slots as u64).saturating_sub(2 * PROMPT as u64));
    let long = Question::new(0, PROMPT, u32::try_from(tokens.clamp(1, LONG))?);
    let mut running = JoinSet::new();
    let start = |running: &mut JoinSet<_>, question: Question| {
        let http = gateway.http.clone();
        running.spawn(async move { http.ask(question, 0).await.map(drop) })
    };
    let began = Arc::new(Semaphore::new(0));
    let mut all: VecDeque<_> = (0..slots).map(|_| start(&mut running, long.clone().telling(&began))).collect();
    all_began(&mut running, &began, slots).await?;
    for _ in 0..TIMES {
        let began = Arc::new(Semaphore::new(0));
        all.push_back(start(&mut running, long.clone().telling(&began)));
        wait_for(gateway, "a task waits", |health| health["metrics"]["queue_depth"] == 1).await?;
        let hung_up = Instant::now();
        all.pop_front().into_iter().for_each(|task| task.abort());
        all_began(&mut running, &began, 1).await?;
        next.push(ms(hung_up.elapsed()));
    }
    running.shutdown().await;
    wait_for(gateway, "all have let go", |health| health["metrics"]["slots_active"] == 0).await?;
    let [engine_lets_go_ms, next_first_token_ms] = [lets_go, next].map(|times| quantile(&times, 0.5));
    Ok(Canceled { at_once: slots, engine_lets_go_ms, next_first_token_ms })
}

/// Waits until so many have had a token; none of those that run may end meanwhile, but for those that are hung up on.
async fn all_began(running: &mut JoinSet<Result<(), Failure>>, began: &Semaphore, tasks: usize) -> Result<(), Failure> {
    let all = began.acquire_many(u32::try_from(tasks)?);
    let all = timeout(PATIENCE, all);
    tokio::pin!(all);
    loop {
        tokio::select! {
            began = &mut all => return Ok(began.map_err(|_| "tasks do not begin")?.map(|permits| permits.forget())?),
            Some(ended) = running.join_next() => match ended {
                Err(error) if error.is_cancelled() => {}
                Ok(Err(error)) => return Err(error),
                _ => return Err("an answer ended by itself while others were waited for".into()),
            },
        }
    }
}

/// Whether a seed gives the text again that it gave alone.
#[derive(Debug, Serialize)]
pub struct Seeds {
    /// Tasks in the pool, the one that counts among them, on all of its replicas.
    pub at_once: usize,
    /// Alone once more.
    pub alone: bool,
    /// With others, and how much of the text is the same from its beginning on, 0 to 1.
    pub among_others: bool,
    pub same_part: f64,
    /// As a strict task that comes while the others run: promised. `None` where the engine refuses such tasks.
    pub strict: Option<bool>,
}

pub async fn seeds(gateway: &Gateway) -> Result<Seeds, Failure> {
    let http = &gateway.http;
    let question = || Question::new(3, PROMPT, ANSWER).seeded(7);
    let others = gateway.slots().clamp(1, 32) - 1;
    let crowd = || try_join_all((0..others).map(|number| http.ask(Question::new(number as u64, PROMPT, ANSWER), 0)));
    let alone = http.ask(question(), 0).await?.text;
    let again = http.ask(question(), 0).await?.text;
    let (_, amid) = tokio::try_join!(crowd(), http.ask(question(), 0))?;
    let asked = question();
    let strict = match strict(http, &asked).await? {
        Some(alone) => {
            let (_, amid) = tokio::try_join!(crowd(), strict(http, &asked))?;
            Some(Some(alone) == amid)
        }
        None => None,
    };
    let same = alone.bytes().zip(amid.text.bytes()).take_while(|(one, other)| one == other).count();
    Ok(Seeds {
        at_once: others + 1,
        alone: alone == again,
        among_others: alone == amid.text,
        same_part: same as f64 / alone.len().max(1) as f64,
        strict,
    })
}

/// The text of a strict task, from the native API; `None` where the engine refuses such tasks.
async fn strict(http: &OverHttp, question: &Question) -> Result<Option<String>, Failure> {
    let task = json!({"model_ref": MODEL, "prompt": &*question.prompt, "max_tokens": question.max_tokens,
        "seed": question.seed, "temperature": 1.0, "determinism": "strict", "logit_bias": never_ends()});
    let accepted: Value = http.post("/v2/tasks").json(&task).send().await?.json().await?;
    if accepted["param"] == "determinism" {
        return Ok(None);
    }
    let id = accepted["task_id"].as_str().ok_or_else(|| accepted.to_string())?;
    // The events end with the task.
    http.get(&format!("/v2/tasks/{id}/events")).send().await?.error_for_status()?.bytes().await?;
    let view: Value = http.get(&format!("/v2/tasks/{id}")).send().await?.json().await?;
    if view["tokens_out"] != question.max_tokens {
        return Err(format!("a strict task ended early: {view}").into());
    }
    Ok(Some(view["output"].as_str().ok_or_else(|| view.to_string())?.to_owned()))
}

/// A reload while clients ask.
#[derive(Debug, Serialize)]
pub struct Reloaded {
    pub seconds: f64,
    pub answered: usize,
    /// Times that a client was told to come again later: where there is no room for both models, the pool takes no new tasks meanwhile.
    pub put_off: usize,
    /// Should be none.
    pub failed: usize,
    /// From one answer to the next, whoever's they are.
    pub longest_gap_s: f64,
}

pub async fn reloaded(gateway: &Gateway) -> Result<Reloaded, Failure> {
    let enough = CancellationToken::new();
    let clients = join_all((0..CLIENTS).map(|number| client(&gateway.http, number as u64, &enough)));
    let reload = async {
        let _enough = enough.clone().drop_guard();
        let began = Instant::now();
        gateway.operate("reload", &json!({"new_model_ref": MODEL})).await?;
        let health = wait_for(gateway, "the reload ends", |health| health["reloading"] == false).await?;
        match health["last_error"].as_str() {
            Some(error) => Err(error.to_owned().into()),
            None => Ok::<_, Failure>(began.elapsed()),
        }
    };
    let (clients, took) = tokio::join!(clients, reload);
    let mut answered: Vec<_> = clients.iter().flat_map(|client| &client.answered).collect();
    answered.sort();
    let gaps = answered.windows(2).map(|pair| pair[1].duration_since(*pair[0]).as_secs_f64());
    Ok(Reloaded {
        seconds: took?.as_secs_f64(),
        answered: answered.len(),
        put_off: clients.iter().map(|client| client.put_off).sum(),
        failed: clients.iter().map(|client| client.failed).sum(),
        longest_gap_s: gaps.fold(0.0, f64::max),
    })
}

/// What came of one client's questions.
#[derive(Default)]
struct Told {
    answered: Vec<Instant>,
    put_off: usize,
    failed: usize,
}

/// Asks until it is enough, and there was an answer after that.
async fn client(http: &OverHttp, first: u64, enough: &CancellationToken) -> Told {
    let (mut told, began) = (Told::default(), Instant::now());
    for turn in 0.. {
        let last = enough.is_cancelled();
        let pause = match http.ask(Question::new(first + turn * CLIENTS as u64, PROMPT, ANSWER), 0).await {
            Ok(_) => {
                told.answered.push(Instant::now());
                if last {
                    break;
                }
                continue;
            }
            Err(error) => told.pause_after(&error),
        };
        if last && began.elapsed() > PATIENCE {
            break;
        }
        // Whoever is told to come later need not wait for that once it is enough.
        enough.run_until_cancelled(sleep(pause)).await;
        sleep(LOOK).await;
    }
    told
}

impl Told {
    fn pause_after(&mut self, error: &Failure) -> Duration {
        match error.downcast_ref::<Refused>() {
            Some(refused) if refused.is_put_off() => {
                self.put_off += 1;
                Duration::from_secs(refused.seconds.unwrap_or_default()).min(LONGEST_PAUSE)
            }
            _ => {
                eprintln!("  failed while the pool was reloaded: {error}");
                self.failed += 1;
                Duration::ZERO
            }
        }
    }
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
        drop(timeout(PATIENCE, began.acquire_many(u32::try_from(running)?)).await??);
        let ordered = Instant::now();
        gateway.operate("drain", &json!({"deadline_ms": PATIENCE.as_millis() as u64})).await?;
        let new = http.ask(Question::new(0, PROMPT, 2), 0).await;
        let refused = new.is_err_and(|error| error.downcast_ref().is_some_and(Refused::is_put_off));
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
