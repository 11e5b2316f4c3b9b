//! Models that tasks bring: a reference says where one is, and the catalog has no entry of it.
//!
//! Each gets an entry, which outlives the process as others do. There are few, none is large, and where one more comes the
//! one goes, with what was downloaded of it, that was asked for longest ago and that no pool has.

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel};
use tokio::time::Instant;

use super::{Gateway, RETRY_AFTER_MS, untrusted};
use crate::catalog::{BadSource, Entry, ModelRef, ModelSource, Refusal, cache_folder, delete_cache, hex};

impl Gateway {
    /// The entry that a reference would get; `None` where it says of no place, or no such models are taken.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS for a place that is not allowed; UNTRUSTED_ARTIFACT under strict trust.
    pub(super) async fn guest(&self, reference: &str) -> Result<Option<Entry>, ErrorEnvelope> {
        let settings = &self.provision.settings;
        let Ok(parsed) = reference.parse::<ModelRef>() else { return Ok(None) };
        if settings.most_guests == 0 || settings.targets.is_empty() || matches!(parsed, ModelRef::Name(_)) {
            return Ok(None);
        }
        let source = match ModelSource::from_reference(&parsed) {
            Ok(source) => source,
            // It says which model, and another name may be known.
            Err(BadSource::Digest) => return Ok(None),
            Err(bad) => return Err(ErrorEnvelope::invalid("model_ref", bad.to_string())),
        };
        let (policy, place) = (self.catalog.policy().clone(), source.clone());
        if policy.strict {
            return Err(untrusted(
                "with catalog.trust = \"strict\" only models of the catalog are prepared".to_owned(),
            ));
        }
        let checked = self.lifecycle.blocking("check a source", move || policy.check_source(&place)).await;
        checked
            .map_err(|panicked| ErrorEnvelope::new(ErrorCode::Internal, panicked.to_string()))?
            .map_err(|mistake| ErrorEnvelope::invalid("model_ref", mistake.why))?;
        Ok(Some(Entry { guest: true, ..Entry::new(guest_id(&source), source) }))
    }

    /// Puts the entry of a guest into the catalog, where it is not there, and makes room for it.
    ///
    /// # Errors
    ///
    /// ADMISSION_REJECT where every other guest is needed; INTERNAL where the store fails.
    pub(super) async fn take_in_guest(&self, entry: &Entry) -> Result<(), ErrorEnvelope> {
        if !entry.guest {
            return Ok(());
        }
        let _one_at_a_time = self.provision.guests.lock().await;
        match self.catalog.get(&entry.id) {
            Ok(known) if known.entry.source == entry.source => {}
            Ok(_) => return Err(taken(Refusal::Taken(entry.id.clone()))),
            Err(_) => self.add_guest(entry).await?,
        }
        let used = &mut self.provision.lock().used;
        used.insert(entry.id.clone(), Instant::now());
        // An operator may have taken some out.
        used.retain(|id, _| self.catalog.get(id).is_ok());
        Ok(())
    }

    async fn add_guest(&self, entry: &Entry) -> Result<(), ErrorEnvelope> {
        let guests: Vec<_> = self.catalog.models().into_iter().filter(|model| model.entry.guest).collect();
        if guests.len() >= self.provision.settings.most_guests {
            let idle = guests.into_iter().map(|model| model.entry).filter(|entry| self.is_idle(entry));
            let oldest = idle.min_by_key(|entry| self.provision.lock().used.get(&entry.id).copied());
            self.remove_guest(oldest.ok_or_else(no_room)?).await?;
        }
        match self.catalog.add(entry.clone()) {
            Ok(()) => self.keep_model(&entry.id).await,
            Err(Refusal::Full) => Err(no_room()),
            Err(refusal) => Err(taken(refusal)),
        }
    }

    /// Whether no task waits for a guest, and no pool has it.
    fn is_idle(&self, guest: &Entry) -> bool {
        let wanted = self.provision.lock().is_wanted(&guest.id);
        !wanted && !self.pools.iter().any(|pool| pool.needs_model(&guest.id))
    }

    /// Takes guests out that have names which an operator gives to another model, where nobody needs them.
    ///
    /// # Errors
    ///
    /// INTERNAL where the store fails.
    pub(in super::super) async fn make_way(&self, entry: &Entry) -> Result<(), ErrorEnvelope> {
        let _one_at_a_time = self.provision.guests.lock().await;
        for name in std::iter::once(&entry.id).chain(&entry.aliases) {
            if let Ok(model) = self.catalog.get(name)
                && model.entry.guest
                && self.is_idle(&model.entry)
            {
                self.remove_guest(model.entry).await?;
            }
        }
        Ok(())
    }

    async fn remove_guest(&self, entry: Entry) -> Result<(), ErrorEnvelope> {
        let Entry { id, source, .. } = entry;
        self.provision.lock().used.remove(&id);
        if self.catalog.remove(&id).is_err() {
            // Somebody else has, just now.
            return Ok(());
        }
        self.keep_model(&id).await?;
        tracing::info!(model = id, "a model that a task had brought goes for another one");
        let folder = |source: &ModelSource| cache_folder(source, &self.storage.data_dir);
        let Some(own) = folder(&source) else { return Ok(()) };
        if self.catalog.models().iter().any(|model| folder(&model.entry.source).as_ref() == Some(&own)) {
            return Ok(());
        }
        match self.lifecycle.blocking("delete a model", move || delete_cache(&own)).await {
            Ok(Ok(_bytes)) => {}
            Ok(Err(error)) => tracing::warn!(model = id, %error, "the files of a model cannot be deleted"),
            Err(panicked) => tracing::warn!(model = id, %panicked, "the files of a model cannot be deleted"),
        }
        Ok(())
    }
}

/// The end of the source, for people, and a digest of it: a name that nobody means another model by.
fn guest_id(source: &ModelSource) -> String {
    let end: String = source.default_id().chars().take(100).collect();
    format!("{end}-{}", hex(&Sha256::digest(source.to_string())[..8]))
}

fn taken(refusal: Refusal) -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::Conflict, refusal.to_string())
}

fn no_room() -> ErrorEnvelope {
    let message = "as many models as may be brought by tasks are in use; try again later";
    ErrorEnvelope::rejected(PolicyLabel::QueueReject, message).with_retry_after_ms(RETRY_AFTER_MS)
}
