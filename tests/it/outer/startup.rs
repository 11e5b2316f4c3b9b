//! What cannot start says why in one clear message, with exit code 1.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::running::{Running, refused, refused_beside};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// The built-in model's files, in a folder of their own.
fn copy_of_the_model(folder: &Path) -> PathBuf {
    let model = folder.join("model");
    std::fs::create_dir(&model).unwrap();
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/builtin-model/model");
    for entry in std::fs::read_dir(original).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    model
}

/// Starts it, and returns its one message.
fn complaint(arguments: &[&str]) -> String {
    let exit = refused(arguments, &[]);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(!exit.stderr.contains("panicked") && !exit.stderr.contains("backtrace"), "{}", exit.stderr);
    let is_log = |line: &&str| line.starts_with('{');
    let messages: Vec<_> = exit.stderr.lines().filter(|line| !is_log(line)).collect();
    assert_eq!(messages.len(), 1, "{}", exit.stderr);
    messages[0].to_owned()
}

#[test]
fn a_taken_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message = complaint(&["--listen", &address]);
    assert!(message.contains(&address) && message.contains("taken"), "{message}");
}

#[test]
fn a_model_folder_that_is_not_there() {
    let exit = refused(&["--listen", "127.0.0.1:0", "--model", "./no/such/model"], &[]);
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr.contains(r#"--model: "./no/such/model" is no folder"#), "{}", exit.stderr);
}

#[test]
fn a_model_folder_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let message = complaint(&[&LISTEN[..], &["--model", path]].concat());
    assert!(message.contains(path) && message.contains("safetensors"), "{message}");
}

#[test]
fn weights_that_are_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of_the_model(folder.path());
    let weights = model.join("model.safetensors");
    let half = std::fs::metadata(&weights).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(half).unwrap();
    let message = complaint(&[&LISTEN[..], &["--model", model.to_str().unwrap()]].concat());
    assert!(message.contains(weights.to_str().unwrap()) && message.contains(&half.to_string()), "{message}");
}

#[test]
fn weights_and_settings_that_are_nonsense() {
    for (file, content) in [
        ("model.safetensors", "nonsense"),
        ("config.json", "{"),
        ("config.json", r#"{"architectures": ["NoSuchModel"]}"#),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "["),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = copy_of_the_model(folder.path());
        std::fs::write(model.join(file), content).unwrap();
        let message = complaint(&[&LISTEN[..], &["--model", model.to_str().unwrap()]].concat());
        assert!(message.contains(model.to_str().unwrap()), "{file} {content}: {message}");
    }
}

#[test]
fn a_configuration_with_mistakes_names_them_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sluicegate.toml");
    std::fs::write(&file, "[server]\nlisten = \"nowhere\"\nhttp3 = \"on\"\n").unwrap();
    let exit = refused(&["--config", file.to_str().unwrap()], &[]);
    assert_eq!(exit.code, Some(1));
    let lines: Vec<_> = exit.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", exit.stderr);
    assert!(lines[0].contains(":2: server.listen") && lines[1].contains(":3: server.http3"), "{}", exit.stderr);
    assert_eq!(lines[2], "sluicegate: 2 mistakes in the configuration");
}

#[test]
fn a_port_file_that_cannot_be_written() {
    let message = complaint(&[&LISTEN[..], &["--engine", "scripted", "--port-file", "/no/such/folder/port"]].concat());
    assert!(message.contains("/no/such/folder/port"), "{message}");
}

#[test]
fn a_second_gateway_on_the_same_data_folder() {
    let first = Running::scripted(&[]);
    let exit = refused_beside(&first);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    let (folder, pid) = (first.data_dir(), first.pid());
    let message = format!("the data folder {} is in use by another gateway (process {pid})", folder.display());
    assert_eq!(exit.stderr.matches(&message).count(), 1, "{}", exit.stderr);
}
