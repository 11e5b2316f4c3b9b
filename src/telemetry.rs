//! What the program tells about itself: logs.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::config::LogFormat;

/// Sends logs to standard error from here on: text for a terminal, one JSON object per line otherwise, or as `format` says.
///
/// # Errors
///
/// When logs go somewhere already.
pub fn init_logs(format: LogFormat, level: LevelFilter) -> Result<(), TryInitError> {
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if json {
        layer.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        layer.with_ansi(terminal).boxed()
    };
    Registry::default().with(layer.with_filter(targets(level))).try_init()
}

/// Our own crates at `level`; everybody else's only when something is wrong.
fn targets(level: LevelFilter) -> Targets {
    let others = level.min(LevelFilter::WARN);
    Targets::new().with_default(others).with_target("sluicegate", level).with_target("sluicegate_compat", level)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn other_crates_are_heard_only_when_something_is_wrong() {
        let targets = targets(LevelFilter::DEBUG);
        assert!(targets.would_enable("sluicegate::pools", &Level::DEBUG));
        assert!(!targets.would_enable("mistralrs_core::engine", &Level::INFO));
        assert!(targets.would_enable("mistralrs_core::engine", &Level::WARN));
    }

    #[test]
    fn a_stricter_level_holds_for_everybody() {
        let targets = targets(LevelFilter::ERROR);
        assert!(!targets.would_enable("hyper", &Level::WARN));
        assert!(!targets.would_enable("sluicegate", &Level::WARN));
    }
}
