//! The command line: what `sluicegate` can be asked to do, and how it answers.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::app::{self, ServeOptions};
use crate::config::{Config, Effective, Mistakes, Source};
use crate::telemetry;

mod access;
mod administration;
mod arguments;
mod client;
mod models;
mod operate;
mod policy;
mod table;
mod usage;

use access::StoreArguments;
use administration::Administration;
use arguments::{Arguments, Command, ConfigCommand, ServeArguments};
use operate::Target;

/// Does what the command line of this process says. The code is 0 when all went well, 1 when something was wrong (one
/// message on standard error says what), and 2 when the command line makes no sense.
pub fn run() -> ExitCode {
    run_with(std::env::args_os(), environment().collect(), app::run)
}

/// As [`run`], for any command line and environment; `serve` does the serving.
pub fn run_with<E: Display>(
    arguments: impl Iterator<Item = OsString>,
    environment: Vec<(String, String)>,
    serve: impl FnOnce(Config, ServeOptions) -> Result<(), E>,
) -> ExitCode {
    let Arguments { target, command } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help, the version, or a complaint: clap knows where each goes. A closed pipe is no failure of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let asks_a_gateway = matches!(
        command,
        Command::Task(_)
            | Command::Pool(_)
            | Command::Model(_)
            | Command::Tenant(_)
            | Command::Key(_)
            | Command::Usage(_)
    );
    if target.json && !asks_a_gateway {
        eprintln!("sluicegate: --json goes with task, pool, model, tenant, key and usage");
        return ExitCode::from(2);
    }
    let done = match command {
        Command::Serve(arguments) => start(arguments, environment, serve),
        Command::Config(ConfigCommand::Check(file)) => load(&file.settings(), environment).and_then(|it| {
            app::check(&it.config).map_err(|error| format!("sluicegate: {error}"))?;
            print(&summary(&it.config));
            Ok(())
        }),
        Command::Config(ConfigCommand::Show(file)) => load(&file.settings(), environment).map(|it| print(&it.text)),
        Command::Task(arguments) => operate(operate::task(target, arguments)),
        Command::Pool(arguments) => operate(operate::pool(target, arguments)),
        Command::Model(arguments) => operate(models::model(target, arguments)),
        Command::Tenant(arguments) => {
            let file = arguments.file.clone();
            administer(&target, &file, environment, async |at| access::tenant(at, target.json, arguments).await)
        }
        Command::Key(arguments) => match arguments.hashes() {
            Some(of) => access::hash(target.json, of).map_err(|error| format!("sluicegate: {error}")),
            None => {
                let file = arguments.file.clone();
                administer(&target, &file, environment, async |at| access::key(at, target.json, arguments).await)
            }
        },
        Command::Usage(arguments) => {
            let file = arguments.file.clone();
            administer(&target, &file, environment, async |at| usage::usage(at, target.json, arguments).await)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "sluicegate", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that talks to a gateway.
fn operate(command: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("sluicegate: cannot start the runtime: {error}"))?;
    runtime.block_on(command).map_err(|error| format!("sluicegate: {error}"))
}

/// Runs a command on the gateway, where there is a key for it, else on the store that the configuration names.
fn administer(
    target: &Target,
    file: &StoreArguments,
    environment: Vec<(String, String)>,
    command: impl AsyncFnOnce(&Administration) -> Result<(), String>,
) -> Result<(), String> {
    let config = match file.asks_a_gateway(target) {
        true => None,
        false => Some(load(&file.settings(), environment)?.config),
    };
    operate(async {
        let at = match &config {
            None => Administration::of_gateway(target)?,
            Some(config) => Administration::of_store(config).await?,
        };
        let done = command(&at).await;
        at.close().await;
        done
    })
}

fn start<E: Display>(
    arguments: ServeArguments,
    environment: Vec<(String, String)>,
    serve: impl FnOnce(Config, ServeOptions) -> Result<(), E>,
) -> Result<(), String> {
    let settings = arguments.settings();
    let Effective { config, sections, .. } = load(&settings, environment.clone())?;
    let source = Source { file: settings.file, environment, overrides: settings.overrides };
    let telemetry = &config.telemetry;
    telemetry::init_logs(telemetry.log_format, telemetry.log_level)
        .map_err(|error| format!("sluicegate: logs: {error}"))?;
    let options = ServeOptions { port_file: arguments.port_file, source: Some((source, sections)) };
    serve(config, options).map_err(|error| format!("sluicegate: {error}"))
}

fn load(settings: &arguments::Settings, environment: Vec<(String, String)>) -> Result<Effective, String> {
    let effective = Effective::load(settings.file.as_deref(), environment.into_iter(), settings.overrides.clone());
    effective.map_err(|mistakes: Mistakes| {
        let count = mistakes.iter().len();
        format!("{mistakes}\nsluicegate: {count} mistake{} in the configuration", if count == 1 { "" } else { "s" })
    })
}

/// `ok`, and what would be served.
fn summary(config: &Config) -> String {
    let pools = config.pools.iter().map(|pool| {
        let source = config.catalog.resolve(&pool.model).map(|entry| entry.source.to_string()).unwrap_or_default();
        let model = if source == pool.model { source } else { format!("{} ({source})", pool.model) };
        format!("\npool {}: {model}, queue of {}", pool.id, pool.queue_capacity)
    });
    format!("ok\nlisten: {}\ndata: {}{}", config.server.listen, config.data_dir.display(), pools.collect::<String>())
}

/// To standard output. A reader that has gone away is no failure of ours.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// What of the environment is text; anything else can be no setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
