//! The commands that operate a running gateway over its native API: what they ask for, and how they show the answer.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::{Gateway, TaskEvent};
use super::table::Table;

/// How often a stream that was cut is taken up again before the command gives up.
const RESUMES: u32 = 5;

/// Between two tries to take up a stream, and between two looks at a pool that drains.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Target {
    /// The gateway
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "SLUICEGATE_URL")]
    pub(super) url: String,
    /// The API key, where the gateway wants one. Other users of the machine see what stands on a command line
    #[arg(long, global = true, value_name = "KEY", env = "SLUICEGATE_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// A file with the certificates (PEM) that an https:// gateway is trusted by, instead of those that the system knows
    #[arg(long, global = true, value_name = "FILE", env = "SLUICEGATE_CA_FILE")]
    pub(super) ca_file: Option<std::path::PathBuf>,
    /// Print the gateway's JSON, one value per line, and not what people read
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Target {
    /// # Errors
    ///
    /// Where the address is none, the key is none that can be sent, or the file of certificates holds none.
    pub(super) fn gateway(&self) -> Result<Gateway, String> {
        Gateway::new(&self.url, self.api_key.as_deref(), self.ca_file.as_deref())
    }
}

#[derive(Debug, Args)]
pub(super) struct TaskArguments {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Submit a task and print its id and its place in the queue
    Submit(Submit),
    /// Follow a task's events to its end: the text goes to standard output
    Watch {
        /// The id of the task
        id: String,
    },
    /// Cancel a task
    Cancel {
        /// The id of the task
        id: String,
    },
    /// List tasks, the newest first
    List {
        /// Only tasks in this state
        #[arg(long)]
        state: Option<StateArgument>,
        /// Only tasks of this pool
        #[arg(long, value_name = "ID")]
        pool: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
}

#[derive(Debug, Args)]
struct Submit {
    /// What to ask; `-` reads it from standard input
    #[arg(required_unless_present = "request")]
    message: Option<String>,
    /// The model: an id, an alias, or a reference
    #[arg(long, default_value = "builtin", conflicts_with = "request")]
    model: String,
    /// Tokens of the answer at most
    #[arg(long, value_name = "N", conflicts_with = "request")]
    max_tokens: Option<u32>,
    /// Goes last, with a share of the work
    #[arg(long, conflicts_with = "request")]
    batch: bool,
    /// A whole request as JSON, from a file; `-` reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "message")]
    request: Option<std::path::PathBuf>,
    /// Follow it to its end
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArgument {
    Queued,
    Preparing,
    Running,
    Finished,
    Failed,
    Canceled,
}

#[derive(Debug, Args)]
pub(super) struct PoolArguments {
    #[command(subcommand)]
    command: PoolCommand,
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// List pools and how they stand
    List,
    /// Stop admitting; what runs may end until the deadline
    Drain {
        /// The id of the pool
        id: String,
        /// When what is left is cancelled, in ms from now
        #[arg(long, value_name = "MS", default_value_t = 30_000)]
        deadline_ms: u64,
        /// Fail what waits and finds no place in another pool, instead of serving it until the deadline
        #[arg(long)]
        fail_waiting: bool,
        /// Wait until nothing runs or waits in it
        #[arg(long)]
        wait: bool,
    },
    /// Undo a drain
    Resume {
        /// The id of the pool
        id: String,
    },
    /// Give a pool another model while it serves
    Reload {
        /// The id of the pool
        id: String,
        /// The model: any name that the catalog has for it; without it the pool's own, from files that are verified again
        #[arg(long, value_name = "REF")]
        model: Option<String>,
        /// Wait until the pool has it; exit code 1 where it keeps its old one
        #[arg(long)]
        wait: bool,
    },
    /// Take models out of memory and off the disk; a pool whose own is among them has none until it is reloaded
    Purge {
        /// The id of the pool
        id: String,
        /// A model: any name that the catalog has for it; may be given several times. Without it the pool's own
        #[arg(long = "model", value_name = "REF")]
        models: Vec<String>,
        /// Let the tasks of the pool end first
        #[arg(long)]
        drain_first: bool,
        /// Cancel the tasks of the pool
        #[arg(long, conflicts_with = "drain_first")]
        force: bool,
        /// Delete what was downloaded of the models
        #[arg(long)]
        delete_cache_dirs: bool,
        /// Wait until it is done; exit code 1 where it fails
        #[arg(long)]
        wait: bool,
    },
}

/// Runs `sluicegate task …`.
///
/// # Errors
///
/// What went wrong, in one line.
pub(super) async fn task(target: Target, TaskArguments { command }: TaskArguments) -> Result<(), String> {
    let gateway = target.gateway()?;
    match command {
        TaskCommand::Submit(submit) => {
            let watch = submit.watch;
            let accepted = gateway.post(&["v2", "tasks"], Some(&submit.body()?)).await?;
            let id = text(&accepted["task_id"]);
            if watch {
                return follow(&gateway, &id, target.json).await;
            }
            target.show(&accepted, |accepted| {
                let (position, start) = (&accepted["queue_position"], &accepted["predicted_start_ms"]);
                format!("{id}\n{position} before it, starts in about {start} ms")
            })
        }
        TaskCommand::Watch { id } => follow(&gateway, &id, target.json).await,
        TaskCommand::Cancel { id } => gateway.post(&["v2", "tasks", &id, "cancel"], None).await.map(|_| ()),
        TaskCommand::List { state, pool, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(state.map(|state| ("state", super::arguments::name_of(state))));
            query.extend(pool.map(|pool| ("pool_id", pool)));
            let list = gateway.get(&["v2", "tasks"], &query).await?;
            target.show(&list, |list| tasks(&list["tasks"]))
        }
    }
}

/// Runs `sluicegate pool …`.
///
/// # Errors
///
/// What went wrong, in one line.
pub(super) async fn pool(target: Target, PoolArguments { command }: PoolArguments) -> Result<(), String> {
    let gateway = target.gateway()?;
    let view = match command {
        PoolCommand::List => {
            let list = gateway.get(&["v2", "pools"], &[]).await?;
            return target.show(&list, |list| pools(&list["pools"]));
        }
        PoolCommand::Drain { id, deadline_ms, fail_waiting, wait } => {
            let waiting = if fail_waiting { "fail" } else { "serve" };
            let body = json!({ "deadline_ms": deadline_ms, "waiting": waiting });
            let view = gateway.post(&["v2", "pools", &id, "drain"], Some(&body)).await?;
            if wait { drained(&gateway, &id, view).await? } else { view }
        }
        PoolCommand::Resume { id } => gateway.post(&["v2", "pools", &id, "resume"], None).await?,
        PoolCommand::Reload { id, model, wait } => {
            let model = match model {
                Some(model) => model,
                None => text(&gateway.get(&["v2", "pools", &id, "health"], &[]).await?["model_ref"]),
            };
            start(&gateway, &id, "reload", &json!({ "new_model_ref": model }), wait).await?
        }
        PoolCommand::Purge { id, models, drain_first, force, delete_cache_dirs, wait } => {
            let mut body =
                json!({ "drain_first": drain_first, "force": force, "delete_cache_dirs": delete_cache_dirs });
            if !models.is_empty() {
                body["purge_models"] = models.into();
            }
            start(&gateway, &id, "purge", &body, wait).await?
        }
    };
    target.show(&view, |view| pools(&json!([view])))
}

impl Target {
    pub(super) fn show(&self, answer: &Value, readable: impl FnOnce(&Value) -> String) -> Result<(), String> {
        super::print(&if self.json { answer.to_string() } else { readable(answer) });
        Ok(())
    }
}

impl Submit {
    /// The request that the arguments mean.
    fn body(self) -> Result<Value, String> {
        if let Some(file) = self.request {
            let text = if file.as_os_str() == "-" { stdin()? } else { read(&file)? };
            return serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()));
        }
        let message = self.message.unwrap_or_default();
        let message = if message == "-" { stdin()? } else { message };
        let mut body = json!({ "model_ref": self.model, "messages": [{ "role": "user", "content": message }] });
        if let Some(max_tokens) = self.max_tokens {
            body["max_tokens"] = max_tokens.into();
        }
        if self.batch {
            body["priority"] = "batch".into();
        }
        Ok(body)
    }
}

/// Follows a task to its last event, through connections that are cut.
async fn follow(gateway: &Gateway, task: &str, as_json: bool) -> Result<(), String> {
    let mut last = None;
    let mut tries = 0;
    loop {
        let mut events = match gateway.events(task, last.as_deref()).await {
            Ok(events) => events,
            // A stream that has begun can be taken up once the gateway is there again.
            Err(_) if last.is_some() && tries < RESUMES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        while let Some(Ok(event)) = events.next().await {
            if let Some(end) = show_event(&event, as_json) {
                return end;
            }
            last = Some(event.id);
            tries = 0;
        }
        tries += 1;
        if tries > RESUMES {
            return Err(format!("the events of {task} were cut off {tries} times"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Shows an event; what the command ends with, where it is the last one.
fn show_event(event: &TaskEvent, as_json: bool) -> Option<Result<(), String>> {
    let data = &event.data;
    if as_json {
        super::print(&json!({ "id": event.id, "event": event.name, "data": data }).to_string());
    } else if event.name == "token" {
        let mut out = std::io::stdout().lock();
        // A reader that has gone away is no failure of ours.
        let _ = out.write_all(text(&data["t"]).as_bytes()).and_then(|()| out.flush());
    }
    match event.name.as_str() {
        "end" => {
            if !as_json {
                super::print("\n");
                let (reason, tokens) = (text(&data["finish_reason"]), &data["tokens_out"]);
                eprintln!(
                    "{reason}: {tokens} tokens in {} ms after {} ms in the queue",
                    data["decode_ms"], data["queue_ms"]
                );
            }
            Some(Ok(()))
        }
        "error" => Some(Err(format!("{}: {}", text(&data["code"]), text(&data["message"])))),
        _ => None,
    }
}

/// Waits until a pool has nothing left to do, and returns how it stands then.
async fn drained(gateway: &Gateway, id: &str, mut view: Value) -> Result<Value, String> {
    let left = |view: &Value| {
        let figures = &view["metrics"];
        figures["queue_depth"].as_u64().unwrap_or(0) + figures["slots_active"].as_u64().unwrap_or(0)
    };
    let bar = ProgressBar::new(left(&view));
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.set_message(format!("draining {id}"));
    while left(&view) > 0 {
        if view["draining"] != true {
            return Err(format!("the drain of {id} was undone"));
        }
        bar.set_length(bar.length().unwrap_or(0).max(left(&view)));
        bar.set_position(bar.length().unwrap_or(0) - left(&view));
        tokio::time::sleep(PAUSE).await;
        view = gateway.get(&["v2", "pools", id, "health"], &[]).await?;
    }
    bar.finish_and_clear();
    Ok(view)
}

/// Starts a reload or a purge, and returns how the pool stands: now, or once that has ended.
async fn start(gateway: &Gateway, id: &str, what: &str, body: &Value, wait: bool) -> Result<Value, String> {
    let mut view = gateway.post(&["v2", "pools", id, what], Some(body)).await?;
    if !wait {
        return Ok(view);
    }
    let bar = ProgressBar::new_spinner();
    while view[what]["state"] == "running" {
        bar.set_message(format!("{what} of {id}: {}", text(&view[what]["phase"])));
        bar.tick();
        tokio::time::sleep(PAUSE).await;
        view = gateway.get(&["v2", "pools", id, "health"], &[]).await?;
    }
    bar.finish_and_clear();
    match view[what]["error"].as_str() {
        Some(error) => Err(format!("the {what} of {id} failed: {error}")),
        None => Ok(view),
    }
}

fn tasks(list: &Value) -> String {
    let mut table = Table::new(["TASK", "STATE", "PRIORITY", "MODEL", "POOL", "POSITION", "TOKENS"]);
    for task in list.as_array().into_iter().flatten() {
        let cell = |name: &str| text(&task[name]);
        table.row([
            cell("task_id"),
            cell("state"),
            cell("priority"),
            cell("model_ref"),
            cell("pool_id"),
            cell("queue_position"),
            cell("tokens_out"),
        ]);
    }
    table.to_string()
}

fn pools(list: &Value) -> String {
    let mut table = Table::new(["POOL", "STATE", "MODEL", "ENGINE", "WAITING", "SLOTS", "LAST ERROR"]);
    for pool in list.as_array().into_iter().flatten() {
        let cell = |name: &str| text(&pool[name]);
        let figures = &pool["metrics"];
        table.row([
            cell("pool_id"),
            pool_state(pool).to_owned(),
            cell("model_ref"),
            cell("engine"),
            text(&figures["queue_depth"]),
            format!("{}/{}", figures["slots_active"], figures["slots_total"]),
            cell("last_error"),
        ]);
    }
    table.to_string()
}

fn pool_state(pool: &Value) -> &str {
    let is = |name: &str| pool[name] == true;
    match () {
        () if is("draining") => "draining",
        () if is("reloading") => "reloading",
        () if is("ready") => "ready",
        // None works: they are all starting, recovering, failed or unloaded.
        () => pool["replicas"][0]["state"].as_str().unwrap_or("failed"),
    }
}

/// A value as people read it: strings without quotes, nothing for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn read(file: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

pub(super) fn stdin() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}
