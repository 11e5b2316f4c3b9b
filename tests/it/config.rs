//! The configuration as an operator meets it: defaults, layers, and every mistake with its place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use insta::assert_snapshot;
use sluicegate::catalog::{Builtin, ModelSource};
use sluicegate::config::{Config, Device, Effective, Engine, Http2, Mistakes, Overrides};
use sluicegate_compat::native::Quantization;

mod pools;
mod server;

const HOME: (&str, &str) = ("HOME", "/home/op");

/// A configuration file and an environment.
#[derive(Default)]
struct Setup<'a> {
    file: &'a str,
    environment: &'a [(&'a str, &'a str)],
    flags: Overrides,
}

impl Setup<'_> {
    fn load(self) -> Result<Effective, Mistakes> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluicegate.toml");
        std::fs::write(&path, self.file).unwrap();
        let environment =
            [HOME].iter().chain(self.environment).map(|(name, value)| (name.to_string(), value.to_string()));
        Effective::load(Some(&path), environment, self.flags)
    }

    fn config(self) -> Config {
        self.load().unwrap_or_else(|mistakes| panic!("{mistakes}")).config
    }

    /// The mistakes as they are printed, without the folder of the file.
    fn mistakes(self) -> String {
        let mistakes = self.load().expect_err("there are mistakes").to_string();
        let lines = mistakes.lines().map(|line| line.rsplit_once("/sluicegate.toml").map_or(line, |(_, rest)| rest));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn file(file: &str) -> Setup<'_> {
    Setup { file, ..Setup::default() }
}

fn environment<'a>(environment: &'a [(&'a str, &'a str)]) -> Setup<'a> {
    Setup { environment, ..Setup::default() }
}

#[test]
fn nothing_at_all_is_a_complete_configuration() {
    let environment = [HOME].into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(None, environment, Overrides::default()).unwrap();
    assert_eq!(config.data_dir, Path::new("/home/op/.local/share/sluicegate"));
    assert_eq!(config.server.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
    assert_eq!((config.server.max_connections, config.server.max_body_bytes), (4096, 16 << 20));
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(config.server.drain_deadline, Duration::from_secs(30));
    assert_eq!(config.admission.retention, Duration::from_secs(600));
    assert_eq!(config.admission.retention_max_bytes, 256 << 20);
    assert_eq!(config.admission.default_max_tokens, 4096);
    let [pool, embedding] = &config.pools[..] else { panic!("two pools: {:?}", config.pools) };
    assert_eq!((pool.id.as_str(), pool.model.as_str(), &pool.engine), ("default", "builtin", &Engine::Mistralrs));
    assert_eq!((embedding.id.as_str(), embedding.model.as_str()), ("embedding", "builtin-embedding"));
    assert_eq!((&embedding.engine, embedding.queue_capacity), (&Engine::Mistralrs, 256));
    assert_eq!((&pool.devices[..], pool.slots, pool.queue_capacity), (&[Device::Auto][..], None, 256));
    assert_eq!((pool.watchdog_wall, pool.watchdog_idle), (Duration::from_secs(600), Duration::from_secs(60)));
    assert_eq!(pool.watchdog_load, Duration::from_secs(600));
    assert_eq!(config.catalog.resolve("builtin").unwrap().source, ModelSource::Builtin(Builtin::Chat));
}

#[test]
fn a_whole_file_is_taken_over() {
    let config = file(
        r#"
        data_dir = "/srv/sluicegate"
        server = { listen = "[::1]:0", http2 = "off", compression = false }
        [telemetry]
        log_level = "debug"
        [catalog]
        allowed_file_roots = ["/models"]
        [[catalog.models]]
        id = "qwen"
        source = "hf:Qwen/Qwen3-0.6B@v1"
        aliases = ["gpt-4o-mini"]
        quantization = "q4k"
        [[catalog.models]]
        id = "local"
        source = "file:/models/x.gguf"
        digest = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        [[pools]]
        id = "chat"
        model = "gpt-4o-mini"
        device = ["cuda:1", "cuda:0"]
        replicas = 2
        gpu_memory_share = 0.3
        slots = 4
        queue = { capacity = 7 }
        [[pools]]
        id = "test"
        engine = "scripted"
        scripted = { token_ms = 1, fail_after = 3 }
        "#,
    )
    .config();
    assert_eq!(config.data_dir, Path::new("/srv/sluicegate"));
    assert_eq!((config.server.http2, config.server.listen.port()), (Http2::Off, 0));
    let [chat, test] = &config.pools[..] else { panic!("two pools: {:?}", config.pools) };
    assert_eq!((chat.model.as_str(), chat.slots), ("qwen", Some(4)));
    assert_eq!((&chat.devices[..], chat.replicas), (&[Device::Cuda(1), Device::Cuda(0)][..], 4));
    assert_eq!(chat.gpu_memory_share, 0.3);
    assert_eq!(config.catalog.resolve("qwen").unwrap().quantization, Some(Quantization::Q4K));
    assert_eq!((chat.queue_capacity, chat.batch_floor), (7, 0.1));
    let Engine::Scripted(script) = &test.engine else { panic!("scripted: {test:?}") };
    assert_eq!((script.token, script.first_token), (Duration::from_millis(1), Duration::from_millis(20)));
    assert_eq!((script.fail_after, script.repeat, script.tokens.len()), (Some(3), true, 2));
    let local = config.catalog.resolve("local").unwrap();
    assert_eq!(local.source, ModelSource::Gguf("/models/x.gguf".into()));
    assert_eq!(local.digest, Some(format!("sha256:{}", "a".repeat(64))));
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let text = "[server]\nlisten = \"127.0.0.1:1\"\nmax_connections = 1\ndrain_deadline_ms = 1";
    let variables = [("SLUICEGATE_SERVER__LISTEN", "127.0.0.1:2"), ("SLUICEGATE_SERVER__MAX_CONNECTIONS", "2")];
    let flags = Overrides { listen: Some("127.0.0.1:3".into()), ..Overrides::default() };
    let server = Setup { file: text, environment: &variables, flags }.config().server;
    assert_eq!((server.listen.port(), server.max_connections, server.drain_deadline.as_millis()), (3, 2, 1));
}

#[test]
fn the_environment_reaches_into_lists_and_makes_them() {
    let variables = [
        ("SLUICEGATE_POOLS__0__SLOTS", "4"),
        ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "9"),
        ("SLUICEGATE_CATALOG__MODELS", "[{ id = \"q\", source = \"hf:a/b\" }]"),
        ("SLUICEGATE_POOLS__0__MODEL", "q"),
        ("SLUICEGATE_DATA_DIR", "/data"),
    ];
    let config = environment(&variables).config();
    assert_eq!((config.pools[0].slots, config.pools[0].queue_capacity), (Some(4), 9));
    assert_eq!((config.pools[0].model.as_str(), config.data_dir), ("q", PathBuf::from("/data")));
}

#[test]
fn names_that_other_programs_share_are_understood() {
    let variables = [("HF_ENDPOINT", "http://127.0.0.1:9/"), ("HF_TOKEN", "12345"), ("ORCHD_PREFER_H2", "1")];
    let setup = Setup { file: "server.http2 = \"off\"", environment: &variables, ..Setup::default() };
    let Effective { config, text, .. } = setup.load().unwrap();
    assert_eq!((config.hub.endpoint.as_str(), config.server.http2), ("http://127.0.0.1:9", Http2::Auto));
    assert_eq!(config.hub.token.as_ref().map(|token| token.0.as_str()), Some("12345"));
    assert!(!text.contains("12345") && !format!("{config:?}").contains("12345"), "a secret is shown");
    let ours = environment(&[("HF_ENDPOINT", "http://a"), ("SLUICEGATE_CATALOG__HUB__ENDPOINT", "http://b")]).config();
    assert_eq!(ours.hub.endpoint, "http://b");
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.toml");
    std::fs::write(&path, "admission.default_max_tokens = 5").unwrap();
    let variable = ("SLUICEGATE_CONFIG".to_owned(), path.display().to_string());
    let config = Config::load(None, [variable].into_iter(), Overrides::default()).unwrap();
    assert_eq!(config.admission.default_max_tokens, 5);
}

#[test]
fn what_is_shown_is_a_file_that_means_the_same() {
    let shown = file("[[pools]]\nid = \"a\"\nslots = 3\n[[pools]]\nid = \"b\"").load().unwrap();
    let again = file(&shown.text).load().unwrap();
    assert_eq!(format!("{:?}", again.config), format!("{:?}", shown.config));
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let text = r#"
[server]
listen = "everywhere"
listn = "127.0.0.1:8080"
http2 = "on"
max_body_bytes = "lots"
max_connections = 0

[admission]
default_max_tokens = -1

[[catalog.models]]
id = "twice"
source = "hf:a/b"
[[catalog.models]]
id = "twice"
source = "hf:a"
[[catalog.models]]
id = "file:/x"
source = "file:/elsewhere/x"

[[pools]]
queue = { capacity = 0, colour = "red" }
[[pools]]
device = "gpu"
watchdog = 5

[nonsense]
x = 1
"#;
    let variables = [("SLUICEGATE_TELEMETRY__LOG_LEVEL", "loud"), ("SLUICEGATE_SESSIONS__TTL", "5")];
    let flags = Overrides { log_format: Some("xml".into()), model: Some("hf:a".into()), ..Overrides::default() };
    let mistakes = Setup { file: text, environment: &variables, flags }.mistakes();
    assert_snapshot!(mistakes, @r#"
    :3: server.listen: "everywhere" is no socket address; write 127.0.0.1:8080 or [::1]:8080
    :4: server.listn: unknown key; did you mean `listen`?
    :5: server.http2: "on" is none of "auto", "off"
    :6: server.max_body_bytes: a whole number, 0 or more, is expected here
    :7: server.max_connections: 1 to 1048576
    :10: admission.default_max_tokens: a whole number, 0 or more, is expected here
    :15: catalog.models[1]: another model already has the name "twice"
    :17: catalog.models[1].source: "hf:a" is no model reference: the form is hf:org/repo[@revision][/file]
    :19: catalog.models[2].id: "file:/x" is a reference to somewhere else, not a name
    :20: catalog.models[2].source: /elsewhere/x is in no folder of catalog.allowed_file_roots
    :23: pools[0].queue.capacity: 1 to 1000000
    :23: pools[0].queue.colour: unknown key
    :24: pools[1].id: each pool after the first needs an `id`
    :25: pools[1].device: one of "auto", "cpu", "cuda:0", or a list of GPUs, each once
    :26: pools[1].watchdog: a table is expected here
    :28: nonsense: unknown key
    SLUICEGATE_SESSIONS__TTL: sessions.ttl: unknown key; did you mean `ttl_ms`?
    SLUICEGATE_TELEMETRY__LOG_LEVEL: telemetry.log_level: "loud" is none of "off", "error", "warn", "info", "debug", "trace"
    --log-format: telemetry.log_format: "xml" is none of "text", "json", "auto"
    --model: "hf:a" is no model reference: the form is hf:org/repo[@revision][/file]
    "#);
}

#[test]
fn a_pool_without_its_model_and_names_taken_twice_are_found() {
    let text = r#"
[[catalog.models]]
id = "a"
source = "hf:a/b"
[[pools]]
id = "one"
model = "a"
[[pools]]
id = "one"
model = "gpt-5"
"#;
    assert_snapshot!(file(text).mistakes(), @r#"
    :9: pools[1].id: another pool already has the id "one"
    :10: pools[1].model: no model is called "gpt-5" here; its place is [[catalog.models]]
    "#);
    let text = "[[catalog.models]]\nid = \"a\"\nsource = \"hf:a/b\"\naliases = [\"builtin\"]\n[[catalog.models]]\nid = \"a\"\nsource = \"hf:c/d\"";
    assert_snapshot!(file(text).mistakes(), @r#"
    :1: catalog.models[0]: another model already has the name "builtin"
    :5: catalog.models[1]: another model already has the name "a"
    "#);
}

#[test]
fn the_file_of_the_store_takes_no_parameters() {
    assert_snapshot!(file(r#"store.url = "sqlite:/x.db?mode=ro""#).mistakes(), @r#":1: store.url: takes no parameters; leave out what begins with ? or #"#);
}

#[test]
fn what_this_version_does_not_serve_is_refused_by_name() {
    let text = r#"
store.url = "postgres://user:geheim@host/db?sslmode=prefer"
admission.provision = "on-demand"
sessions.ttl_ms = 1000
[[catalog.models]]
id = "priced"
source = "http://host/m.gguf"
"#;
    let mistakes = file(text).mistakes();
    assert!(!mistakes.contains("geheim"), "{mistakes}");
    assert_snapshot!(mistakes, @r#"
    :2: store.url: sslmode is disable (which it is where nothing is said), require or verify-full
    :3: admission.provision: "on-demand" needs a pool with `on_demand = true` to give models to
    :7: catalog.models[0].source: http://host/m.gguf is not encrypted, and its host is not in catalog.web.trusted_hosts; write https://
    "#);
}

#[test]
fn a_model_has_a_price_within_its_range() {
    let text = "[[catalog.models]]\nid = \"builtin\"\nprice = { output_per_mtok = 600000, engine_second = 3 }";
    let config = file(text).load().unwrap().config;
    let price = config.catalog.entries()[0].price;
    assert_eq!((price.input_per_mtok, price.output_per_mtok, price.engine_second), (0, 600_000, 3));
    let text = "[[catalog.models]]\nid = \"builtin\"\nprice = { output_per_mtok = 1000000000000001, engine_second = -1, input = 1 }";
    assert_snapshot!(file(text).mistakes(), @r#"
    :3: catalog.models[0].price.engine_second: a whole number, 0 or more, is expected here
    :3: catalog.models[0].price.input: unknown key
    :3: catalog.models[0].price.output_per_mtok: a price is 0 to 1000000000000000
    "#);
}

#[test]
fn hosts_that_models_may_come_from_are_read_without_ports() {
    let text = r#"
catalog.web = { trusted_hosts = ["models.internal", "::1"] }
[[catalog.models]]
id = "near"
source = "http://models.internal:9000/m.gguf"
[[catalog.models]]
id = "far"
source = "https://host/m.gguf"
"#;
    let config = file(text).load().unwrap().config;
    assert_eq!(config.catalog.resolve("https://HOST/m.gguf").unwrap().id, "far");
    let text = r#"
catalog.max_model_bytes = 0
catalog.web = { trusted_hosts = ["models.internal:9000", "https://host", ""] }
[[catalog.models]]
id = "metadata"
source = "https://169.254.169.254/latest/m.gguf"
"#;
    assert_snapshot!(file(text).mistakes(), @r#"
    :2: catalog.max_model_bytes: at least 1
    :3: catalog.web.trusted_hosts[0]: a name or an address without a port, such as models.internal or ::1
    :3: catalog.web.trusted_hosts[1]: a name or an address without a port, such as models.internal or ::1
    :3: catalog.web.trusted_hosts[2]: a name or an address without a port, such as models.internal or ::1
    :6: catalog.models[0].source: https://169.254.169.254/latest/m.gguf leads to an address of a private network, and its host is not in catalog.web.trusted_hosts
    "#);
}

#[test]
fn a_remote_engine_is_read_with_its_key_which_is_never_shown() {
    let text = r#"
[[pools]]
engine = "remote"
remote = { base_url = "http://127.0.0.1:9000/v1/", model = "there", api_key_env = "UPSTREAM_KEY", engine = "vllm" }
"#;
    let setup = Setup { file: text, environment: &[("UPSTREAM_KEY", "geheim")], ..Setup::default() };
    let Effective { config, text, .. } = setup.load().unwrap();
    let Engine::Remote(remote) = &config.pools[0].engine else { panic!("remote: {:?}", config.pools) };
    assert_eq!((remote.base_url.as_str(), remote.model.as_str()), ("http://127.0.0.1:9000/v1", "there"));
    assert_eq!(remote.api_key.as_ref().map(|key| key.0.as_str()), Some("geheim"));
    assert_eq!((remote.context_length, remote.limits.idle), (8192, Duration::from_secs(60)));
    assert!(!text.contains("geheim") && !format!("{config:?}").contains("geheim"), "a secret is shown");
}

#[test]
fn every_mistake_about_a_remote_engine_is_reported() {
    let text = r#"
[[pools]]
id = "a"
engine = "remote"
[[pools]]
id = "b"
engine = "remote"
[pools.remote]
base_url = "http://user@host/v1"
api_key_env = "NO_SUCH_KEY"
tokenizer = "tokenizer.json"
engine = "ollama"
context_length = 0
idle_ms = 0
workloads = ["rerank", "rerank"]
"#;
    let known = text.replace("\"ollama\"", "\"vllm\"");
    assert_snapshot!(file(&known).mistakes(), @r#"
    :2: pools[0].remote: engine = "remote" needs remote = { base_url = "http://…/v1", model = "…" }
    :8: pools[1].remote.model: the model's name on that server is needed
    :9: pools[1].remote.base_url: an address such as http://127.0.0.1:9000/v1, without user or password
    :10: pools[1].remote.api_key_env: the environment has no variable "NO_SUCH_KEY"
    :11: pools[1].remote.tokenizer: file: and the absolute path of a tokenizer.json
    :13: pools[1].remote.context_length: at least 2 tokens
    :14: pools[1].remote.idle_ms: 1 to 31536000000 ms
    :15: pools[1].remote.workloads: at least one of "completion", "embedding", "rerank", each once
    "#);
    assert!(file(text).mistakes().contains("pools[1].remote.engine: \"ollama\" is none of"));
    let stray = "[[pools]]\nremote = { base_url = \"http://h/v1\", model = \"m\" }";
    assert_snapshot!(file(stray).mistakes(), @r#":2: pools[0].remote: goes with engine = "remote""#);
}

#[test]
fn pools_of_one_model_have_one_engine() {
    let text = "[[pools]]\nid = \"a\"\nengine = \"scripted\"\n[[pools]]\nid = \"b\"\n";
    assert_snapshot!(file(text).mistakes(), @r#":4: pools[1].engine: pools of one model have one engine, because they share its tokenizer"#);
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_one_clear_mistake() {
    assert_snapshot!(file("[server]\nlisten = \n").mistakes(), @r#"
    :2: not TOML: invalid string; expected `"`, `'`
    "#);
    assert_snapshot!(file("a = 1\na = 2").mistakes(), @r#":2: not TOML: duplicate key `a` in document root"#);
    let gone = Config::load(Some(Path::new("/gone/x.toml")), std::iter::empty(), Overrides::default()).unwrap_err();
    assert_snapshot!(gone, @r#"/gone/x.toml: the file cannot be read: No such file or directory (os error 2)"#);
}

#[test]
fn a_variable_that_leads_nowhere_is_named() {
    let variables = [
        ("SLUICEGATE_SERVER_LISTEN", "127.0.0.1:1"),
        ("SLUICEGATE_POOLS__5__SLOTS", "1"),
        ("SLUICEGATE_DATA_DIR__X", "1"),
        ("SLUICEGATE_SERVER__COMPRESSION", "yes"),
        ("SLUICEGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
    ];
    let setup = Setup { file: "data_dir = \"/d\"", environment: &variables, ..Setup::default() };
    assert_snapshot!(setup.mistakes(), @r#"
    SLUICEGATE_DATA_DIR__X: data_dir.x: what holds it is no table
    SLUICEGATE_POOLS__5__SLOTS: pools[5].slots: the list has no such place; the next free one is its length
    SLUICEGATE_SERVER_LISTEN: server_listen: unknown key; levels are parted by two underscores, as in SLUICEGATE_SERVER__LISTEN
    SLUICEGATE_SERVER__COMPRESSION: server.compression: true or false is expected here
    "#);
}

#[test]
fn a_secret_of_the_wrong_type_is_not_repeated() {
    let mistakes = file("[catalog.hub]\ntoken = 987654\n[store]\nurl = [\"geheim\"]").mistakes();
    assert!(!mistakes.contains("987654") && !mistakes.contains("geheim"), "{mistakes}");
    let mistakes = file("catalog.hub.token = \"geheim \"").mistakes();
    assert!(!mistakes.contains("geheim"), "{mistakes}");
}

#[test]
fn a_model_on_the_command_line_becomes_an_entry_and_the_pools_model() {
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("My model");
    std::fs::create_dir(&folder).unwrap();
    let model =
        |model: &str| Overrides { model: Some(model.into()), engine: Some("scripted".into()), ..Overrides::default() };

    let config = Setup { flags: model(&format!("{}/../My model", folder.display())), ..Setup::default() }.config();
    assert_eq!(config.pools[0].model, "My-model");
    assert_eq!(config.catalog.resolve("My-model").unwrap().source, ModelSource::Folder(folder));
    assert!(matches!(config.pools[0].engine, Engine::Scripted(_)));

    let config = Setup { flags: model("hf:a/b@v1/m.gguf"), ..Setup::default() }.config();
    assert_eq!(config.pools[0].model, "m");

    let text = "[[catalog.models]]\nid = \"q\"\nsource = \"hf:a/b\"\naliases = [\"other\"]\n[[pools]]\nid = \"p\"";
    for name in ["q", "other", "builtin"] {
        let config = Setup { file: text, flags: model(name), ..Setup::default() }.config();
        assert_eq!(config.pools[0].model, if name == "other" { "q" } else { name });
    }
}

#[test]
fn a_model_on_the_command_line_that_is_nowhere_is_explained() {
    let model = |model: &str| Overrides { model: Some(model.into()), ..Overrides::default() };
    assert_snapshot!(Setup { flags: model("Qwen/Qwen3-0.6B"), ..Setup::default() }.mistakes(), @r#"
    --model: "Qwen/Qwen3-0.6B" is no folder, file or model of the catalog; hf:Qwen/Qwen3-0.6B would name it at the hub
    "#);
    let text = "[[pools]]\nid = \"a\"\n[[pools]]\nid = \"b\"";
    assert_snapshot!(Setup { file: text, flags: model("builtin"), ..Setup::default() }.mistakes(), @r#"
    --model: there are several pools; say it in the configuration file
    "#);
}

/// Runs the command line in this process; what it would serve is returned.
fn command(arguments: &[&str], environment: &[(&str, &str)]) -> (ExitCode, Option<(Config, Option<PathBuf>)>) {
    let arguments = std::iter::once("sluicegate").chain(arguments.iter().copied()).map(Into::into);
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut served = None;
    let code = sluicegate::cli::run_with(arguments, environment, |config, options| {
        served = Some((config, options.port_file));
        Ok::<(), String>(())
    });
    (code, served)
}

#[test]
fn the_command_line_serves_what_it_says() {
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--engine", "scripted", "--port-file", "p", "--log-format", "json"];
    let (code, served) = command(&arguments, &[HOME]);
    let (config, port_file) = served.expect("it serves");
    assert_eq!(code, ExitCode::SUCCESS);
    assert_eq!((config.server.listen.port(), port_file), (0, Some("p".into())));
    assert!(matches!(config.pools[0].engine, Engine::Scripted(_)));
}

#[test]
fn a_command_line_or_configuration_that_is_wrong_serves_nothing() {
    let cases: [(&[&str], u8); 6] = [
        (&["serve", "--listen", "everywhere"], 1),
        (&["serve", "--engine", "vllm"], 2),
        (&["--version"], 0),
        (&["config", "check"], 0),
        (&["config", "show"], 0),
        (&["config", "check", "--config", "/gone"], 1),
    ];
    for (arguments, code) in cases {
        let (found, served) = command(arguments, &[HOME]);
        assert_eq!(found, ExitCode::from(code), "{arguments:?}");
        assert!(served.is_none(), "{arguments:?}");
    }
}
