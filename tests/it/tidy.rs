//! The house rules that no compiler knows: who may use whom, what stays behind which fence, how files look.
//!
//! The rules are data, each with its reason. A change that needs a new edge changes a table here, where review sees it.

use std::path::{Path, PathBuf};

mod rules;
mod scan;

use rules::{ALLOWED_EDGES, ALLOWED_STATICS, FENCES, LAYERS, LONG_FILES, LONGEST, TOP_LEVEL};
use scan::{Named, blank, paths};

/// A Rust file of the repository.
struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// `["pools", "run"]` for `src/pools/run.rs`; nothing for `lib.rs`.
    fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("compat/").trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|name| *name != "lib").collect()
    }

    fn paths(&self) -> Vec<Named> {
        paths(&self.text, &self.module())
    }
}

/// One broken rule: where, what, and why it is a rule.
type Broken = String;

fn broken(source: &Source, line: usize, what: &str, reason: &str) -> Broken {
    format!("{}:{line}: {what}\n    because: {reason}", source.path)
}

/// A module uses lower layers only.
fn check_layers(source: &Source) -> Vec<Broken> {
    let module = source.module();
    let Some(own) = module.first().copied() else { return Vec::new() };
    let layer = |name: &str| LAYERS.iter().find(|(module, _)| *module == name).map(|(_, layer)| *layer);
    let Some(own_layer) = layer(own) else {
        return vec![broken(source, 1, &format!("`{own}` has no layer"), "each module has its place in `LAYERS`")];
    };
    let mut found = Vec::new();
    for named in source.paths() {
        let Some(used) = used_module(&named) else { continue };
        let allowed = match layer(used) {
            _ if used == own => true,
            Some(used_layer) if used_layer < own_layer => true,
            Some(_) => ALLOWED_EDGES.iter().any(|(from, to, _)| (*from, *to) == (own, used)),
            // Not a module: a macro, or a name re-exported at the root.
            None => false,
        };
        if !allowed {
            let what = format!("`{own}` uses `{used}`, which is not below it");
            found.push(broken(source, named.line, &what, "layers point down only; what two modules share moves down"));
        }
    }
    found
}

/// The top-level module that a path of the main crate leads into.
fn used_module(named: &Named) -> Option<&str> {
    let mut segments = named.segments.iter().map(String::as_str);
    matches!(segments.next(), Some("crate" | "sluicegate")).then(|| segments.next())?
}

/// What belongs behind a fence is used there only.
fn check_fences(source: &Source) -> Vec<Broken> {
    let mut found = Vec::new();
    let named = source.paths();
    for fence in FENCES.iter().filter(|fence| source.path.starts_with(fence.within)) {
        if fence.inside.iter().any(|place| is_inside(&source.path, place)) {
            continue;
        }
        let hits = named.iter().filter(|named| fence.paths.iter().any(|path| named.is_in(path)));
        found.extend(
            hits.map(|named| broken(source, named.line, &format!("`{}`", named.segments.join("::")), fence.reason)),
        );
    }
    found
}

/// A place is a module (`src/api` is `src/api.rs` and what is below), or the name of files (`*/metrics.rs`).
fn is_inside(path: &str, place: &str) -> bool {
    if let Some(name) = place.strip_prefix('*') {
        return path.ends_with(name);
    }
    path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// How any file looks.
fn check_form(source: &Source) -> Vec<Broken> {
    let mut found = Vec::new();
    if !source.text.starts_with("//!") {
        found.push(broken(source, 1, "no `//!` at the head", "who opens a file first reads what it is for"));
    }
    if source.path.ends_with("/mod.rs") {
        found.push(broken(source, 1, "a `mod.rs`", "a file has the name of its module, or tabs all look alike"));
    }
    let lines = source.text.lines().count();
    if lines > LONGEST && !LONG_FILES.iter().any(|(path, _)| *path == source.path) {
        let what = format!("{lines} lines, more than {LONGEST}");
        found.push(broken(
            source,
            lines,
            &what,
            "a file is one idea; one that long is listed in `LONG_FILES` with why",
        ));
    }
    for (index, line) in source.text.lines().enumerate() {
        for word in rules::unfinished() {
            if line.split(|c: char| !c.is_alphanumeric() && c != '!').any(|found| found == word) {
                found.push(broken(
                    source,
                    index + 1,
                    &word,
                    "what is not done is not merged; the rest is in the tracker",
                ));
            }
        }
    }
    found
}

/// No state of the process: every part gets what it needs from `app`.
fn check_statics(source: &Source) -> Vec<Broken> {
    let reason = "nothing is global: a second gateway in one process, as in tests, must share nothing with the first";
    let code = blank(&source.text);
    let mut found = Vec::new();
    for (index, line) in code.lines().map(str::trim).enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let allowed = ALLOWED_STATICS.iter().any(|(path, item, _)| source.path == *path && line == *item);
        if words.any(|word| matches!(word, "static" | "thread_local" | "lazy_static")) && !allowed {
            found.push(broken(source, index + 1, line, reason));
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files in these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut files);
    }
    files.sort();
    let read = |file: PathBuf| Source {
        path: file.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/"),
        text: std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())),
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn assert_none(found: Vec<Broken>) {
    assert!(found.is_empty(), "{} house rules are broken:\n\n{}\n", found.len(), found.join("\n\n"));
}

#[test]
fn modules_use_lower_layers_only() {
    let sources = sources(&["src"]);
    assert_none(sources.iter().flat_map(check_layers).collect());
    // The tables hold nothing that is not there any more.
    let modules: Vec<_> = sources.iter().filter_map(|source| Some((*source.module().first()?).to_owned())).collect();
    for (module, _) in LAYERS {
        assert!(modules.iter().any(|name| name == module), "`LAYERS` names `{module}`, which is gone");
    }
    for (from, to, _) in ALLOWED_EDGES {
        let uses = |source: &&Source| source.module().first() == Some(from);
        let used =
            sources.iter().filter(uses).any(|source| source.paths().iter().any(|named| used_module(named) == Some(to)));
        assert!(used, "nothing in `{from}` uses `{to}` any more: take the edge out of `ALLOWED_EDGES`");
    }
}

#[test]
fn what_belongs_behind_a_fence_stays_there() {
    assert_none(sources(&["src", "compat/src"]).iter().flat_map(check_fences).collect());
}

#[test]
fn every_file_is_finished_has_a_head_and_is_of_a_readable_length() {
    let sources = sources(&["src", "compat", "tests", "benches", "examples"]);
    assert_none(sources.iter().flat_map(check_form).collect());
    for (path, _) in LONG_FILES {
        let long = sources.iter().any(|source| source.path == *path && source.text.lines().count() > LONGEST);
        assert!(long, "{path} is not long any more: take it out of `LONG_FILES`");
    }
}

#[test]
fn nothing_in_the_program_is_global() {
    assert_none(sources(&["src", "compat/src"]).iter().flat_map(check_statics).collect());
}

#[test]
fn the_top_of_the_repository_holds_only_what_everybody_looks_for_there() {
    let names = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strange: Vec<_> = names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(
        strange.is_empty(),
        "{strange:?}: a new entry at the top is the first thing that a visitor sees; list it here"
    );
}

/// The rules themselves, on snippets that break them.
mod the_scanner {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn finds_a_use_of_a_higher_layer_however_it_is_written() {
        for text in [
            "use crate::api::Api;",
            "use crate::{ids::TaskId, api};",
            "fn f() { crate::api::router() }",
            "use super::super::api;",
            "mod tests { use super::super::super::api; }",
        ] {
            assert_eq!(check_layers(&source("src/pools/run.rs", text)).len(), 1, "{text}");
        }
        assert_eq!(check_layers(&source("src/pools.rs", "use super::api;")).len(), 1);
        assert_eq!(check_layers(&source("src/main.rs", "sluicegate::pools::x(); sluicegate::cli::run()")), [""; 0]);
    }

    #[test]
    fn finds_a_use_within_a_layer_and_a_module_without_one() {
        assert_eq!(check_layers(&source("src/tasks/log.rs", "use crate::engine::Piece;")).len(), 1);
        assert_eq!(check_layers(&source("src/new.rs", "")).len(), 1);
        assert_eq!(check_layers(&source("src/app.rs", "use crate::config::Config;")), [""; 0]);
        assert_eq!(
            check_layers(&source("src/pools.rs", "use crate::tasks::Task; mod tests { use super::*; }")),
            [""; 0]
        );
    }

    #[test]
    fn finds_what_has_jumped_a_fence() {
        for (path, text) in [
            ("src/gateway.rs", "use axum::Router;"),
            ("src/pools.rs", "let x = http::StatusCode::OK;"),
            ("src/engine/text.rs", "use mistralrs::Tensor;"),
            ("src/pools/run.rs", "tokio::spawn(async {});"),
            ("src/pools/run.rs", "use tokio::{task::spawn_blocking, time};"),
            ("src/catalog/hub.rs", "std::env::var(NAME)"),
            ("src/catalog/hub.rs", "use std::{env, fs};"),
            ("src/api/access.rs", "use prometheus::Histogram;"),
            ("src/pools.rs", "use sluicegate_compat::openai::Model;"),
            ("compat/src/openai.rs", "use std::time::Instant;"),
        ] {
            assert_eq!(check_fences(&source(path, text)).len(), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("src/api/sse.rs", "use axum::body::HttpBody;"),
            ("src/lifecycle.rs", "tokio::spawn(async {});"),
            ("src/api/metrics.rs", "use prometheus::Histogram;"),
            ("src/pools.rs", "// tokio::spawn\nlet text = \"axum::Router\"; self.http.x()"),
        ] {
            assert_eq!(check_fences(&source(path, text)), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn finds_files_without_a_head_too_long_ones_and_unfinished_ones() {
        let unfinished = rules::unfinished().map(|word| format!("//! Head.\n// {word}: more\n{word}()"));
        for text in unfinished {
            assert_eq!(check_form(&source("src/pools.rs", &text)).len(), 2, "{text}");
        }
        assert_eq!(check_form(&source("src/pools.rs", "use x;")).len(), 1);
        assert_eq!(check_form(&source("src/pools/mod.rs", "//! Head.")).len(), 1);
        assert_eq!(check_form(&source("src/pools.rs", &format!("//! Head.{}", "\n//".repeat(LONGEST)))).len(), 1);
        assert_eq!(check_form(&source("src/pools.rs", "//! Head, and nothing to do.")), [""; 0]);
    }

    #[test]
    fn finds_statics_and_takes_no_lifetime_for_one() {
        assert_eq!(check_statics(&source("src/ids.rs", "static COUNT: AtomicU64 = AtomicU64::new(0);")).len(), 1);
        assert_eq!(check_statics(&source("src/ids.rs", "thread_local! { }")).len(), 1);
        let allocator = ALLOWED_STATICS[0].1;
        assert_eq!(check_statics(&source("src/main.rs", allocator)), [""; 0]);
        assert_eq!(check_statics(&source("src/cli.rs", allocator)).len(), 1);
        assert_eq!(check_statics(&source("src/ids.rs", "fn f(name: &'static str) -> T where T: 'static {}")), [""; 0]);
    }
}
