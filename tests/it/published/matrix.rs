//! The support matrix of the README: made of what was found, and held equal to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use super::walk::{Report, Verdict};

/// The row of one endpoint.
pub fn row(path: &str, report: &Report) -> String {
    let cells = [Verdict::Honoured, Verdict::Refused, Verdict::Ignored].map(|verdict| cell(report, verdict));
    format!("| `{path}` | {} |\n", cells.join(" | "))
}

/// Of honoured fields those of the request itself: what is inside them and stands in no other cell is honoured as well.
fn cell(report: &Report, verdict: Verdict) -> String {
    let mut fields: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (subject, found) in &report.findings {
        let inside = subject.path.contains(['.', '[']) || subject.word.is_some();
        if verdict == Verdict::Honoured && inside || found.values().all(|found| *found != verdict) {
            continue;
        }
        let everywhere = found.values().all(|found| *found == verdict);
        let which = found.iter().filter(|(_, found)| **found == verdict).map(|(full, _)| full.as_str());
        let paths: Vec<&str> = if everywhere { vec![&subject.path] } else { which.collect() };
        for path in paths {
            let words = fields.entry(path).or_default();
            words.extend(subject.word.as_deref());
        }
    }
    // A field that is refused or ignored is so with all that is in it.
    let whole = |path: &str| {
        let alone = report.findings.iter().find(|(subject, _)| subject.path == path && subject.word.is_none());
        alone.is_some_and(|(_, found)| found.values().all(|found| *found == verdict))
    };
    let inside_another = |path: &str| path.match_indices(['.', '[']).any(|(at, _)| whole(&path[..at]));
    let shown = fields.iter().filter(|(path, _)| verdict == Verdict::Honoured || !inside_another(path));
    let shown = shown.map(|(path, words)| match words.as_slice() {
        words if words.is_empty() || whole(path) => format!("`{path}`"),
        words => format!("`{path}`: `{}`", words.join("` `")),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Asserts that the README has these rows for a service; with `SLUICEGATE_TEST_RENEW=on` they are written there.
pub fn hold(service: &str, rows: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    // Another service's table may be written at the same time.
    let lock = File::open(&path).unwrap();
    lock.lock().unwrap();
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {service}: made by a test -->\n"), format!("<!-- {service}: end -->"));
    let (before, rest) = readme.split_once(&begin).unwrap_or_else(|| panic!("the README has no {begin}"));
    let (known, after) = rest.split_once(&end).unwrap();
    let table = format!("| | honoured | refused | ignored |\n| --- | --- | --- | --- |\n{rows}");
    if std::env::var("SLUICEGATE_TEST_RENEW").is_ok_and(|value| value == "on") {
        fs::write(&path, [before, &begin, &table, &end, after].concat()).unwrap();
        return;
    }
    assert!(
        known == table,
        "the support matrix of the README is not what was found; `SLUICEGATE_TEST_RENEW=on cargo test --test it -- published` writes it anew:\n{table}"
    );
}
