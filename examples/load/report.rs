//! What came of the load, as a table or as JSON.

use std::time::Duration;

use serde::Serialize;
use sluicegate_compat::native::{End, Priority};

use crate::quantile::quantile;
use crate::{Failure, WEIGHTS};

/// What a client saw.
pub enum Outcome {
    Ran {
        tenant: usize,
        priority: Priority,
        /// From admission, as its answer said.
        predicted_ms: u64,
        end: End,
    },
    Refused,
}

#[derive(Debug, Serialize)]
pub struct Report {
    seconds: f64,
    slots: u32,
    tasks: usize,
    refused: usize,
    tokens_per_s: f64,
    waits: Vec<Waits>,
    tenants: Vec<Tenant>,
}

/// The waits of some tasks, and how wrong the predictions of their starts were.
#[derive(Debug, Serialize)]
struct Waits {
    of: &'static str,
    tasks: usize,
    wait_ms_median: f64,
    wait_ms_p95: f64,
    error_ms_median: f64,
    error_ms_p95: f64,
    /// Of the error as a share of the wait.
    error_share_median: f64,
}

#[derive(Debug, Serialize)]
struct Tenant {
    weight: u32,
    tokens: u64,
    /// Of all tokens, prompts included.
    share: f64,
    /// What the weights say.
    fair_share: f64,
}

impl Report {
    pub fn new(outcomes: Vec<Outcome>, slots: u32, time: Duration) -> Self {
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused)).count();
        let ran: Vec<_> = outcomes
            .into_iter()
            .filter_map(|outcome| match outcome {
                Outcome::Ran { tenant, priority, predicted_ms, end } => Some((tenant, priority, predicted_ms, end)),
                Outcome::Refused => None,
            })
            .collect();
        let waits = |of, fits: &dyn Fn(Priority, u64) -> bool| {
            let fitting = ran.iter().filter(|(_, priority, _, end)| fits(*priority, end.queue_ms));
            Waits::new(of, fitting.map(|(_, _, predicted, end)| (*predicted as f64, end.queue_ms as f64)).collect())
        };
        let tokens = |tenant: usize| -> u64 {
            let of_tenant = ran.iter().filter(|(whose, ..)| *whose == tenant);
            of_tenant.map(|(_, _, _, end)| end.tokens_in + end.tokens_out).sum()
        };
        let all = (tokens(0) + tokens(1)).max(1);
        let weights: u32 = WEIGHTS.iter().sum();
        let tenants = WEIGHTS.into_iter().enumerate().map(|(tenant, weight)| Tenant {
            weight,
            tokens: tokens(tenant),
            share: tokens(tenant) as f64 / all as f64,
            fair_share: f64::from(weight) / f64::from(weights),
        });
        let seconds = time.as_secs_f64();
        Self {
            seconds,
            slots,
            tasks: ran.len(),
            refused,
            tokens_per_s: ran.iter().map(|(_, _, _, end)| end.tokens_out).sum::<u64>() as f64 / seconds,
            waits: [
                waits("all", &|_, _| true),
                waits("under 1 s", &|_, ms| ms < 1000),
                waits("1 s and more", &|_, ms| ms >= 1000),
                waits("interactive", &|priority, _| priority == Priority::Interactive),
                waits("batch", &|priority, _| priority == Priority::Batch),
            ]
            .into(),
            tenants: tenants.collect(),
        }
    }

    pub fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!(
            "{} tasks in {:.0} s on {} slots, {:.0} tokens/s; {} submissions refused",
            self.tasks, self.seconds, self.slots, self.tokens_per_s, self.refused
        );
        println!("\n                         wait, ms           error of the predicted start");
        println!("tasks that wait  count  median     p95   median ms    p95 ms   median share of the wait");
        for waits in &self.waits {
            println!(
                "{:15} {:6} {:7.0} {:7.0}   {:9.0} {:9.0}   {:10.0} %",
                waits.of,
                waits.tasks,
                waits.wait_ms_median,
                waits.wait_ms_p95,
                waits.error_ms_median,
                waits.error_ms_p95,
                100.0 * waits.error_share_median
            );
        }
        println!("\ntenant  weight  tokens   share   by weight");
        for (number, tenant) in self.tenants.iter().enumerate() {
            let (share, fair) = (100.0 * tenant.share, 100.0 * tenant.fair_share);
            println!("{number:6}  {:6}  {:6}  {share:4.1} %     {fair:4.1} %", tenant.weight, tenant.tokens);
        }
        Ok(())
    }
}

impl Waits {
    /// From pairs of what was predicted and what came, in ms.
    fn new(of: &'static str, pairs: Vec<(f64, f64)>) -> Self {
        let error = |(predicted, waited): &(f64, f64)| (predicted - waited).abs();
        let waits: Vec<f64> = pairs.iter().map(|(_, waited)| *waited).collect();
        let errors: Vec<f64> = pairs.iter().map(error).collect();
        let shares: Vec<f64> =
            pairs.iter().filter(|(_, waited)| *waited > 0.0).map(|pair| error(pair) / pair.1).collect();
        Self {
            of,
            tasks: pairs.len(),
            wait_ms_median: quantile(&waits, 0.5),
            wait_ms_p95: quantile(&waits, 0.95),
            error_ms_median: quantile(&errors, 0.5),
            error_ms_p95: quantile(&errors, 0.95),
            error_share_median: quantile(&shares, 0.5),
        }
    }
}
