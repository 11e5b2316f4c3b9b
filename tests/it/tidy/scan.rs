//! Reads Rust source as far as the house rules need it: the paths that it names, without comments and strings.

/// A path as the code writes it, groups taken apart: `use a::{b, c::d}` names `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub line: usize,
    /// From the crate root where the path begins with `crate`, `self` or `super`: then the first segment is `crate`.
    pub segments: Vec<String>,
}

impl Named {
    /// Whether the path is `prefix` or something in it.
    pub fn is_in(&self, prefix: &str) -> bool {
        let mut segments = self.segments.iter();
        prefix.split("::").all(|expected| segments.next().is_some_and(|segment| segment == expected))
    }
}

/// A token of the code: an identifier, `::`, or one character.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Every path of a file, in the order of the text. `module` is where the file stands: `["pools", "run"]`.
pub fn paths(text: &str, module: &[&str]) -> Vec<Named> {
    let code = blank(text);
    let tokens = tokens(&code);
    let mut named = Vec::new();
    // The module that each brace opens, `None` for braces of anything else.
    let mut braces: Vec<Option<&str>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
        match token.text {
            "{" => {
                let opens_module = at >= 2 && tokens[at - 2].text == "mod";
                braces.push(opens_module.then_some(before));
            }
            "}" => drop(braces.pop()),
            text if is_identifier(text) && !matches!(before, "::" | "." | "fn" | "mod") => {
                let inner = braces.iter().flatten().copied();
                let base: Vec<&str> = module.iter().copied().chain(inner).collect();
                at = follow(&tokens, at, &base, &mut named);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    named
}

/// Takes the path that begins at `at`, and returns where it ends.
fn follow(tokens: &[Token<'_>], at: usize, module: &[&str], named: &mut Vec<Named>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut at = at;
    // `pub(super)` and `fn f(self)` name nothing.
    if matches!(text(at), "crate" | "self" | "super") && text(at + 1) != "::" {
        return at + 1;
    }
    let mut prefix: Vec<String> = Vec::new();
    match text(at) {
        "crate" => {
            prefix.push("crate".into());
            at += 2;
        }
        "self" | "super" => {
            let mut up = module;
            while matches!(text(at), "self" | "super") && text(at + 1) == "::" {
                if text(at) == "super" {
                    up = &up[..up.len().saturating_sub(1)];
                }
                at += 2;
            }
            prefix.extend(["crate"].iter().chain(up).map(|segment| (*segment).to_owned()));
        }
        _ => {}
    }
    tree(tokens, at, prefix, named)
}

/// Takes one branch of a `use` tree, or a plain path.
fn tree(tokens: &[Token<'_>], mut at: usize, mut prefix: Vec<String>, named: &mut Vec<Named>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                at = if text(at) == "," { at + 1 } else { tree(tokens, at, prefix.clone(), named).max(at + 1) };
            }
            return at + 1;
        }
        if !is_identifier(text(at)) && text(at) != "*" {
            break;
        }
        prefix.push(text(at).to_owned());
        at += 1;
        if text(at) == "as" {
            at += 2;
        }
        // What follows `::<` are arguments, not a part of the path.
        if text(at) != "::" || text(at + 1) == "<" {
            break;
        }
        at += 1;
    }
    named.push(Named { line, segments: prefix });
    at
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let length = match () {
                () if word > 0 => word,
                () if rest.starts_with("::") => 2,
                () => first.len_utf8(),
            };
            tokens.push(Token { text: &rest[..length], line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The text with comments, strings, characters and lifetimes blanked out; line breaks stay.
pub fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let before = code.chars().next_back().unwrap_or(' ');
        let in_word = before.is_alphanumeric() || before == '_';
        let length = foreign(rest, in_word);
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
        }
    }
    code
}

/// How many bytes at the start of `rest` are not code; 0 where it begins with code.
fn foreign(rest: &str, in_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, '"');
    }
    if !in_word && let Some(raw) = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = rest.len() - raw.len() + hashes + 1;
            return rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len());
        }
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        let mut characters = inner.chars();
        let (first, second) = (characters.next(), characters.next());
        if first == Some('\\') || second == Some('\'') {
            return quoted(rest, '\'');
        }
        // A lifetime.
        return 1 + inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    }
    0
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + character.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, module: &[&str]) -> Vec<String> {
        paths(text, module).into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn groups_of_a_use_are_taken_apart() {
        let named = names("use crate::{a, b::{c, self, d as e}, f::*};", &[]);
        assert_eq!(named, ["use", "crate::a", "crate::b::c", "crate::b::self", "crate::b::d", "crate::f::*"]);
    }

    #[test]
    fn super_is_resolved_from_where_it_stands_inner_modules_included() {
        let text = "super::one(); mod tests { use super::super::two; fn f() { super::three() } } super::four()";
        let named: Vec<_> =
            names(text, &["pools", "run"]).into_iter().filter(|name| name.starts_with("crate")).collect();
        assert_eq!(named, ["crate::pools::one", "crate::pools::two", "crate::pools::run::three", "crate::pools::four"]);
    }

    #[test]
    fn comments_strings_and_lifetimes_name_nothing() {
        let text = r##"
            // tokio::spawn
            /* a /* nested */ tokio::spawn */
            let s = ("tokio::spawn \" tokio::spawn", r#"" tokio::spawn "#, b"x", '"', '\'', 'a');
            fn f<'tokio>(x: &'static str) { clap::parse() }
        "##;
        let named = names(text, &["x"]);
        assert!(named.contains(&"clap::parse".to_owned()), "{named:?}");
        assert!(!named.iter().any(|name| name.contains("tokio") || name.contains("static")), "{named:?}");
    }

    #[test]
    fn a_path_has_the_line_that_it_is_on() {
        let named = paths("\"a\nb\"\n// c\naxum::x", &[]);
        assert_eq!(named, [Named { line: 4, segments: vec!["axum".into(), "x".into()] }]);
    }

    #[test]
    fn a_prefix_is_compared_segment_by_segment() {
        let named = Named { line: 1, segments: vec!["tower_http".into(), "trace".into()] };
        assert!(named.is_in("tower_http") && named.is_in("tower_http::trace"));
        assert!(!named.is_in("tower") && !named.is_in("tower_http::trace::on"));
    }
}
