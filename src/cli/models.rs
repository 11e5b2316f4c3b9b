//! The commands that look after the catalog of a running gateway.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::Gateway;
use super::operate::{PAUSE, Target, text};
use super::table::Table;
use crate::catalog::{BadReference, ModelRef, ModelSource};

const MODELS: [&str; 3] = ["v2", "catalog", "models"];

#[derive(Debug, Args)]
pub(super) struct ModelArguments {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// List the models of the catalog
    List,
    /// Add a model; nothing is fetched or read by this
    Add {
        /// What clients call it
        id: String,
        /// Where its files are: hf:org/repo (then @revision and /file.gguf where wanted), file: and an absolute path, or the
        /// https:// address of a .gguf file or of a folder
        source: String,
        /// Another name for it; may be given several times
        #[arg(long = "alias", value_name = "NAME")]
        aliases: Vec<String>,
        /// What its files must digest to
        #[arg(long, value_name = "sha256:HEX")]
        digest: Option<String>,
        /// What its weights are turned into while they are loaded, such as q4k or q8_0
        #[arg(long, value_name = "NAME")]
        quantization: Option<String>,
    },
    /// Fetch the files of a model onto the gateway's machine, adding it to the catalog where it is not there, and check them
    Pull {
        /// A model of the catalog, or where its files are: hf:org/repo, file: and an absolute path, or https://
        reference: String,
        /// What clients are to call it, where it is added; by default the end of the reference
        #[arg(long, value_name = "NAME")]
        id: Option<String>,
        /// What its files must digest to, where it is added
        #[arg(long, value_name = "sha256:HEX")]
        digest: Option<String>,
    },
    /// Read all files of a model again, and compare them with what is known
    Verify {
        /// The id of the model
        id: String,
        /// Wait for what it finds; exit code 1 where that is not what is known
        #[arg(long)]
        wait: bool,
    },
    /// Take no new requests for a model
    Retire {
        /// The id of the model
        id: String,
        /// When what is left of its tasks is ended, in ms from now; without it they end by themselves
        #[arg(long, value_name = "MS")]
        deadline_ms: Option<u64>,
    },
    /// Undo a retirement
    Activate {
        /// The id of the model
        id: String,
    },
    /// Remove a model that was added while the gateway runs; its files stay
    Delete {
        /// The id of the model
        id: String,
    },
}

/// Runs `sluicegate model …`.
///
/// # Errors
///
/// What went wrong, in one line.
pub(super) async fn model(target: Target, ModelArguments { command }: ModelArguments) -> Result<(), String> {
    let gateway = target.gateway()?;
    let view = match command {
        ModelCommand::List => {
            let list = gateway.get(&MODELS, &[]).await?;
            return target.show(&list, |list| models(&list["models"]));
        }
        ModelCommand::Delete { id } => return gateway.delete(&of(&id, None)).await,
        ModelCommand::Add { id, source, aliases, digest, quantization } => {
            let mut body = json!({ "id": id, "source": source, "aliases": aliases });
            if let Some(digest) = digest {
                body["digest"] = digest.into();
            }
            if let Some(quantization) = quantization {
                body["quantization"] = quantization.into();
            }
            gateway.post(&MODELS, Some(&body)).await?
        }
        ModelCommand::Pull { reference, id, digest } => pull(&gateway, &reference, id, digest).await?,
        ModelCommand::Verify { id, wait } => {
            let view = gateway.post(&of(&id, Some("verify")), None).await?;
            let not_passed = |reason| format!("the verification of {id} has not passed: {reason}");
            if wait { verified(&gateway, &id, "verifying", view).await?.map_err(not_passed)? } else { view }
        }
        ModelCommand::Retire { id, deadline_ms } => {
            let mut body = json!({ "state": "Retired" });
            if let Some(deadline_ms) = deadline_ms {
                body["deadline_ms"] = deadline_ms.into();
            }
            gateway.post(&of(&id, Some("state")), Some(&body)).await?
        }
        ModelCommand::Activate { id } => {
            gateway.post(&of(&id, Some("state")), Some(&json!({ "state": "Active" }))).await?
        }
    };
    target.show(&view, |view| models(&json!([view])))
}

/// The path of a model, or of what is done to it.
fn of<'a>(id: &'a str, operation: Option<&'a str>) -> Vec<&'a str> {
    MODELS.into_iter().chain([id]).chain(operation).collect()
}

/// Adds a model where the catalog has none of this reference, and has its files fetched.
async fn pull(gateway: &Gateway, reference: &str, id: Option<String>, digest: Option<String>) -> Result<Value, String> {
    let parsed: ModelRef = reference.parse().map_err(|bad: BadReference| bad.to_string())?;
    let known = gateway.get(&MODELS, &[]).await?;
    let source = ModelSource::from_reference(&parsed).ok();
    let shown = source.as_ref().map(ToString::to_string);
    let is_it = |model: &&Value| match &parsed {
        ModelRef::Name(name) => {
            let aliases = model["aliases"].as_array().into_iter().flatten();
            aliases.chain([&model["id"]]).any(|known| known == name.as_str())
        }
        _ => shown.as_deref().is_some_and(|source| model["source"] == source),
    };
    let found = known["models"].as_array().into_iter().flatten().find(is_it).and_then(|model| model["id"].as_str());
    let id = match (found, source) {
        (Some(found), _) => found.to_owned(),
        (None, None) => {
            return Err(format!("the catalog has no model {reference:?}, and it does not say where one is"));
        }
        (None, Some(source)) => {
            let id = id.unwrap_or_else(|| source.default_id());
            let mut body = json!({ "id": id, "source": reference });
            if let Some(digest) = digest {
                body["digest"] = digest.into();
            }
            gateway.post(&MODELS, Some(&body)).await?;
            id
        }
    };
    let view = gateway.post_with(&of(&id, Some("verify")), &[("fetch", "true")]).await?;
    verified(gateway, &id, "pulling", view).await?.map_err(|reason| format!("{id} could not be pulled: {reason}"))
}

/// Waits until a verification has ended, and returns the model then, or what is wrong with it.
async fn verified(gateway: &Gateway, id: &str, what: &str, mut view: Value) -> Result<Result<Value, String>, String> {
    let bytes = |name: &str, view: &Value| view["verification"][name].as_u64().unwrap_or(0);
    let bar = ProgressBar::new(bytes("bytes_total", &view));
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    bar.set_message(format!("{what} {id}"));
    while view["verification"]["state"] == "running" {
        bar.set_length(bytes("bytes_total", &view));
        bar.set_position(bytes("bytes_done", &view));
        tokio::time::sleep(PAUSE).await;
        view = gateway.get(&of(id, None), &[]).await?;
    }
    bar.finish_and_clear();
    match view["verification"]["reason"].as_str() {
        Some(reason) => Ok(Err(reason.to_owned())),
        None => Ok(Ok(view)),
    }
}

fn models(list: &Value) -> String {
    let mut table = Table::new(["MODEL", "STATE", "TRUST", "SOURCE", "ALIASES", "POOLS"]);
    for model in list.as_array().into_iter().flatten() {
        let names = |field: &str| {
            let names: Vec<_> = model[field].as_array().into_iter().flatten().map(text).collect();
            if names.is_empty() { "-".to_owned() } else { names.join(",") }
        };
        let cell = |name: &str| text(&model[name]);
        table.row([cell("id"), cell("state"), cell("trust"), cell("source"), names("aliases"), names("pools")]);
    }
    table.to_string()
}
