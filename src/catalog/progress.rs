//! How a long preparation tells what it does: a bar on a terminal, log lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Is told what a preparation does. Called from async and from blocking code, so implementations return at once.
pub trait Progress: Send + Sync {
    /// A step begins: `what` is meant for a person, `bytes` is its size where it is known.
    fn start(&self, what: &str, bytes: Option<u64>);

    /// That many more bytes of the step are done.
    fn advance(&self, bytes: u64);

    /// The step is done.
    fn finish(&self);

    /// Something worth knowing that is not a step, such as a retry.
    fn note(&self, what: &str);

    /// Whether nobody wants the outcome any more. Asked once a megabyte.
    fn canceled(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _what: &str, _bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn note(&self, _what: &str) {}
}

/// Steps shorter than this are not worth a line.
const QUIET: Duration = Duration::from_millis(500);
/// Between two drawings of the bar.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two log lines about one step.
const RELOG: Duration = Duration::from_secs(10);

/// Draws a bar on standard error where that is a terminal, and writes log lines where it is not.
#[derive(Debug)]
pub struct TerminalProgress {
    terminal: bool,
    /// A plain mutex: held for a few microseconds, and at most ten times a second for one short write.
    step: Mutex<Option<Step>>,
}

#[derive(Debug)]
struct Step {
    what: String,
    bytes: Option<u64>,
    done: u64,
    started: Instant,
    /// When it was last shown; `None` until it has lasted long enough to be shown at all.
    shown: Option<Instant>,
}

impl TerminalProgress {
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), step: Mutex::new(None) }
    }

    fn show(&self, step: &Step) {
        if self.terminal {
            // Nothing can be done about a terminal that takes no more output.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", step.line());
        } else {
            tracing::info!("{}", step.line());
        }
    }

    fn wipe(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Default for TerminalProgress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for TerminalProgress {
    fn start(&self, what: &str, bytes: Option<u64>) {
        let step = Step { what: what.to_owned(), bytes, done: 0, started: Instant::now(), shown: None };
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    fn advance(&self, bytes: u64) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = step.as_mut() {
            step.done += bytes;
            if step.due(if self.terminal { REDRAW } else { RELOG }) {
                step.shown = Some(Instant::now());
                self.show(step);
            }
        }
    }

    fn finish(&self) {
        let step = self.step.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(step) = step.filter(|step| step.shown.is_some()) {
            self.wipe();
            tracing::info!(seconds = step.started.elapsed().as_secs(), "{}: done", step.what);
        }
    }

    fn note(&self, what: &str) {
        self.wipe();
        tracing::warn!("{what}");
    }
}

impl Step {
    fn due(&self, interval: Duration) -> bool {
        match self.shown {
            Some(shown) => shown.elapsed() >= interval,
            None => self.started.elapsed() >= QUIET,
        }
    }

    /// `fetching model.safetensors: 42 % of 1.2 GB, 35.0 MB/s`.
    fn line(&self) -> String {
        let rate = self.done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let amount = match self.bytes {
            Some(bytes) if bytes > 0 => format!("{} % of {}", self.done.min(bytes) * 100 / bytes, human(bytes as f64)),
            _ => human(self.done as f64),
        };
        format!("{}: {amount}, {}/s", self.what, human(rate))
    }
}

/// A size with a decimal unit, as disks and downloads are measured.
pub(super) fn human(bytes: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes / size),
        None => format!("{bytes:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_in_decimal_units() {
        let sizes = [(0.0, "0 B"), (999.0, "999 B"), (1e3, "1.0 kB"), (3.4e6, "3.4 MB"), (1.53e9, "1.5 GB")];
        for (bytes, text) in sizes {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn a_step_longer_than_announced_never_shows_more_than_all_of_it() {
        let step = Step { what: "x".into(), bytes: Some(10), done: 25, started: Instant::now(), shown: None };
        assert!(step.line().starts_with("x: 100 % of 10 B"), "{}", step.line());
    }
}
