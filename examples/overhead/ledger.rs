//! Two gateways over the same engines: one that enters each task into its ledger on the disk, and one that has none.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::quantile::quantile;
use crate::relay::{Samples, round};
use crate::{Failure, gateway};

/// How many ask at once, and what answers: the engine that answers at once with one token, or the built-in model with 64.
const LEVELS: [(usize, Answers); 4] =
    [(1, Answers::AtOnce), (32, Answers::AtOnce), (256, Answers::AtOnce), (32, Answers::Model)];

/// Rounds of each gateway. Even, so that each goes first as often as the other.
const ROUNDS: u32 = 6;

const POOLS: &str = r#"[
    { id = "default", model = "builtin", engine = "mistralrs", device = "cpu" },
    { id = "instant", model = "instant", engine = "scripted", slots = 1024, scripted = { first_token_ms = 0, token_ms = 0 } }
]"#;

/// For the scripted pool, which has words and no files.
const MODELS: &str = r#"[{ id = "instant", source = "hf:instant/instant" }]"#;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    AtOnce,
    Model,
}

impl Answers {
    const fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "scripted",
            Self::Model => "mistralrs",
        }
    }

    fn question(self) -> Bytes {
        let (model, tokens) = match self {
            Self::AtOnce => ("instant", 1),
            Self::Model => ("builtin", 64),
        };
        let body = json!({"model": model, "max_completion_tokens": tokens,
            "messages": [{"role": "user", "content": "What does a sluice gate do?"}]});
        body.to_string().into()
    }
}

/// Measures for about `seconds`, and prints. The ledger is in the database of this URL, else in a folder of the working directory.
pub fn measure(
    runtime: &Runtime,
    clients: &Runtime,
    url: Option<String>,
    (seconds, as_json): (u32, bool),
) -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(".")?;
    let serve = |ledger: bool| {
        let own = || format!("sqlite:{}", folder.path().join(format!("{ledger}.db")).display());
        let settings = [
            ("SLUICEGATE_STORE__URL", url.clone().filter(|_| ledger).unwrap_or_else(own)),
            ("SLUICEGATE_DATA_DIR", folder.path().display().to_string()),
            ("SLUICEGATE_LEDGER__ENABLED", ledger.to_string()),
            ("SLUICEGATE_POOLS", POOLS.replace('\n', " ")),
            ("SLUICEGATE_CATALOG__MODELS", MODELS.to_owned()),
            ("SLUICEGATE_ADMISSION__RETENTION_MS", "1000".to_owned()),
        ];
        runtime.block_on(gateway::serve_configured(&settings))
    };
    let (with, without) = (serve(true)?, serve(false)?);
    let long = Duration::from_secs(seconds.into()) / (LEVELS.len() as u32 * 2 * ROUNDS);
    let ask = |(at_once, answers): (usize, Answers), address: SocketAddr| {
        clients.block_on(round(at_once, address, "/v1/chat/completions", answers.question(), long))
    };
    if !as_json {
        println!(
            "               without a ledger: /s, us at the median and p99, CPU us   with one: the same              cost, lowest, highest"
        );
    }
    let mut measured = Vec::new();
    for level in LEVELS {
        let (at_once, answers) = level;
        let (mut entered, mut unentered, mut costs) = (Samples::default(), Samples::default(), Vec::new());
        for number in 0..ROUNDS {
            let (one, other) = if number % 2 == 0 {
                let one = ask(level, with)?;
                (one, ask(level, without)?)
            } else {
                let other = ask(level, without)?;
                (ask(level, with)?, other)
            };
            let per_s = |round: &Samples| quantile(&round.requests_per_s, 0.5);
            costs.push(1.0 - per_s(&one) / per_s(&other));
            entered.add(one);
            unentered.add(other);
        }
        let [cost, lowest, highest] = [0.5, 0.0, 1.0].map(|part| quantile(&costs, part));
        if !as_json {
            let percent = |part: f64| part * 100.0;
            println!(
                "{at_once:4} {:9} {} {:8.1} {} {:8.1} {:8.1}% {:5.1}% {:5.1}%",
                answers.name(),
                unentered.line(),
                quantile(&unentered.cpu_us, 0.5),
                entered.line(),
                quantile(&entered.cpu_us, 0.5),
                percent(cost),
                percent(lowest),
                percent(highest)
            );
        }
        measured.push(
            json!({"at_once": at_once, "engine": answers.name(), "without": unentered.json(), "with": entered.json(),
            "cost": {"median": cost, "lowest": lowest, "highest": highest}}),
        );
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({ "levels": measured }))?);
    }
    Ok(())
}
