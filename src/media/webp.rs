//! What the frames of a WebP file say of their size, whatever its head says.

/// Chunks of a file that are looked at, at most.
const MOST_CHUNKS: usize = 10_000;

/// The pixels of the largest frame; 0 where there is none.
pub fn most_pixels(bytes: &[u8]) -> u64 {
    let mut left = MOST_CHUNKS;
    // After `RIFF`, its length, and `WEBP`.
    bytes.get(12..).map_or(0, |chunks| largest(chunks, &mut left))
}

fn largest(mut chunks: &[u8], left: &mut usize) -> u64 {
    let mut most = 0;
    while let Some((head, rest)) = chunks.split_at_checked(8) {
        if *left == 0 {
            // Nothing that anybody shows has so many.
            return u64::MAX;
        }
        *left -= 1;
        let length = head.get(4..).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
        let data = rest.get(..length).unwrap_or(rest);
        most = most.max(match &head[..4] {
            b"VP8 " => lossy(data),
            b"VP8L" => lossless(data),
            // A frame of an animation has chunks of its own after its place and its time.
            b"ANMF" => data.get(16..).map_or(0, |chunks| largest(chunks, left)),
            _ => 0,
        });
        // Each is filled up to an even length.
        chunks = rest.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    most
}

/// RFC 6386, section 9.1: a tag of three bytes, a start code, and 14 bits for each side.
fn lossy(data: &[u8]) -> u64 {
    let side =
        |at: usize| data.get(at..at + 2).map_or(0, |side| u64::from(u16::from_le_bytes([side[0], side[1]]) & 0x3fff));
    side(6) * side(8)
}

/// RFC 9649, section 3.4: a signature of one byte, and 14 bits for each side less one.
fn lossless(data: &[u8]) -> u64 {
    let bits = data.get(1..5).and_then(|bits| bits.try_into().ok()).map_or(0, u32::from_le_bytes);
    let side = |shift: u32| u64::from((bits >> shift) & 0x3fff) + 1;
    side(0) * side(14)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_le_bytes();
        [name, &length[..], data, &vec![0; data.len() % 2]].concat()
    }

    #[test]
    fn a_frame_that_is_larger_than_its_file_says_is_found() {
        let file = |chunks: &[u8]| [b"RIFF\0\0\0\0WEBP", chunks].concat();
        let lossy = chunk(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 0xff, 0x3f, 0xff, 0x3f, 0]);
        let head = chunk(b"VP8X", &[0; 10]);
        assert_eq!(most_pixels(&file(&[head.clone(), lossy.clone()].concat())), 16_383 * 16_383);
        let frame = chunk(b"ANMF", &[vec![0; 16], lossy].concat());
        assert_eq!(most_pixels(&file(&[head.clone(), frame].concat())), 16_383 * 16_383);
        let lossless = chunk(b"VP8L", &[0x2f, 0x09, 0xc0, 0x04, 0]);
        assert_eq!(most_pixels(&file(&lossless)), 10 * 20);
        assert_eq!(most_pixels(&file(&head)), 0);
        assert_eq!(most_pixels(b"RIFF"), 0);
        assert_eq!(most_pixels(&file(&chunk(b"EXIF", &[]).repeat(MOST_CHUNKS + 1))), u64::MAX);
    }
}
