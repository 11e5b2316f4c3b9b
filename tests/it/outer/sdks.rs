//! OpenAI's and Anthropic's own clients for Python and Node, and frameworks over them, unchanged, against started gateways.
//!
//! Their pinned versions are in `tests/sdk`. They are installed once below the target folder, and again when the pinned
//! set has changed. `SLUICEGATE_TEST_SDKS=off` leaves these tests out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::running::Running;

/// The gateways that the scripts ask, by the variable that tells them the address.
struct Gateways {
    /// The real engine.
    real: Running,
    /// Endless answers, 10 ms a token.
    endless: Running,
    /// One slot and one place in the queue.
    tiny: Running,
    /// Its engine fails after the second token, always.
    failing: Running,
}

impl Gateways {
    fn start() -> Self {
        Self {
            real: Running::real(&[]),
            endless: Running::scripted(&[]),
            tiny: Running::scripted(&[("POOLS__0__SLOTS", "1"), ("POOLS__0__QUEUE__CAPACITY", "1")]),
            failing: Running::scripted(&[("POOLS__0__SCRIPTED__FAIL_AFTER", "2")]),
        }
    }

    fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("REAL_URL", self.real.url("")),
            ("ENDLESS_URL", self.endless.url("")),
            ("TINY_URL", self.tiny.url("")),
            ("FAILING_URL", self.failing.url("")),
        ]
    }
}

pub(super) fn left_out() -> bool {
    let off = std::env::var("SLUICEGATE_TEST_SDKS").is_ok_and(|value| value == "off");
    if off {
        println!("left out, because SLUICEGATE_TEST_SDKS=off");
    }
    off
}

/// The scripts and pinned versions of a language or a tool.
pub(super) fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(language)
}

/// Scripts that follow the clients' own documentation.
fn quickstarts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstarts")
}

/// Makes the folder where a language's packages live, with what `install` puts there; unless they are there for exactly
/// these pinned versions.
fn installed(language: &str, pinned: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("sdk");
    fs::create_dir_all(&target).unwrap();
    // Another run of the tests may be installing.
    let lock = File::create(target.join(format!("{language}.lock"))).unwrap();
    lock.lock().unwrap();
    let (folder, stamp) = (target.join(language), target.join(format!("{language}.stamp")));
    let wanted = fs::read_to_string(sources(language).join(pinned)).unwrap();
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_file(&stamp);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        install(&folder);
        fs::write(&stamp, &wanted).unwrap();
    }
    folder
}

/// The same, for the packages of Python that `requirements.txt` pins.
pub(super) fn installed_by_pip(name: &str) -> PathBuf {
    installed(name, "requirements.txt", |folder| {
        succeeds("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(folder));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        let pinned = sources(name).join("requirements.txt");
        succeeds("pip install", Command::new(folder.join("bin/python")).args(pip).arg(pinned));
    })
}

/// The same, for the packages of Node that `package.json` pins. Node looks for packages beside the script, so the scripts go
/// where the packages are.
pub(super) fn installed_by_npm() -> PathBuf {
    let source = sources("node");
    let folder = installed("node", "package.json", |folder| {
        fs::copy(source.join("package.json"), folder.join("package.json")).unwrap();
        let npm = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
        succeeds("npm install", Command::new("npm").args(npm).current_dir(folder));
    });
    let scripts = [&source, &quickstarts()].map(|from| fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()));
    for script in scripts.into_iter().flatten() {
        if script.extension().is_some_and(|extension| extension == "mjs") {
            put(&script, &folder);
        }
    }
    folder
}

/// Copies a file into a folder; whoever reads the copy that was there reads all of it.
fn put(file: &Path, folder: &Path) {
    let part = tempfile::NamedTempFile::new_in(folder).unwrap();
    fs::copy(file, part.path()).unwrap();
    part.persist(folder.join(file.file_name().unwrap())).unwrap();
}

pub(super) fn succeeds(what: &str, command: &mut Command) {
    let done =
        command.output().unwrap_or_else(|error| panic!("{what}: {error}; SLUICEGATE_TEST_SDKS=off leaves it out"));
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(
        done.status.success(),
        "{what}: {}\n{stdout}\n{stderr}\n(SLUICEGATE_TEST_SDKS=off leaves it out)",
        done.status
    );
    println!("{what}\n{stdout}{stderr}");
}

#[test]
fn the_python_clients_work_unchanged() {
    if left_out() {
        return;
    }
    let source = sources("python");
    let folder = installed_by_pip("python");
    let gateways = Gateways::start();
    let mut python = Command::new(folder.join("bin/python"));
    python.args(["-B", "-m", "unittest", "discover", "-v", "-s"]).arg(&source);
    python.env("QUICKSTARTS", quickstarts()).envs(gateways.variables());
    succeeds("the Python clients", &mut python);
}

#[test]
fn the_frameworks_of_python_work_unchanged() {
    if left_out() {
        return;
    }
    let source = sources("frameworks");
    let folder = installed_by_pip("frameworks");
    let gateways = Gateways::start();
    let mut python = Command::new(folder.join("bin/python"));
    python.args(["-B", "-m", "pytest", "-p", "no:cacheprovider"]).current_dir(&source);
    python.env("QUICKSTARTS", quickstarts()).envs(gateways.variables());
    succeeds("LangChain, LlamaIndex, Pydantic AI and Instructor", &mut python);
}

#[test]
fn the_quick_start_by_curl_is_answered() {
    if left_out() {
        return;
    }
    let gateway = Running::real(&[]);
    let mut curl = Command::new("sh");
    curl.arg(quickstarts().join("chat.sh")).env("NO_PROXY", "127.0.0.1");
    curl.env("OPENAI_BASE_URL", gateway.url("/v1")).env("OPENAI_API_KEY", "none");
    let done = curl.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && stdout.contains("Sluicegate is"), "{stdout}\n{stderr}");
}

#[test]
fn the_node_clients_work_unchanged() {
    if left_out() {
        return;
    }
    let folder = installed_by_npm();
    let names = fs::read_dir(sources("node")).unwrap().map(|entry| entry.unwrap().file_name());
    let tests = names.filter(|name| name.to_str().is_some_and(|name| name.ends_with(".test.mjs")));
    let mut scripts: Vec<_> = tests.map(|name| folder.join(name)).collect();
    scripts.sort();
    let gateways = Gateways::start();
    let mut node = Command::new("node");
    succeeds("the Node clients", node.arg("--test").args(scripts).current_dir(&folder).envs(gateways.variables()));
}
