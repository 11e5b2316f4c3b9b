//! Whether tokens reach the client as they are made.

use std::time::{Duration, Instant};

use serde_json::json;

use super::running::Running;
use super::wire::{Wire, post};

const TOKENS: usize = 200;

/// Nagle's algorithm and delayed acknowledgements together send one segment each 40 ms, whatever the pace of the tokens:
/// the reads would be a fifth of the tokens, and most gaps 40 ms.
#[test]
fn tokens_arrive_one_by_one() {
    let gateway =
        Running::scripted(&[("POOLS__0__SCRIPTED__TOKEN_MS", "5"), ("POOLS__0__SCRIPTED__TOKENS", r#"["x "]"#)]);
    let mut wire = Wire::connect(gateway.address);
    let body = json!({"model": "builtin", "stream": true, "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": "hi"}]});
    wire.send(&post("/v1/chat/completions", "Connection: close\r\n", &body.to_string()));

    let mut seen = Vec::new();
    let mut arrivals = Vec::new();
    loop {
        let bytes = wire.read();
        if bytes.is_empty() {
            break;
        }
        arrivals.push(Instant::now());
        seen.extend(bytes);
    }
    let text = String::from_utf8(seen).unwrap();
    assert_eq!(text.matches(r#""content":"x "#).count(), TOKENS, "{text}");
    let mut gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    println!("{} reads for {TOKENS} tokens, 5 ms apart; the median gap is {median:?}", arrivals.len());
    assert!(arrivals.len() > TOKENS / 2, "{} reads", arrivals.len());
    assert!(median < Duration::from_millis(30), "{median:?}");
}
