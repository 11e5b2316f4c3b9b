//! What was measured, as tables; as JSON it is what its types say.

use std::fmt;

use serde::Serialize;

use crate::conduct::{Canceled, Drained, Reloaded, Seeds};
use crate::machine::Machine;
use crate::rounds::{Level, Prompted};

#[derive(Debug, Serialize)]
pub struct Report {
    /// When it was measured, in UTC.
    pub time: String,
    pub commit: String,
    pub machine: Machine,
    pub models: Vec<Model>,
    /// Those that could not be measured to the end, and why.
    pub failed: Vec<Failed>,
}

#[derive(Debug, Serialize)]
pub struct Failed {
    pub name: String,
    pub error: String,
}

#[derive(Debug, Serialize)]
pub struct Model {
    pub name: String,
    pub weight_bytes: u64,
    pub slots: u32,
    pub cache_tokens: Option<u64>,
    pub context: u32,
    pub alone: Alone,
    pub pair: Pair,
}

/// With one engine on the device.
#[derive(Debug, Serialize)]
pub struct Alone {
    pub loaded_in_s: f64,
    pub levels: Vec<Level>,
    /// With prompts of different lengths.
    pub mixed: Level,
    pub prompts: Vec<Prompted>,
    pub canceled: Canceled,
}

/// With two engines that share the device.
#[derive(Debug, Serialize)]
pub struct Pair {
    pub loaded_in_s: f64,
    pub level: Level,
    pub seeds: Seeds,
    pub drained: Drained,
    pub reloaded: Reloaded,
}

const GB: f64 = 1e9;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { models, failed, .. } = self;
        let Machine { device, gpu, cpu_threads, bandwidth_bytes_per_s } = &self.machine;
        write!(f, "{}, commit {}; {device}", self.time, self.commit)?;
        if let Some(gpu) = gpu {
            write!(
                f,
                ": {}, {:.0} GB, driver {}, CUDA {}",
                gpu.name,
                gpu.memory_bytes as f64 / GB,
                gpu.driver,
                gpu.cuda
            )?;
        }
        writeln!(f, "; {cpu_threads} threads; memory {:.0} GB/s", bandwidth_bytes_per_s / GB)?;
        models.iter().try_for_each(|model| write!(f, "\n{model}"))?;
        failed.iter().try_for_each(|Failed { name, error }| writeln!(f, "\n{name}: FAILED: {error}"))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.2} GB of weights, {} slots", self.name, self.weight_bytes as f64 / GB, self.slots)?;
        if let Some(tokens) = self.cache_tokens {
            write!(f, ", a cache for {tokens} tokens")?;
        }
        writeln!(f, ", loaded in {:.1} s", self.alone.loaded_in_s)?;
        writeln!(
            f,
            "             tokens per second                                of the bandwidth   first token, ms"
        )?;
        writeln!(f, "at once     engine    gateway   gateway / engine          engine    gateway   engine  gateway")?;
        self.alone.levels.iter().try_for_each(|level| writeln!(f, "{level}"))?;
        writeln!(f, "{}   prompts of different lengths", self.alone.mixed)?;
        writeln!(f, "prompt, tokens      engine, ms   gateway, ms   once more: engine   gateway")?;
        for Prompted { prompt_tokens, engine_ms, gateway_ms, engine_again_ms, gateway_again_ms } in &self.alone.prompts
        {
            writeln!(
                f,
                "{prompt_tokens:14} {engine_ms:15.1} {gateway_ms:13.1} {engine_again_ms:19.1} {gateway_again_ms:9.1}"
            )?;
        }
        let Canceled { at_once, engine_lets_go_ms, next_first_token_ms } = self.alone.canceled;
        writeln!(
            f,
            "cancelled: the engine lets go in {engine_lets_go_ms:.1} ms; with {at_once} running, who waits has its first token in {next_first_token_ms:.1} ms (medians)"
        )?;
        let Pair { loaded_in_s, level, seeds, drained, reloaded } = &self.pair;
        writeln!(f, "two engines, loaded in {loaded_in_s:.1} s:")?;
        writeln!(f, "{level}")?;
        let same = |is: bool| if is { "the same" } else { "another" };
        writeln!(
            f,
            "seed: alone {} text; with {} in the pool {} text ({:.0} % of it from its beginning); strict: {}",
            same(seeds.alone),
            seeds.at_once,
            same(seeds.among_others),
            seeds.same_part * 100.0,
            seeds.strict.map_or("refused by this engine", same),
        )?;
        writeln!(
            f,
            "drain: {} running came to their end in {:.1} s, {}; resumed in {:.0} ms",
            drained.running,
            drained.seconds,
            if drained.refused { "a new one was refused" } else { "a new one was NOT refused" },
            drained.resumed_ms,
        )?;
        writeln!(
            f,
            "reload: {:.1} s; {} answered meanwhile, {} told to come again, {} failed; longest time without an answer {:.1} s",
            reloaded.seconds, reloaded.answered, reloaded.put_off, reloaded.failed, reloaded.longest_gap_s
        )
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        write!(
            f,
            "{:7} {:10.0} {:10.0}   {:.3} ({:.3} to {:.3}) {:>12} {:>10} {:8.1} {:8.1}",
            self.at_once,
            self.engine.tokens_per_s,
            self.gateway.tokens_per_s,
            self.ratio.median,
            self.ratio.lowest,
            self.ratio.highest,
            percent(self.engine.bandwidth_share),
            percent(self.gateway.bandwidth_share),
            self.engine.first_token_ms,
            self.gateway.first_token_ms,
        )
    }
}
