//! What the gateway costs: the same prompts to the same loaded engine, once directly and once through HTTP.
//!
//! `README.md` beside this file says how to run it and how to read what it prints.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use sluicegate::engine::Engine;
use tokio::runtime::{Builder, Runtime};

mod ask;
mod gateway;
mod instant;
mod ledger;
mod relay;
mod report;

#[path = "../common/listen.rs"]
mod listen;
#[path = "../common/quantile.rs"]
mod quantile;

use ask::{Direct, OverHttp, Round, round};
use instant::InstantEngine;
use report::{Level, Report};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Sequences at once that are measured, one after the other.
const AT_ONCE: [usize; 3] = [1, 8, 32];

/// Rounds of each side for each number at once. Even, so that each side goes first as often as the other.
const ROUNDS: u32 = 8;

/// Measures what the gateway adds to its engine.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// How long to measure, all rounds together.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Takes an engine that answers at once in place of the built-in model.
    #[arg(long)]
    instant: bool,
    /// Puts the gateway before a server elsewhere that answers at once.
    #[arg(long, conflicts_with = "instant")]
    remote: bool,
    /// Measures what the ledger costs: a gateway with one beside a gateway without, over engines that answer at once.
    #[arg(long, conflicts_with_all = ["instant", "remote"])]
    ledger: bool,
    /// With `--ledger`: the database that the ledger is in, as `store.url` has it, instead of one on SQLite.
    #[arg(long, value_name = "URL", requires = "ledger")]
    store: Option<String>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    // The clients have a thread of their own, as if they were another program.
    let clients = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;

    if arguments.remote {
        return relay::measure(&runtime, &clients, arguments.seconds, arguments.json);
    }
    if arguments.ledger {
        return ledger::measure(&runtime, &clients, arguments.store, (arguments.seconds, arguments.json));
    }
    let slots = AT_ONCE.iter().max().map_or(1, |slots| *slots as u32);
    let engine: Arc<dyn Engine> =
        if arguments.instant { Arc::new(InstantEngine::new(slots)) } else { runtime.block_on(gateway::load(slots))? };
    let address = runtime.block_on(gateway::serve(engine.clone()))?;
    let sides = Sides { direct: Direct::new(engine)?, http: OverHttp::new(address)?, runtime, clients };
    sides.check()?;

    let slice = Duration::from_secs(arguments.seconds.into()) / (AT_ONCE.len() as u32 * ROUNDS * 2);
    let mut levels = Vec::new();
    for at_once in AT_ONCE {
        levels.push(sides.measure(at_once, slice)?);
    }
    let tokenizing = sides.direct.tokenizing()?;
    let engine = if arguments.instant { "instant" } else { "builtin" };
    Report { engine, max_tokens: ask::MAX_TOKENS, tokenizing, levels }.print(arguments.json)?;
    Ok(())
}

/// Both ways to the engine.
struct Sides {
    direct: Direct,
    http: OverHttp,
    /// The gateway's, where the engine is driven directly too.
    runtime: Runtime,
    clients: Runtime,
}

impl Sides {
    fn direct(&self, at_once: usize, answers: usize) -> Result<Round, Failure> {
        let direct = self.direct.clone();
        self.runtime.block_on(round(at_once, answers, move |number| direct.clone().ask(number)))
    }

    fn http(&self, at_once: usize, answers: usize) -> Result<Round, Failure> {
        let http = self.http.clone();
        self.clients.block_on(round(at_once, answers, move |number| http.clone().ask(number)))
    }

    /// Both sides answer each prompt in the same words, so they do the same work. Warms up caches and connections.
    fn check(&self) -> Result<(), Failure> {
        let (direct, http) = (self.direct(1, ask::PROMPTS.len())?, self.http(1, ask::PROMPTS.len())?);
        let same = direct.replies.iter().zip(&http.replies).all(|(direct, http)| direct.text == http.text);
        if same { Ok(()) } else { Err("the engine and the gateway gave different answers".into()) }
    }

    /// Rounds of about `slice` each, the sides in turn: direct, HTTP, HTTP, direct, and so on, so that what else this
    /// machine does falls on both.
    fn measure(&self, at_once: usize, slice: Duration) -> Result<Level, Failure> {
        let trial = self.direct(at_once, 1)?.wall.max(self.http(at_once, 1)?.wall);
        let answers = (slice.as_secs_f64() / trial.as_secs_f64()).round().max(1.0) as usize;
        let mut level = Level::new(at_once);
        for number in 0..ROUNDS {
            let (direct, http) = if number % 2 == 0 {
                let direct = self.direct(at_once, answers)?;
                (direct, self.http(at_once, answers)?)
            } else {
                let http = self.http(at_once, answers)?;
                (self.direct(at_once, answers)?, http)
            };
            level.add(&direct, &http);
        }
        Ok(level)
    }
}
