//! Images and recordings in requests: out of their text, and known by their bytes, whatever is said of them.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use data_url::DataUrl;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};

mod webp;

/// Pixels of an image at most.
pub const MOST_PIXELS: u64 = 1 << 25;

/// Bytes that decoding an image may take: some have eight for each pixel.
const MOST_DECODED: u64 = 8 * MOST_PIXELS;

/// Why something cannot be shown to a model; the message is meant for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the data: URL is malformed; it is data:, a type such as image/png, ;base64, and the bytes in base64")]
    NoData,
    #[error("the data is no base64")]
    NoBase64,
    #[error("there is nothing in it")]
    Empty,
    #[error("images are PNG, JPEG, WebP or GIF")]
    UnknownImage,
    #[error("the image is damaged")]
    Damaged,
    #[error("the image has {0} pixels, and {MOST_PIXELS} are the most")]
    TooManyPixels(u64),
    #[error("this is no recording of the format that is named; it is WAV or MP3")]
    OtherSound,
}

/// The bytes in a `data:` URL.
///
/// # Errors
///
/// [`Unreadable::NoData`] or [`Unreadable::NoBase64`].
pub fn from_data_url(url: &str) -> Result<Vec<u8>, Unreadable> {
    let url = DataUrl::process(url).map_err(|_| Unreadable::NoData)?;
    let (bytes, _fragment) = url.decode_to_vec().map_err(|_| Unreadable::NoBase64)?;
    Ok(bytes)
}

/// A `data:` URL of an image that was [checked](check_image).
pub fn to_data_url(kind: ImageFormat, bytes: &[u8]) -> String {
    format!("data:{};base64,{}", kind.to_mime_type(), BASE64_STANDARD.encode(bytes))
}

/// Whether a `data:` URL says this kind, and has its bytes in base64.
pub fn is_data_url_of(kind: ImageFormat, url: &str) -> bool {
    let data = url.strip_prefix("data:").and_then(|rest| rest.strip_prefix(kind.to_mime_type()));
    data.is_some_and(|data| data.starts_with(";base64,") && !data.contains('#'))
}

/// What kind of image it is, where its head says that it can be decoded.
///
/// # Errors
///
/// [`Unreadable`].
pub fn check_image(bytes: &[u8]) -> Result<ImageFormat, Unreadable> {
    if bytes.is_empty() {
        return Err(Unreadable::Empty);
    }
    let reader = reader(bytes)?;
    let kind = reader.format().ok_or(Unreadable::UnknownImage)?;
    let (width, height) = reader.into_dimensions().map_err(|_| Unreadable::Damaged)?;
    let mut pixels = u64::from(width) * u64::from(height);
    if kind == ImageFormat::WebP {
        // Its frames say a size of their own, which is decoded before it is held against this one.
        pixels = pixels.max(webp::most_pixels(bytes));
    }
    if pixels > MOST_PIXELS {
        return Err(Unreadable::TooManyPixels(pixels));
    }
    Ok(kind)
}

/// The pixels of an image, turned as it says; of an animation the first picture.
///
/// # Errors
///
/// [`Unreadable`].
pub fn decode_image(bytes: &[u8]) -> Result<DynamicImage, Unreadable> {
    check_image(bytes)?;
    let mut reader = reader(bytes)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_DECODED);
    reader.limits(limits);
    let decode = || {
        let mut decoder = reader.into_decoder()?;
        let turned = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(turned);
        Ok::<_, image::ImageError>(image)
    };
    // Decoders have been known to run past the end of what is damaged.
    let decoded = catch_unwind(AssertUnwindSafe(decode)).map_err(|_| Unreadable::Damaged)?;
    decoded.map_err(|_| Unreadable::Damaged)
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, Unreadable> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| Unreadable::Damaged)?;
    let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif];
    match reader.format() {
        Some(kind) if known.contains(&kind) => Ok(reader),
        _ => Err(Unreadable::UnknownImage),
    }
}

/// How recordings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    Wav,
    Mp3,
}

/// How many bytes a recording in base64 has.
///
/// # Errors
///
/// [`Unreadable`] where it is no recording of this kind.
pub fn check_recording(data: &str, kind: Sound) -> Result<usize, Unreadable> {
    let bytes = BASE64_STANDARD.decode(data).map_err(|_| Unreadable::NoBase64)?;
    let is = match kind {
        _ if bytes.is_empty() => return Err(Unreadable::Empty),
        Sound::Wav => infer::audio::is_wav(&bytes),
        Sound::Mp3 => infer::audio::is_mp3(&bytes),
    };
    if is { Ok(bytes.len()) } else { Err(Unreadable::OtherSound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::new_rgb8(width, height).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn an_image_is_what_its_bytes_say() {
        let image = png(3, 2);
        assert_eq!(check_image(&image), Ok(ImageFormat::Png));
        let url = to_data_url(ImageFormat::Png, &image);
        assert_eq!(from_data_url(&url).unwrap(), image);
        assert_eq!(from_data_url(&url.replace("image/png", "image/jpeg")).unwrap(), image);
        assert_eq!(decode_image(&image).unwrap().width(), 3);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(check_image(b""), Err(Unreadable::Empty));
        assert_eq!(check_image(b"<svg/>"), Err(Unreadable::UnknownImage));
        // A bitmap: decoders for more kinds are in the program than are served.
        assert_eq!(check_image(b"BM\x1e\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0"), Err(Unreadable::UnknownImage));
        let image = png(64, 64);
        assert_eq!(check_image(&image[..20]), Err(Unreadable::Damaged));
        assert!(check_image(&image[..image.len() / 2]).is_ok(), "its head is there");
        assert_eq!(decode_image(&image[..image.len() / 2]), Err(Unreadable::Damaged));
        assert_eq!(from_data_url("data:image/png;base64,%%%"), Err(Unreadable::NoBase64));
        assert_eq!(from_data_url("https://host/x.png"), Err(Unreadable::NoData));
    }

    #[test]
    fn an_image_that_would_fill_the_memory_is_refused_by_its_head() {
        let mut image = png(1, 1);
        // Width and height stand after the signature, and the length and the name of the first chunk.
        image[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        image[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
        let sum = crc32(&image[12..29]);
        image[29..33].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(check_image(&image), Err(Unreadable::TooManyPixels(10_000_000_000)));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |sum: u32, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 })
        })
    }

    #[test]
    fn a_recording_is_of_the_format_that_is_named() {
        let wav = BASE64_STANDARD.encode(b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0");
        assert_eq!(check_recording(&wav, Sound::Wav), Ok(20));
        assert_eq!(check_recording(&wav, Sound::Mp3), Err(Unreadable::OtherSound));
        assert_eq!(check_recording(&BASE64_STANDARD.encode(b"ID3\x04\0\0"), Sound::Mp3), Ok(6));
        assert_eq!(check_recording("", Sound::Wav), Err(Unreadable::Empty));
        assert_eq!(check_recording("~", Sound::Wav), Err(Unreadable::NoBase64));
    }
}
