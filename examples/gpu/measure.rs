//! Everything that is measured, one model after the other.

use std::path::Path;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::machine::Machine;
use crate::report::{Alone, Failed, Model, Pair, Report};
use crate::rounds::{ALIKE, AT_ONCE, Both, MIXED, PROMPTS};
use crate::shape::Traffic;
use crate::sides::{Direct, OverHttp};
use crate::{Failure, Measure, Runtimes, conduct};

/// Engines on one device, side by side.
const REPLICAS: u32 = 2;

/// Streams at once that those are measured with, together.
const AT_ONCE_TOGETHER: usize = 64;

/// Streams at once whose prompts have different lengths.
const MIXED_AT_ONCE: usize = 32;

/// Tokens of a prompt on a CPU, where the longest would take minutes.
const LONGEST_ON_CPU: usize = 4096;

pub fn measure(arguments: &Measure, runtimes: &Runtimes) -> Result<Report, Failure> {
    eprintln!("{}: memory", arguments.device);
    let machine = Machine::of(&arguments.device)?;
    let (time, commit) = (jiff::Timestamp::now().to_string(), arguments.commit.clone());
    let mut report = Report { time, commit, machine, models: Vec::new(), failed: Vec::new() };
    for folder in &arguments.models {
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        match model(folder, &name, &report.machine, (arguments, runtimes)) {
            Ok(model) => report.models.push(model),
            Err(error) => {
                eprintln!("{name}: {error}");
                report.failed.push(Failed { name, error: error.to_string() });
            }
        }
        if let Some(file) = &arguments.json {
            std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
        }
    }
    Ok(report)
}

fn model(
    folder: &Path,
    name: &str,
    machine: &Machine,
    (arguments, runtimes): (&Measure, &Runtimes),
) -> Result<Model, Failure> {
    let weight_bytes = std::fs::metadata(folder.join("model.safetensors"))?.len();
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    // The CPU keeps its numbers wider than they are in the file.
    let traffic = machine.gpu.as_ref().and_then(|_| Traffic::of(&config, weight_bytes));
    let time = Duration::from_secs(arguments.seconds.into());
    let look = Look { name, machine, runtimes, traffic, time };

    look.say("one engine is loaded");
    let gateway = Gateway::start(&runtimes.gateway, folder, 1, arguments)?;
    let info = gateway.info();
    // Also where that fails its memory is free for the next one.
    let alone = look.alone(&gateway);
    gateway.stop(&runtimes.gateway);
    let alone = alone?;

    look.say("two engines are loaded");
    let gateway = Gateway::start(&runtimes.gateway, folder, REPLICAS, arguments)?;
    let pair = look.pair(&gateway);
    gateway.stop(&runtimes.gateway);

    Ok(Model {
        name: name.to_owned(),
        weight_bytes,
        slots: info.slots,
        cache_tokens: info.cache.map(|cache| cache.tokens),
        context: info.context_length,
        alone,
        pair: pair?,
    })
}

/// What is looked at of one model.
struct Look<'a> {
    name: &'a str,
    machine: &'a Machine,
    runtimes: &'a Runtimes,
    traffic: Option<Traffic>,
    /// For all numbers of streams together.
    time: Duration,
}

impl Look<'_> {
    fn say(&self, what: &str) {
        eprintln!("{}: {what}", self.name);
    }

    fn both(&self, gateway: &Gateway, traffic: Option<Traffic>) -> Both<'_, Direct, OverHttp> {
        Both {
            direct: gateway.direct.clone(),
            http: gateway.http.clone(),
            runtimes: self.runtimes,
            traffic,
            bandwidth: self.machine.bandwidth_bytes_per_s,
        }
    }

    fn alone(&self, gateway: &Gateway) -> Result<Alone, Failure> {
        let both = self.both(gateway, self.traffic);
        let at_once: Vec<_> = AT_ONCE.into_iter().filter(|at_once| *at_once <= gateway.slots()).collect();
        let each = self.time / (at_once.len() + 1) as u32;
        let mut levels = Vec::new();
        for number in at_once {
            self.say(&format!("{number} at once"));
            levels.push(both.measure((number, ALIKE), each)?);
        }
        let some = MIXED_AT_ONCE.min(gateway.slots());
        self.say(&format!("{some} at once, of many lengths"));
        let mixed = both.measure((some, MIXED), each)?;
        let context = gateway.info().context_length as usize;
        let longest = if self.machine.gpu.is_some() { context } else { LONGEST_ON_CPU };
        let mut prompts = Vec::new();
        for tokens in PROMPTS.into_iter().filter(|tokens| tokens + 2 <= longest) {
            self.say(&format!("prompts of {tokens} tokens"));
            prompts.push(both.prompted(tokens)?);
        }
        self.say("cancellation");
        let canceled = self.runtimes.clients.block_on(conduct::canceled(gateway))?;
        Ok(Alone { loaded_in_s: gateway.loaded_in.as_secs_f64(), levels, mixed, prompts, canceled })
    }

    fn pair(&self, gateway: &Gateway) -> Result<Pair, Failure> {
        let at_once = AT_ONCE_TOGETHER.min(gateway.slots());
        self.say(&format!("{at_once} at once"));
        // What they read they read each for itself, so a share of the bandwidth would be nobody's.
        let level = self.both(gateway, None).measure((at_once, ALIKE), self.time / 6)?;
        self.say("seeds");
        let seeds = self.runtimes.clients.block_on(conduct::seeds(gateway))?;
        self.say("a drain");
        let drained = self.runtimes.clients.block_on(conduct::drained(gateway))?;
        self.say("a reload");
        let reloaded = self.runtimes.clients.block_on(conduct::reloaded(gateway))?;
        Ok(Pair { loaded_in_s: gateway.loaded_in.as_secs_f64(), level, seeds, drained, reloaded })
    }
}
