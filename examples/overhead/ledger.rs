//! Two gateways over engines that answer at once: one that enters each task into its ledger on the disk, and one that has none.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::relay::{Samples, round};
use crate::report::quantile;
use crate::{Failure, gateway};

const AT_ONCE: [usize; 3] = [1, 32, 256];

/// Rounds of each gateway. Even, so that each goes first as often as the other.
const ROUNDS: u32 = 6;

const POOL: &str = r#"[{ id = "default", model = "builtin", engine = "scripted", slots = 1024,
    scripted = { first_token_ms = 0, token_ms = 0 } }]"#;

fn question() -> Bytes {
    let body = json!({"model": "builtin", "max_completion_tokens": 1,
        "messages": [{"role": "user", "content": "What does a sluice gate do?"}]});
    body.to_string().into()
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
            ("SLUICEGATE_POOLS", POOL.replace('\n', " ")),
            ("SLUICEGATE_ADMISSION__RETENTION_MS", "1000".to_owned()),
        ];
        runtime.block_on(gateway::serve_configured(&settings))
    };
    let (with, without) = (serve(true)?, serve(false)?);
    let long = Duration::from_secs(seconds.into()) / (AT_ONCE.len() as u32 * 2 * ROUNDS);
    let ask = |at_once: usize, address: SocketAddr| {
        clients.block_on(round(at_once, address, "/v1/chat/completions", question(), long))
    };
    if !as_json {
        println!(
            "               without a ledger: /s, us at the median and p99     with one: the same           cost, lowest, highest"
        );
    }
    let mut measured = Vec::new();
    for at_once in AT_ONCE {
        let (mut entered, mut unentered, mut costs) = (Samples::default(), Samples::default(), Vec::new());
        for number in 0..ROUNDS {
            let (one, other) = if number % 2 == 0 {
                let one = ask(at_once, with)?;
                (one, ask(at_once, without)?)
            } else {
                let other = ask(at_once, without)?;
                (ask(at_once, with)?, other)
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
                "{at_once:4} at once   {} {} {:8.1}% {:5.1}% {:5.1}%",
                unentered.line(),
                entered.line(),
                percent(cost),
                percent(lowest),
                percent(highest)
            );
        }
        measured.push(json!({"at_once": at_once, "without": unentered.json(), "with": entered.json(),
            "cost": {"median": cost, "lowest": lowest, "highest": highest}}));
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({"engine": "scripted", "levels": measured}))?);
    }
    Ok(())
}
