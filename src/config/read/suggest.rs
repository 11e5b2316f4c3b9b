//! What somebody may have meant by a key that does not exist.

/// Keys that have no default, so that the document need not hold them.
const OPTIONAL: [&str; 16] = [
    "aliases",
    "budget",
    "cert",
    "concurrency",
    "digest",
    "key",
    "limits",
    "models",
    "price",
    "remote",
    "requests_per_minute",
    "source",
    "tls",
    "token",
    "tokens_in_flight",
    "tokens_per_minute",
];

/// The known name that is written most like `name`, if one is close.
pub(super) fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let close = (name.len() / 3).clamp(1, 3);
    let distances = known.chain(OPTIONAL).map(|known| (distance(name, known), known));
    // `ttl` for `ttl_ms`: the unit is what is forgotten most.
    let likely = distances.filter(|(distance, known)| {
        *distance <= close || known.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'))
    });
    likely.min().map(|(_, known)| known)
}

/// Levenshtein's distance: insertions, deletions and replacements of one byte.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, from_byte) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to_byte) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(from_byte != to_byte);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_a_stranger_is_not() {
        let known = ["listen", "http2", "compression"];
        assert_eq!(suggest("listn", known.into_iter()), Some("listen"));
        assert_eq!(suggest("compresion", known.into_iter()), Some("compression"));
        assert_eq!(suggest("alias", known.into_iter()), None);
        assert_eq!(suggest("aliase", known.into_iter()), Some("aliases"));
        assert_eq!(suggest("x", known.into_iter()), None);
        assert_eq!(suggest("ttl", ["ttl_ms"].into_iter()), Some("ttl_ms"));
    }

    #[test]
    fn the_distance_counts_single_bytes() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
