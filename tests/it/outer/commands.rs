//! The commands that operate a running gateway, as a user runs them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::running::{PATIENCE, Running};

/// What a command came to.
pub(super) struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// `sluicegate` with these arguments and this standard input, and no proxy that would be asked for loopback.
pub(super) fn sluicegate(arguments: &[&str], input: &str) -> Outcome {
    sluicegate_in(&[], arguments, input)
}

/// As [`sluicegate`], with these variables.
pub(super) fn sluicegate_in(environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(arguments)
        .envs(environment.iter().copied())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Words at once, then an end.
const WORDS: [(&str, &str); 3] = [
    ("POOLS__0__SCRIPTED__TOKENS", "[\"one \", \"two\"]"),
    ("POOLS__0__SCRIPTED__REPEAT", "false"),
    ("POOLS__0__SCRIPTED__TOKEN_MS", "0"),
];

#[test]
fn a_task_is_submitted_followed_and_listed() {
    let gateway = Running::scripted(&WORDS);
    let url = gateway.url("");
    let run = |arguments: &[&str]| sluicegate(&[arguments, &["--url", &url]].concat(), "from standard input");

    let watched = run(&["task", "submit", "--watch", "say it"]);
    assert_eq!((watched.code, watched.stdout.as_str()), (Some(0), "one two\n"), "{}", watched.stderr);
    assert!(watched.stderr.starts_with("stop: 3 tokens in "), "{}", watched.stderr);

    let accepted = run(&["task", "submit", "-", "--json", "--batch", "--max-tokens", "1"]).json();
    let id = accepted["task_id"].as_str().unwrap();
    let events = run(&["task", "watch", id, "--json"]);
    let events: Vec<Value> = events.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["data"]["finish_reason"]), (&"end".into(), &"length".into()));

    let listed = run(&["task", "list", "--state", "finished"]);
    let lines = listed.lines();
    assert!(lines[0].starts_with("TASK ") && lines[1].starts_with(id) && lines[1].contains("batch"), "{lines:?}");
    assert_eq!(lines.len(), 3);
    // Where a flag stands does not matter; where it says nothing it is refused.
    assert_eq!(run(&["--json", "task", "list", "--limit", "1"]).json()["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(run(&["task", "--json", "list", "--limit", "1"]).json()["tasks"].as_array().unwrap().len(), 1);
    let config = run(&["--json", "config", "show"]);
    assert_eq!(
        (config.code, config.stderr.as_str()),
        (Some(2), "sluicegate: --json goes with task, pool, model, tenant, key and usage\n")
    );
}

#[test]
fn a_whole_request_comes_from_a_file_or_standard_input() {
    let gateway = Running::scripted(&WORDS);
    let url = gateway.url("");
    let request = r#"{"model_ref": "builtin", "prompt": "x", "max_tokens": 1}"#;
    let watched = sluicegate(&["task", "submit", "--request", "-", "--watch", "--url", &url], request);
    assert_eq!(watched.stdout, "one \n", "{}", watched.stderr);
    let refused =
        sluicegate(&["task", "submit", "--request", "-", "--url", &url], r#"{"model_ref": "gpt-9", "prompt": "x"}"#);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.starts_with("sluicegate: NOT_FOUND: "), "{}", refused.stderr);
    let malformed = sluicegate(&["task", "submit", "--request", "-", "--url", &url], "{");
    assert!(malformed.stderr.starts_with("sluicegate: -: "), "{}", malformed.stderr);
}

#[test]
fn a_pool_is_drained_and_waited_for_while_its_task_is_cancelled() {
    let gateway = Running::scripted(&[("POOLS__0__SCRIPTED__REPEAT", "true")]);
    let url = gateway.url("");
    let run = |arguments: &[&str]| sluicegate(&[arguments, &["--url", &url]].concat(), "");
    let id = run(&["task", "submit", "on and on", "--json"]).json()["task_id"].as_str().unwrap().to_owned();
    let draining = run(&["pool", "drain", "default", "--deadline-ms", &PATIENCE.as_millis().to_string()]);
    assert!(draining.lines()[1].starts_with("default  draining"), "{}", draining.stdout);
    assert_eq!(run(&["task", "submit", "more"]).code, Some(1));
    assert_eq!(run(&["task", "cancel", &id]).code, Some(0));
    let drained = run(&["pool", "drain", "default", "--wait", "--json"]).json();
    assert_eq!((&drained["metrics"]["slots_active"], &drained["draining"]), (&0.into(), &true.into()));
    assert!(run(&["pool", "resume", "default"]).lines()[1].starts_with("default  ready"));
    let canceled = run(&["task", "watch", &id]);
    assert!(canceled.stderr.starts_with("canceled: "), "{}", canceled.stderr);
    let nowhere = run(&["pool", "resume", "a/b"]);
    assert!(nowhere.stderr.starts_with("sluicegate: NOT_FOUND: "), "{}", nowhere.stderr);
}

#[test]
fn a_model_is_added_verified_given_to_a_pool_retired_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let roots = format!("[\"{}\"]", folder.path().display());
    let gateway = Running::scripted(&[WORDS.as_slice(), &[("CATALOG__ALLOWED_FILE_ROOTS", &roots)]].concat());
    let url = gateway.url("");
    let run = |arguments: &[&str]| sluicegate(&[arguments, &["--url", &url]].concat(), "");
    let source = format!("file:{}", folder.path().display());

    let added = run(&["model", "add", "org/small", &source, "--alias", "s", "--alias", "t", "--json"]).json();
    assert_eq!((&added["id"], &added["aliases"]), (&"org/small".into(), &serde_json::json!(["s", "t"])));
    let verified = run(&["model", "verify", "org/small", "--wait"]);
    assert!(verified.lines()[1].starts_with("org/small  Active  verified  file:"), "{}", verified.stdout);

    let reloaded = run(&["pool", "reload", "default", "--model", "s", "--wait"]);
    assert!(reloaded.lines()[1].starts_with("default  ready  org/small"), "{}{}", reloaded.stdout, reloaded.stderr);
    // Its own again, where nothing is said.
    let again = run(&["pool", "reload", "default", "--wait", "--json"]).json();
    assert_eq!((&again["model_ref"], &again["reload"]["state"]), (&"org/small".into(), &"succeeded".into()));
    let busy = run(&["model", "delete", "org/small"]);
    assert!(busy.stderr.starts_with("sluicegate: CONFLICT: the pool \"default\" serves"), "{}", busy.stderr);

    std::fs::write(folder.path().join("config.json"), "changed").unwrap();
    let changed = run(&["model", "verify", "org/small", "--wait"]);
    assert_eq!(changed.code, Some(1));
    let message = "sluicegate: the verification of org/small has not passed: config.json has changed\n";
    assert_eq!(changed.stderr, message);
    let untrusted = run(&["pool", "reload", "default"]);
    assert!(untrusted.stderr.starts_with("sluicegate: UNTRUSTED_ARTIFACT: "), "{}", untrusted.stderr);

    assert_eq!(run(&["pool", "reload", "default", "--model", "builtin", "--wait"]).code, Some(0));
    let forgotten =
        run(&["pool", "purge", "default", "--model", "org/small", "--delete-cache-dirs", "--wait", "--json"]);
    assert_eq!(
        (&forgotten.json()["ready"], forgotten.json()["purge"]["freed_bytes"].as_u64()),
        (&true.into(), Some(0))
    );
    assert!(folder.path().join("config.json").exists(), "the operator's own files are never deleted");
    let purged = run(&["pool", "purge", "default", "--drain-first", "--wait"]);
    assert!(purged.lines()[1].starts_with("default  unloaded  builtin"), "{}{}", purged.stdout, purged.stderr);
    assert_eq!(run(&["pool", "reload", "default", "--wait"]).code, Some(0));
    let retired = run(&["model", "retire", "org/small", "--deadline-ms", "1"]);
    assert!(retired.lines()[1].contains("Retired"), "{}", retired.stdout);
    assert!(run(&["model", "activate", "org/small"]).lines()[1].contains("Active"));
    assert_eq!(run(&["model", "delete", "org/small"]).code, Some(0));
    let left = run(&["model", "list"]);
    assert!(left.lines().len() == 3 && left.lines()[1].starts_with("builtin "), "{}", left.stdout);
}

#[test]
fn what_is_no_gateway_is_said_in_one_line() {
    for (url, message) in [
        ("http://127.0.0.1:1", "sluicegate: http://127.0.0.1:1/: "),
        ("nowhere", "sluicegate: --url \"nowhere\" is no http:// or https:// address"),
        ("file:///etc", "sluicegate: --url \"file:///etc\" is no http:// or https:// address"),
    ] {
        let outcome = sluicegate(&["pool", "list", "--url", url], "");
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(1), 1), "{}", outcome.stderr);
        assert!(outcome.stderr.starts_with(message), "{}", outcome.stderr);
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = sluicegate(&["completions", shell], "");
        assert!(script.code == Some(0) && script.stdout.contains("deadline-ms"), "{shell}: {}", script.stderr);
    }
}
