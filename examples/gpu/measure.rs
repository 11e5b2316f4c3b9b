//! Everything that is measured, one model after the other.

use std::path::Path;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::machine::Machine;
use crate::report::{Alone, Model, Pair, Report};
use crate::rounds::{AT_ONCE, Both, PROMPTS};
use crate::shape::Traffic;
use crate::{Failure, Measure, Runtimes, conduct};

/// Engines on one device, side by side.
const REPLICAS: u32 = 2;

/// Streams at once that those are measured with, together.
const AT_ONCE_TOGETHER: usize = 64;

/// Tokens of a prompt on a CPU, where the longest would take minutes.
const LONGEST_ON_CPU: usize = 4096;

pub fn measure(arguments: &Measure, runtimes: &Runtimes) -> Result<Report, Failure> {
    eprintln!("{}: memory", arguments.device);
    let machine = Machine::of(&arguments.device)?;
    let mut models = Vec::new();
    for folder in &arguments.models {
        models.push(model(folder, &machine, arguments, runtimes)?);
    }
    Ok(Report { time: jiff::Timestamp::now().to_string(), commit: arguments.commit.clone(), machine, models })
}

fn model(folder: &Path, machine: &Machine, arguments: &Measure, runtimes: &Runtimes) -> Result<Model, Failure> {
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    let say = |what: &str| eprintln!("{name}: {what}");
    let weight_bytes = std::fs::metadata(folder.join("model.safetensors"))?.len();
    let config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    // The CPU keeps its numbers wider than they are in the file.
    let traffic = machine.gpu.as_ref().and_then(|_| Traffic::of(&config, weight_bytes));
    let time = Duration::from_secs(arguments.seconds.into());

    say("one engine is loaded");
    let gateway = Gateway::start(&runtimes.gateway, folder, 1, arguments)?;
    let info = gateway.info();
    let both = |gateway: &Gateway, traffic| Both {
        direct: gateway.direct.clone(),
        http: gateway.http.clone(),
        runtimes,
        traffic,
        bandwidth: machine.bandwidth_bytes_per_s,
    };
    let one = both(&gateway, traffic);
    let at_once: Vec<_> = AT_ONCE.into_iter().filter(|at_once| *at_once <= gateway.slots()).collect();
    let mut levels = Vec::new();
    for number in &at_once {
        say(&format!("{number} at once"));
        levels.push(one.measure(*number, time / at_once.len() as u32)?);
    }
    let mut prompts = Vec::new();
    let longest = if machine.gpu.is_some() { info.context_length as usize } else { LONGEST_ON_CPU };
    for tokens in PROMPTS.into_iter().filter(|tokens| tokens + 2 <= longest) {
        say(&format!("prompts of {tokens} tokens"));
        prompts.push(one.prompted(tokens)?);
    }
    say("cancellation");
    let canceled = runtimes.clients.block_on(conduct::canceled(&gateway))?;
    let alone = Alone { loaded_in_s: gateway.loaded_in.as_secs_f64(), levels, prompts, canceled };
    gateway.stop(&runtimes.gateway);

    say("two engines are loaded");
    let gateway = Gateway::start(&runtimes.gateway, folder, REPLICAS, arguments)?;
    let at_once = AT_ONCE_TOGETHER.min(gateway.slots());
    say(&format!("{at_once} at once"));
    // What they read they read each for itself, so a share of the bandwidth would be nobody's.
    let level = both(&gateway, None).measure(at_once, time / 6)?;
    say("seeds");
    let seeds = runtimes.clients.block_on(conduct::seeds(&gateway))?;
    say("a drain");
    let drained = runtimes.clients.block_on(conduct::drained(&gateway))?;
    say("a reload");
    let reloaded = runtimes.clients.block_on(conduct::reloaded(&gateway))?;
    let pair = Pair { loaded_in_s: gateway.loaded_in.as_secs_f64(), level, seeds, drained, reloaded };
    gateway.stop(&runtimes.gateway);

    let cache_tokens = info.cache.map(|cache| cache.tokens);
    Ok(Model { name, weight_bytes, slots: info.slots, cache_tokens, context: info.context_length, alone, pair })
}
