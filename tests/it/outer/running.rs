//! A gateway in a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Response};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing that a test waits for takes longer, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at what another process does.
const LOOK: Duration = Duration::from_millis(10);

/// A started gateway; killed on drop.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
    client: Client,
    folder: TempDir,
}

/// What is left of a process that has ended.
pub struct Exit {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Running {
    /// The real engine with the built-in model; settings are `SLUICEGATE_…` variables without their prefix.
    pub fn real(settings: &[(&str, &str)]) -> Self {
        Self::start(&[], settings)
    }

    pub fn scripted(settings: &[(&str, &str)]) -> Self {
        Self::start(&["--engine", "scripted"], settings)
    }

    fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let port_file = folder.path().join("port");
        let mut child = command(folder.path(), settings)
            .args(["--listen", "127.0.0.1:0", "--port-file"])
            .arg(&port_file)
            .args(arguments)
            .spawn()
            .unwrap();
        let address = wait_for("the port file", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended: {}", stderr(folder.path()));
            std::fs::read_to_string(&port_file).ok()
        });
        let client = Client::builder().no_proxy().build().unwrap();
        Self { child, address: address.trim().parse().unwrap(), client, folder }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where it keeps its things.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Everything that it has written to standard error.
    pub fn stderr(&self) -> String {
        stderr(self.folder.path())
    }

    /// The lines of its log.
    pub fn log(&self) -> Vec<Value> {
        self.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn wait_for_exit(mut self) -> Exit {
        let status = wait_for("the end of the process", || self.child.try_wait().unwrap());
        Exit { code: status.code(), stderr: self.stderr() }
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Requests over HTTP/1.1, each bounded in time.
impl Running {
    /// From here on with this API key.
    pub fn with_key(mut self, key: &str) -> Self {
        let header = ("authorization".parse().unwrap(), format!("Bearer {key}").parse().unwrap());
        let client = Client::builder().no_proxy().default_headers([header].into_iter().collect());
        self.client = client.build().unwrap();
        self
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn get(&self, path: &str) -> Response {
        in_time(path, self.client.get(self.url(path)).send()).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Response {
        in_time(path, self.client.post(self.url(path)).json(body).send()).await.unwrap()
    }

    pub async fn get_json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// The sum of all series of a metric that have `label`, such as `reason="queued"`; all have the empty label.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let series = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until no task runs or waits.
    pub async fn idle(&self) {
        eventually("slots and queue are empty", async || {
            self.metric("slots_active", "").await == 0.0 && self.metric("queue_depth", "").await == 0.0
        })
        .await;
    }

    /// Waits until a task is in this state.
    pub async fn state_is(&self, task: &str, state: &str) {
        let path = format!("/v2/tasks/{task}");
        eventually(state, async || self.get_json(&path).await["state"] == state).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where a test waited for that; anything else would be no news.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a gateway that is expected to refuse, with these arguments after `serve`, and returns how it ended.
pub fn refused(arguments: &[&str], settings: &[(&str, &str)]) -> Exit {
    let folder = TempDir::new().unwrap();
    let mut child = command(folder.path(), settings).args(arguments).env("RUST_BACKTRACE", "1").spawn().unwrap();
    let began = Instant::now();
    let status: Option<ExitStatus> = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if began.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(LOOK),
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    Exit { code: status.and_then(|status| status.code()), stderr: stderr(folder.path()) }
}

/// As [`refused`], over the data folder of a gateway that runs.
pub fn refused_beside(running: &Running) -> Exit {
    let data = running.data_dir().display().to_string();
    refused(&["--listen", "127.0.0.1:0", "--engine", "scripted"], &[("DATA_DIR", &data)])
}

/// `sluicegate serve` with only these settings, writing below `folder`.
fn command(folder: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    let foreign = |name: &str| name.starts_with("SLUICEGATE_") || name.starts_with("HF_") || name == "ORCHD_PREFER_H2";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(foreign)) {
        command.env_remove(name);
    }
    command.arg("serve").env("SLUICEGATE_DATA_DIR", folder.join("data"));
    command.envs(settings.iter().map(|(name, value)| (format!("SLUICEGATE_{name}"), value)));
    let log = File::create(stderr_path(folder)).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn stderr_path(folder: &Path) -> PathBuf {
    folder.join("stderr")
}

fn stderr(folder: &Path) -> String {
    std::fs::read_to_string(stderr_path(folder)).unwrap()
}

/// Looks until there is something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Looks until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "waited too long until {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The outcome, or a panic when it takes too long.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}
