//! A mixed load of two tenants on the real engine: how long tasks wait, how wrong the predictions were, how the tenants
//! share the pool, and what is refused.
//!
//! `README.md` beside this file says how to run it and how to read what it prints.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use futures_util::future::try_join_all;
use sluicegate::admission::Caller;
use sluicegate::app::App;
use sluicegate::config::{Config, Overrides};
use sluicegate::gateway::Gateway;
use sluicegate::ids::{CorrelationId, TenantId};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::pools::Share;
use sluicegate::tenants::Identity;
use sluicegate_compat::native::{End, Event, FinishReason, Priority, TaskRequest};
use tokio::time::{Instant, sleep};

mod report;

#[path = "../common/quantile.rs"]
mod quantile;

use report::{Outcome, Report};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Failure = Box<dyn Error + Send + Sync>;

/// The weights of the two tenants.
pub const WEIGHTS: [u32; 2] = [3, 1];

/// Clients of each tenant; each has one task at a time.
const CLIENTS: usize = 24;

/// How long a client that was refused waits before it tries again, at most: it takes the gateway's word for it.
const MOST_PATIENCE: Duration = Duration::from_secs(2);

const PROMPTS: [&str; 4] =
    ["What is Sluicegate?", "Tell me a story.", "What does the queue position mean?", "How do I cancel a task?"];

/// Loads a gateway with the tasks of two tenants, short ones and long ones.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// Tasks that may wait; 40 clients of 48 wait at most, so with more nobody is refused.
    #[arg(long, value_name = "N", default_value_t = 36)]
    queue: u32,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let lifecycle = Lifecycle::new();
    // Not the folder of a gateway that may be running.
    let environment = [
        ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY".to_owned(), arguments.queue.to_string()),
        ("SLUICEGATE_STORE__URL".to_owned(), "sqlite::memory:".to_owned()),
    ];
    let config = Config::load(None, environment.into_iter(), Overrides::default())?;
    let app = App::build(&config, &lifecycle).await?;
    app.start().await?;
    eprintln!("{CLIENTS} clients of each tenant for {} s", arguments.seconds);
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let clients = (0..2 * CLIENTS).map(|number| client(Arc::clone(&app.gateway), number % 2, number / 2, until));
    let outcomes = try_join_all(clients).await?.into_iter().flatten().collect();
    let slots = app.pools.first().map_or(0, |pool| pool.slots().1);
    Report::new(outcomes, slots, Duration::from_secs(arguments.seconds)).print(arguments.json)
}

/// What client `number` of a tenant wants: half of them a few words, the others long answers; every fourth is a batch job.
fn request(number: usize, turn: usize) -> TaskRequest {
    let priority = if number % 4 == 3 { Priority::Batch } else { Priority::Interactive };
    let max_tokens = if number.is_multiple_of(2) { 12 } else { 40 + 60 * (turn as u32 % 4) };
    TaskRequest {
        prompt: Some(PROMPTS[(number + turn) % PROMPTS.len()].into()),
        priority: Some(priority),
        max_tokens: Some(max_tokens),
        // The end tokens are ruled out for long answers only, so that the others may end before their limit.
        logit_bias: if max_tokens > 12 { [(0, -100.0), (2, -100.0)].into() } else { Default::default() },
        ..TaskRequest::new("builtin")
    }
}

/// One client after another task, until the time is over; what is under way then is waited for and not counted.
async fn client(gateway: Arc<Gateway>, tenant: usize, number: usize, until: Instant) -> Result<Vec<Outcome>, Failure> {
    let weight = NonZeroU32::new(WEIGHTS[tenant]).ok_or("a weight of 0")?;
    let share = Share { tenant: TenantId::from(format!("tenant-{tenant}")), weight };
    let mut outcomes = Vec::new();
    for turn in 0.. {
        let caller = Caller { share: share.clone(), ..Caller::new(CorrelationId::accept(None), &Identity::anybody()) };
        let request = request(number, turn);
        let priority = request.priority.unwrap_or_default();
        match gateway.submit(request, &caller).await {
            Ok(admitted) => {
                let mut reader = admitted.task.log.reader(0);
                let mut events = Vec::new();
                while reader.read(&mut events).await != sluicegate::tasks::Read::End {}
                if Instant::now() >= until {
                    return Ok(outcomes);
                }
                let end = ended(&events).ok_or("a task failed")?;
                let predicted_ms = admitted.place.prediction.start_ms;
                outcomes.push(Outcome::Ran { tenant, priority, predicted_ms, end });
            }
            Err(refused) => {
                outcomes.push(Outcome::Refused);
                let wait = Duration::from_millis(refused.retry_after_ms.ok_or("a refusal that says not when")?);
                sleep(wait.min(MOST_PATIENCE)).await;
            }
        }
        if Instant::now() >= until {
            break;
        }
    }
    Ok(outcomes)
}

fn ended(events: &[Event]) -> Option<End> {
    match events.last()? {
        Event::End(end) if end.finish_reason != FinishReason::Canceled => Some(end.as_ref().clone()),
        _ => None,
    }
}
