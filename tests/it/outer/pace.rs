//! Whether tokens reach the client as they are made.

use serde_json::json;

use super::running::Running;
use super::wire::{Wire, get, post};

const TOKENS: usize = 12;
const STREAMS: usize = 15;

/// A segment that waits for the acknowledgement of the one before (Nagle's algorithm) waits 40 ms on a connection that was
/// used back and forth, because its client then delays acknowledgements: twelve tokens, 3 ms apart, would arrive in one
/// read. A busy machine can hold up some streams, so the median counts.
#[test]
fn tokens_arrive_one_by_one() {
    let settings = [
        ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "2"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "2"),
        ("POOLS__0__SCRIPTED__TOKENS", r#"["x "]"#),
    ];
    let gateway = Running::scripted(&settings);
    let mut wire = Wire::connect(gateway.address);
    let mut reads: Vec<_> = (0..STREAMS).map(|_| reads_with_tokens(&mut wire)).collect();
    reads.sort_unstable();
    println!("reads with tokens, of {TOKENS} tokens: {reads:?}");
    assert!(reads[STREAMS / 2] > TOKENS / 2, "{reads:?}");
}

/// How many reads of a stream had tokens.
fn reads_with_tokens(wire: &mut Wire) -> usize {
    for _ in 0..5 {
        wire.send(&get("/healthz"));
        assert_eq!(wire.answer().status, 200);
    }
    let body = json!({"model": "builtin", "stream": true, "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": "hi"}]});
    wire.send(&post("/v1/chat/completions", "", &body.to_string()));
    let (mut seen, mut reads) = (String::new(), 0);
    while !seen.ends_with("\r\n0\r\n\r\n") {
        let read = String::from_utf8(wire.read()).unwrap();
        reads += usize::from(read.contains(r#""content":"x"#));
        seen.push_str(&read);
    }
    assert_eq!(seen.matches(r#""content":"x"#).count(), TOKENS, "{seen}");
    reads
}
