//! The arguments, and their help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use clap_complete::Shell;

use super::access::{KeyArguments, TenantArguments};
use super::models::ModelArguments;
use super::operate::{PoolArguments, Target, TaskArguments};
use super::usage::UsageArguments;
use crate::config::Overrides;

/// An inference gateway with the engine inside it: tasks over /v2, the OpenAI API over /v1.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, propagate_version = true, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub target: Target,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sluicegate serve                                   the built-in model on 127.0.0.1:8080, offline
  sluicegate serve --model hf:Qwen/Qwen3-0.6B        a model of the hub, downloaded once
  sluicegate serve --config sluicegate.toml          everything as the file says
  sluicegate config check --config sluicegate.toml   every mistake at once, and nothing started
  sluicegate config show                             every setting and its default
  sluicegate task submit --watch 'What is a pool?'   a task of a running gateway, followed to its end
  sluicegate pool drain default --wait               no new tasks, and wait for those that it has
  sluicegate pool reload default --model NAME        another model of its catalog, while it serves
  sluicegate key create --admin                      from then on everybody has to have a key
  sluicegate completions bash > sluicegate.bash      for your shell to source";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve until told to stop (SIGINT or SIGTERM)
    Serve(ServeArguments),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Submit, follow, cancel and list tasks of a running gateway
    Task(TaskArguments),
    /// See the pools of a running gateway, take them out of service and back, give them other models, and purge
    Pool(PoolArguments),
    /// See the catalog of a running gateway, and add, verify, retire and remove models
    Model(ModelArguments),
    /// Make, list, change, suspend and delete tenants: of the gateway where there is a key for it, else on the store
    Tenant(TenantArguments),
    /// Make, list, rotate and revoke API keys: of the gateway where there is a key for it, else on the store
    Key(KeyArguments),
    /// Show what tasks have used: of the gateway where there is a key for it, else on the store
    Usage(UsageArguments),
    /// Print a script that completes commands and flags in your shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check file and environment, and list every mistake
    Check(FileArguments),
    /// Print what file and environment amount to, defaults included, as TOML
    Show(FileArguments),
}

#[derive(Debug, Args)]
pub(super) struct FileArguments {
    /// The configuration file; without it the one that SLUICEGATE_CONFIG names, or only defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    file: FileArguments,
    /// The address and port to listen on; port 0 picks a free one. One that other machines reach takes API keys
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The model of the only pool: a folder, a .gguf file, hf:org/repo (then @revision and /file.gguf where wanted), an https:// address, or a name of
    /// the catalog
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// What runs the model of the only pool
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineArgument>,
    /// Write the address that is listened on to this file, once everything is ready
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// How log lines look; they go to standard error
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormatArgument>,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  sluicegate serve --listen 127.0.0.1:0 --port-file port
  sluicegate serve --model ./models/qwen3
  sluicegate serve --model hf:org/repo@main/model-q4.gguf
  sluicegate serve --engine scripted                 canned answers, for tests of clients

Each setting of the configuration file can also be an environment variable:
  SLUICEGATE_SERVER__LISTEN=127.0.0.1:9000 SLUICEGATE_POOLS__0__SLOTS=4 sluicegate serve";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EngineArgument {
    /// The engine inside this program
    Mistralrs,
    /// A server that speaks the OpenAI API; the pool's `remote` table says which
    Remote,
    /// Canned answers at a set pace
    Scripted,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArgument {
    /// Text on a terminal, JSON elsewhere
    Auto,
    /// For people
    Text,
    /// One object per line
    Json,
}

/// What the arguments say about the configuration.
pub(super) struct Settings {
    pub file: Option<PathBuf>,
    pub overrides: Overrides,
}

impl ServeArguments {
    pub(super) fn settings(&self) -> Settings {
        let overrides = Overrides {
            listen: self.listen.clone(),
            model: self.model.clone(),
            engine: self.engine.map(name_of),
            log_format: self.log_format.map(name_of),
        };
        Settings { file: self.file.config.clone(), overrides }
    }
}

impl FileArguments {
    pub(super) fn settings(&self) -> Settings {
        Settings { file: self.config.clone(), overrides: Overrides::default() }
    }
}

/// The name as it is written on the command line and in the file.
pub(super) fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }
}
