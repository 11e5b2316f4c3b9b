//! Tenants, keys and usage from the command line: over a running gateway and on its store, with the same output; and what the
//! configuration declares, changed while the gateway serves.

use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sluicegate::tenants::Secret;
use tempfile::TempDir;

use super::commands::{Outcome, sluicegate, sluicegate_in};
use super::running::{Running, eventually, wait_for};

/// Without what differs between two keys made one after the other.
fn alike(outcome: &Outcome) -> (Option<i32>, String, String) {
    let mask = |text: &str| {
        let mut masked = String::new();
        for line in text.lines() {
            // How long ago that was goes on.
            let past = line.find(" ago").and_then(|_| line.rfind("  ").or_else(|| line.rfind(": ")));
            let line = &line[..past.unwrap_or(line.len())];
            let words = line.split_inclusive([' ', '"', ',', ':', '}']).map(|word| {
                let bare = word.trim_end_matches([' ', '"', ',', ':', '}']);
                let is_id = bare.len() == 16 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
                let is_time = bare.len() == 13 && bare.bytes().all(|byte| byte.is_ascii_digit());
                let is_key = bare.starts_with("sk-sg-");
                if is_id || is_time || is_key { word.replace(bare, "<id>") } else { word.to_owned() }
            });
            masked.extend(words);
            masked.push('\n');
        }
        masked
    };
    (outcome.code, mask(&outcome.stdout), mask(&outcome.stderr))
}

#[tokio::test]
async fn commands_say_the_same_over_a_gateway_and_on_its_store() {
    let gateway = Running::scripted(&[]);
    let (folder, url) = (gateway.data_dir(), gateway.url(""));
    let on_store = [("SLUICEGATE_DATA_DIR", folder.to_str().unwrap())];
    let made = sluicegate_in(&on_store, &["key", "create", "--admin", "--json"], "");
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let admin = made.json()["key"].as_str().unwrap().to_owned();
    let over_http = [("SLUICEGATE_URL", url.as_str()), ("SLUICEGATE_API_KEY", admin.as_str())];
    wait_for("the key to be good", || {
        (sluicegate_in(&over_http, &["tenant", "list"], "").code == Some(0)).then_some(())
    });
    let gateway = gateway.with_key(&admin);
    let task = json!({"model": "builtin", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(gateway.post("/v1/chat/completions", &task).await.status(), StatusCode::OK);

    // What is made in one way is looked at, changed and removed in both.
    let both = |arguments: &[&str]| {
        let (http, store) = (sluicegate_in(&over_http, arguments, ""), sluicegate_in(&on_store, arguments, ""));
        assert_eq!(alike(&http), alike(&store), "{arguments:?}");
        http
    };
    let apart = |arguments: &[&str], id: [&str; 2]| {
        let of = |id: &str| arguments.iter().map(|argument| argument.replace("ID", id)).collect::<Vec<_>>();
        let run = |ways: &[(&str, &str)], id: &str| {
            let arguments = of(id);
            let outcome = sluicegate_in(ways, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), "");
            let (code, stdout, stderr) = alike(&outcome);
            let shown =
                |text: String| text.replace(id, "ID").replace("over-http", "TENANT").replace("on-store", "TENANT");
            ((code, shown(stdout), shown(stderr)), outcome)
        };
        let (http, store) = (run(&over_http, id[0]), run(&on_store, id[1]));
        assert_eq!(http.0, store.0, "{arguments:?}");
        assert_eq!(http.0.0, Some(0), "{arguments:?}: {}", http.1.stderr);
        [http.1, store.1]
    };
    let tenants = ["over-http", "on-store"];
    apart(&["tenant", "create", "ID", "--name", "The ID", "--weight", "3", "--concurrency", "4", "--json"], tenants);
    wait_for("the gateway to hear of it", || {
        sluicegate_in(&over_http, &["tenant", "list"], "").stdout.contains("on-store").then_some(())
    });
    apart(&["tenant", "change", "ID", "--model", "builtin", "--priority-ceiling", "batch"], tenants);
    let keys = apart(&["key", "create", "--tenant", "ID", "--name", "ci", "--days", "90", "--json"], tenants);
    let ids: Vec<_> = keys.iter().map(|key| key.json()["id"].as_str().unwrap().to_owned()).collect();
    wait_for("the gateway to hear of it", || {
        sluicegate_in(&over_http, &["key", "list"], "").stdout.contains(&ids[1]).then_some(())
    });
    let ids = [ids[0].as_str(), ids[1].as_str()];
    for id in ids {
        both(&["key", "show", id]);
        both(&["key", "show", id, "--json"]);
    }
    apart(&["key", "rotate", "ID", "--overlap", "1h", "--json"], ids);
    apart(&["key", "rotate", "ID"], ids);
    apart(&["tenant", "suspend", "ID"], tenants);
    apart(&["tenant", "resume", "ID", "--json"], tenants);
    eventually("both know all", async || {
        let list = |ways: &[(&str, &str)], of: &str| alike(&sluicegate_in(ways, &[of, "list", "--json"], ""));
        ["tenant", "key"].iter().all(|of| list(&over_http, of) == list(&on_store, of))
    })
    .await;
    for arguments in [
        &["tenant", "list"][..],
        &["tenant", "list", "--json"],
        &["key", "list"],
        &["key", "list", "--json"],
        &["key", "list", "--tenant", "on-store"],
        &["usage"],
        &["usage", "--json"],
        &["usage", "--csv"],
        &["usage", "--group-by", "tenant,model", "--json"],
        &["usage", "--group-by", "tenant,key,day"],
        &["usage", "--group-by", "model", "--csv", "--tenant", "default"],
        &["usage", "--to-ms", "1"],
    ] {
        assert_eq!(both(arguments).code, Some(0), "{arguments:?}");
    }
    let usage = both(&["usage", "--group-by", "model", "--csv"]).stdout;
    assert!(usage.contains("\nbuiltin,1,"), "{usage}");
    for arguments in [
        &["key", "show", "nobody"][..],
        &["key", "revoke", "nobody"],
        &["tenant", "create", "on-store"],
        &["tenant", "create", "a b"],
        &["tenant", "change", "nobody", "--weight", "2"],
        &["tenant", "change", "on-store", "--weight", "0"],
        &["usage", "--group-by", "week"],
    ] {
        assert_ne!(both(arguments).code, Some(0), "{arguments:?}");
    }
    apart(&["tenant", "delete", "ID"], tenants);
    let recorded = gateway.get_json("/v2/admin/audit?key_id=cli&limit=1000").await;
    let recorded: Vec<_> = recorded["entries"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert!(recorded.len() >= 8 && recorded.contains(&&json!("key.rotate")), "{recorded:?}");
}

/// A configuration with these tenants and keys.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn what_the_configuration_declares_is_exchanged_while_it_serves() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("sluicegate.toml");
    let printed = sluicegate(&["key", "hash", "--new", "--json"], "").json();
    let (first, hash) = (printed["key"].as_str().unwrap().to_owned(), printed["hash"].as_str().unwrap().to_owned());
    let read = sluicegate(&["key", "hash"], &format!("{first}\n"));
    assert_eq!(read.stdout.trim(), format!("hash = \"{hash}\""), "{}", read.stderr);
    let wrong = sluicegate(&["key", "hash"], "sk-sg-nonsense\n");
    assert!(wrong.code == Some(1) && !wrong.stderr.contains("nonsense"), "{}", wrong.stderr);
    let second = Secret::new().unwrap();
    let text = |hash: &str, more: &str| {
        format!(
            "{more}\n[[tenants]]\nid = \"team\"\n[[keys]]\nid = \"ops\"\ntenant_id = \"team\"\nscopes = [\"admin\", \"infer\"]\nhash = \"{hash}\"\n"
        )
    };
    write(&file, &text(&hash, ""));
    let gateway = Running::scripted(&[("CONFIG", file.to_str().unwrap())]);
    let base = gateway.url("");
    let good =
        |key: &str| sluicegate(&["tenant", "list", "--json", "--url", &base, "--api-key", key], "").code == Some(0);
    assert!(good(&first));
    let told = |text: &str| gateway.stderr().lines().filter(|line| line.contains(text)).count();

    // By itself, when the file changes.
    let other = format!("sha256:{}", second.digest());
    write(&file, &text(&other, ""));
    wait_for("the other key", || good(second.reveal()).then_some(()));
    assert!(!good(&first), "it left the file, and is good for nothing at once");

    // Whatever is wrong changes nothing, and is all told, when somebody asks by SIGHUP too.
    write(&file, &format!("{}weight = 1\n[[tenants]]\nid = \"team\"\nweight = 0\n", text(&first, "")));
    gateway.signal("HUP");
    for mistake in ["this is a key itself", "keys[0].weight: unknown key", "tenants[1].weight"] {
        wait_for(mistake, || (told(mistake) > 0).then_some(()));
    }
    assert!(good(second.reveal()));
    assert_eq!(told(first.rsplit('-').next().unwrap()), 0, "no key is in the log");

    // What needs a restart is named.
    write(&file, &text(&hash, "[limits]\nconcurrency = 64\n"));
    wait_for("the first key again", || good(&first).then_some(()));
    let named: Vec<Value> = gateway.log().into_iter().filter(|line| line["section"].is_string()).collect();
    assert_eq!(named.iter().map(|line| &line["section"]).collect::<Vec<_>>(), ["limits"]);
    let audit = gateway.with_key(&first);
    let recorded = audit.get_json("/v2/admin/audit?key_id=configuration").await;
    assert!(recorded["entries"].is_array(), "{recorded}");
}
