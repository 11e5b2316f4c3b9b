//! Framing of server-sent events into a buffer that the caller owns and reuses.

use serde::Serialize;

/// A comment line, which clients ignore: keeps intermediaries from closing a silent stream.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// The last event of a chat or text completion stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Appends the `id:` line.
pub fn event_id(id: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    out.push(b'\n');
}

/// Appends the `event:` line. `name` has no line break.
pub fn event_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
}

/// Appends `value` as the `data:` line and ends the event. JSON has no raw line breaks, so one line is enough.
///
/// # Panics
///
/// Where `value`'s `Serialize` fails; those of this crate do not.
pub fn data_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    json(value, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends `value` as JSON, for a `data:` line that is put together piece by piece.
///
/// # Panics
///
/// As [`data_json`].
pub(crate) fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value)
        .expect("the wire types of this crate always serialize, and a Vec takes all of it");
}
