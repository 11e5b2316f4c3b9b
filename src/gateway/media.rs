//! What a request shows its model beside text: got from where it is, and looked at, before anything is counted.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::media::shown;
use sluicegate_compat::native::{ErrorEnvelope, Image, Modality, Recording, Shown, SoundFormat, TaskRequest, detail};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use crate::admission::{check_shown, violation};
use crate::media::{self, Sound, Unreadable};
use crate::pools::Pool;
use crate::web::{Client, Hosts, Problem, Reach, Url};

/// How images and recordings in messages are dealt with.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// Where addresses in messages may lead that are asked for what is there; `None`: none is asked.
    pub fetch: Option<Reach>,
    /// Those that may have private addresses, and be spoken to without encryption.
    pub hosts: Hosts,
    /// For all that one request refers to.
    pub deadline: Duration,
    /// Of one request.
    pub most_items: usize,
    /// Of one request, in bytes as they are when they are decoded from base64.
    pub most_bytes: usize,
}

/// Addresses that are asked at once.
const MOST_FETCHES: usize = 32;

/// Gets and looks at what requests show.
pub(super) struct Media {
    settings: MediaSettings,
    client: OnceCell<Client>,
    /// One for each address that may be asked at once, over all requests.
    fetches: Semaphore,
}

impl Media {
    pub fn new(settings: MediaSettings) -> Self {
        Self { settings, client: OnceCell::new(), fetches: Semaphore::new(MOST_FETCHES) }
    }

    /// What is at an address.
    async fn fetch(&self, place: &str, address: &str, most: usize) -> Result<Vec<u8>, ErrorEnvelope> {
        let settings = &self.settings;
        let failed = |problem: Problem| {
            let code = match problem {
                Problem::Unreachable(_) => detail::FAILED_TO_DOWNLOAD_IMAGE,
                Problem::Elsewhere(_) => return unfetched(place),
                _ => detail::INVALID_IMAGE_URL,
            };
            refused(place, &problem, code)
        };
        let reach = settings.fetch.ok_or_else(|| unfetched(place))?;
        let url = Url::parse(address).map_err(|error| refused(place, &error, detail::INVALID_IMAGE_URL))?;
        let new = || async { Client::new(settings.hosts.clone(), reach, settings.deadline) };
        let client = self.client.get_or_try_init(new).await.map_err(failed)?;
        // Never closed.
        let _permit = self.fetches.acquire().await.map_err(|_| unfetched(place))?;
        let mut answer = client.get(url, |request| request).await.map_err(failed)?;
        if !answer.status().is_success() {
            let why = format!("the server answers with status {}", answer.status().as_u16());
            return Err(refused(place, &why, detail::FAILED_TO_DOWNLOAD_IMAGE));
        }
        let mut bytes = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if bytes.len() + chunk.len() > most => {
                    return Err(too_much(place, self.settings.most_bytes));
                }
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Ok(bytes),
                Err(_) => {
                    return Err(refused(place, &"the server's answer was cut short", detail::FAILED_TO_DOWNLOAD_IMAGE));
                }
            }
        }
    }

    /// As [`fetch`](Self::fetch), for all that is elsewhere; whether there was any. `images`: place and address.
    async fn fetch_all(&self, images: Vec<(String, &mut String)>, most: Duration) -> Result<bool, ErrorEnvelope> {
        let (any, mut left, until) = (!images.is_empty(), self.settings.most_bytes, Instant::now() + most);
        for (place, address) in images {
            let fetched = timeout_at(until, self.fetch(&place, address, left)).await;
            let bytes = fetched.map_err(|_| {
                let why = format!("it did not come within {} ms", most.as_millis());
                refused(&place, &why, detail::FAILED_TO_DOWNLOAD_IMAGE)
            })??;
            left -= bytes.len();
            let kind = media::check_image(&bytes).map_err(|error| unreadable(&place, &error))?;
            *address = media::to_data_url(kind, &bytes);
        }
        Ok(any)
    }
}

/// Something that is shown, taken out of its request to be looked at.
enum Data {
    Image(String),
    Recording(String, Sound),
}

impl Data {
    fn bytes(&self) -> usize {
        let (Self::Image(text) | Self::Recording(text, _)) = self;
        text.len()
    }

    /// How many bytes it is. An image's URL says afterwards what it is.
    fn check(&mut self) -> Result<usize, Unreadable> {
        match self {
            Self::Image(url) => {
                let bytes = media::from_data_url(url)?;
                let kind = media::check_image(&bytes)?;
                if !media::is_data_url_of(kind, url) {
                    *url = media::to_data_url(kind, &bytes);
                }
                Ok(bytes.len())
            }
            Self::Recording(data, kind) => media::check_recording(data, *kind),
        }
    }
}

impl Gateway {
    /// Looks at what a request shows its model, and puts what is elsewhere into the request; whether there was any such.
    /// Nothing is fetched where none of the pools takes it; where none is loaded, admission says so.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub(super) async fn show(&self, request: &mut TaskRequest, pools: &[Arc<Pool>]) -> Result<bool, ErrorEnvelope> {
        let wanted: Vec<_> = shown(request.messages.as_deref_mut().unwrap_or_default())
            .map(|(place, shown)| (place, shown.modality()))
            .collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        request.check().map_err(violation)?;
        let taken: Vec<_> = pools.iter().filter_map(|pool| Some(pool.info()?.modalities)).collect();
        let takes = |taken: &Vec<Modality>| wanted.iter().all(|(_, wanted)| taken.contains(wanted));
        if !pools.is_empty() && !taken.iter().any(takes) {
            let shown = request.messages.as_deref().unwrap_or_default();
            return taken.first().map_or(Ok(()), |taken| check_shown(shown, taken)).map(|()| false);
        }
        if let Some((beyond, _)) = wanted.get(self.media.settings.most_items) {
            let why = format!("a request shows {} images and recordings at most", self.media.settings.most_items);
            return Err(refused(beyond, &why, detail::INVALID_VALUE));
        }
        let within = request
            .deadline_ms
            .map_or(self.media.settings.deadline, |ms| self.media.settings.deadline.min(Duration::from_millis(ms)));
        let messages = request.messages.as_deref_mut().unwrap_or_default();
        let elsewhere = shown(messages).filter_map(|(place, shown)| match shown {
            Shown::Image(Image { url, .. }) if !is_data(url) => Some((place, url)),
            _ => None,
        });
        let fetched = self.media.fetch_all(elsewhere.collect(), within).await?;
        self.look_at(request).await?;
        Ok(fetched)
    }

    /// Whether what the request holds is what it is said to be. Off the reactor where it is much.
    async fn look_at(&self, request: &mut TaskRequest) -> Result<(), ErrorEnvelope> {
        let messages = request.messages.as_deref_mut().unwrap_or_default();
        let taken = shown(messages).map(|(place, shown)| match shown {
            Shown::Image(Image { url, .. }) => (place, Data::Image(std::mem::take(url))),
            Shown::Recording(Recording { data, format, .. }) => {
                let kind = match format {
                    SoundFormat::Wav => Sound::Wav,
                    SoundFormat::Mp3 => Sound::Mp3,
                };
                (place, Data::Recording(std::mem::take(data), kind))
            }
        });
        let mut taken: Vec<_> = taken.collect();
        let bytes = taken.iter().map(|(_, data)| data.bytes()).sum();
        let most = self.media.settings.most_bytes;
        let look = move || {
            let mut left = most;
            for (place, data) in &mut taken {
                let bytes = data.check().map_err(|error| match data {
                    Data::Image(_) => unreadable(place, &error),
                    Data::Recording(..) => refused(place, &error, detail::INVALID_VALUE),
                })?;
                left = left.checked_sub(bytes).ok_or_else(|| too_much(place, most))?;
            }
            Ok(taken)
        };
        let taken: Result<Vec<_>, ErrorEnvelope> = self.lifecycle.sized("media", bytes, look).await?;
        let taken = taken?;
        let messages = request.messages.as_deref_mut().unwrap_or_default();
        for ((_, shown), (_, data)) in shown(messages).zip(taken) {
            match (shown, data) {
                (Shown::Image(image), Data::Image(url)) => image.url = url,
                (Shown::Recording(recording), Data::Recording(data, _)) => recording.data = data,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_data(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

fn too_much(place: &str, most: usize) -> ErrorEnvelope {
    let why = format!("the images and recordings of a request have {most} bytes at most");
    refused(place, &why, detail::IMAGE_FILE_TOO_LARGE)
}

fn unfetched(place: &str) -> ErrorEnvelope {
    let message = format!(
        "Unsupported value: '{place}': images are not fetched from there; send the image itself, as a data: URL."
    );
    ErrorEnvelope::invalid(place, message).with_detail(detail::UNSUPPORTED_VALUE)
}

fn unreadable(place: &str, error: &Unreadable) -> ErrorEnvelope {
    let code = match error {
        Unreadable::NoData => detail::INVALID_IMAGE_URL,
        Unreadable::NoBase64 => detail::INVALID_BASE64_IMAGE,
        Unreadable::Empty => detail::EMPTY_IMAGE_FILE,
        Unreadable::UnknownImage => detail::UNSUPPORTED_IMAGE_MEDIA_TYPE,
        Unreadable::Damaged => detail::IMAGE_PARSE_ERROR,
        Unreadable::TooManyPixels(_) => detail::IMAGE_TOO_LARGE,
        Unreadable::OtherSound => detail::INVALID_VALUE,
    };
    refused(place, error, code)
}

fn refused(place: &str, why: &dyn std::fmt::Display, code: &'static str) -> ErrorEnvelope {
    ErrorEnvelope::invalid(place, format!("Invalid value for '{place}': {why}.")).with_detail(code)
}
