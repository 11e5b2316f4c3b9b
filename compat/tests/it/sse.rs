//! Our framing, read by a client's parser however the network cuts it.

use std::convert::Infallible;

use eventsource_stream::Eventsource;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use proptest::prelude::*;
use sluicegate_compat::native::{Event, encode};
use sluicegate_compat::openai::chat::ChatContext;
use sluicegate_compat::sse::KEEP_ALIVE;

use crate::events;

/// The (id, name, data) of each event that a client reads from `bytes`, which arrive in pieces that end at `cuts`.
fn read(bytes: &[u8], cuts: &[usize]) -> Vec<(String, String, String)> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    let pieces: Vec<_> = cuts.windows(2).map(|ends| Ok::<_, Infallible>(bytes[ends[0]..ends[1]].to_vec())).collect();
    let events = stream::iter(pieces).eventsource().map(|event| event.unwrap());
    let events: Vec<_> = events.collect().now_or_never().expect("a stream of pieces at hand never waits");
    events.into_iter().map(|event| (event.id, event.event, event.data)).collect()
}

fn native(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, event) in (1..).zip(events) {
        out.extend_from_slice(KEEP_ALIVE);
        encode(id, event, &mut out);
    }
    out
}

proptest! {
    #[test]
    fn a_native_stream_is_the_same_however_it_is_cut(
        events in events::any_events(), cuts in proptest::collection::vec(any::<usize>(), 0..60),
    ) {
        let bytes = native(&events);
        let whole = read(&bytes, &[]);
        prop_assert_eq!(&whole, &read(&bytes, &cuts));
        prop_assert_eq!(whole.len(), events.len());
        for ((id, event), (read_id, name, data)) in (1..).zip(&events).zip(&whole) {
            prop_assert_eq!(&format!("{id}"), read_id);
            prop_assert_eq!(event.name(), name);
            prop_assert!(serde_json::from_str::<serde_json::Value>(data).is_ok());
        }
    }

    #[test]
    fn a_stream_of_chunks_is_the_same_however_it_is_cut(
        events in events::any_events(), cuts in proptest::collection::vec(any::<usize>(), 0..60),
    ) {
        let transcript = events::stream(&ChatContext::new("m"), &events);
        let whole = read(transcript.as_bytes(), &[]);
        prop_assert_eq!(&whole, &read(transcript.as_bytes(), &cuts));
        prop_assert_eq!(&whole.last().unwrap().2, "[DONE]");
        prop_assert_eq!(whole.len(), events::chunks(&transcript).len() + 1);
    }
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let bytes = native(&[events::token(0, 0, "a\r\nb\n\n: c")]);
    let cuts: Vec<_> = (0..bytes.len()).collect();
    assert_eq!(read(&bytes, &cuts), [("1".into(), "token".into(), r#"{"t":"a\r\nb\n\n: c","i":0}"#.into())]);
}
