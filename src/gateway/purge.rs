//! Taking models out of memory and off the disk.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PoolView, PurgeRequest};

use super::Gateway;
use super::operate::pool_view;
use crate::admission::shutting_down;
use crate::catalog::{Entry, cache_folder, delete_cache};
use crate::ids::ModelId;
use crate::lifecycle::OnPanic;
use crate::pools::{Pool, Purging, Tasks};

impl Gateway {
    /// Purges models: the pool's own is taken out of memory once it has no tasks, what is recorded of each is forgotten, and
    /// its downloaded files are deleted where that is asked for. Goes on in the background.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for the pool or a model; CONFLICT where another pool needs the files, the pool has tasks and nothing says
    /// what becomes of them, or a reload or purge is under way; POOL_UNREADY while the gateway shuts down.
    pub fn purge(self: &Arc<Self>, id: &str, request: &PurgeRequest) -> Result<PoolView, ErrorEnvelope> {
        let pool = self.pool_named(id)?;
        let entries = match &request.purge_models {
            None => vec![self.entry(pool.model().as_str(), "purge_models")?],
            Some(references) => self.entries(references)?,
        };
        if self.lifecycle.draining().is_cancelled() {
            return Err(shutting_down());
        }
        let own = pool.model();
        let tasks = entries.iter().any(|entry| entry.id == own.as_str()).then_some(match request {
            PurgeRequest { force: true, .. } => Tasks::Cancel,
            PurgeRequest { drain_first: true, .. } => Tasks::Drain,
            _ => Tasks::Refuse,
        });
        if request.delete_cache_dirs {
            self.check_unneeded(&entries, tasks.map(|_| pool))?;
        }
        let models = entries.iter().map(|entry| ModelId::from(entry.id.as_str())).collect();
        let purging = pool.begin_purge(models, tasks);
        let purging = purging.map_err(|busy| ErrorEnvelope::new(ErrorCode::Conflict, busy.to_string()))?;
        if tasks.is_some() && (request.drain_first || request.force) {
            self.hand_on(pool);
        }
        let (gateway, purged, delete) = (Arc::clone(self), Arc::clone(pool), request.delete_cache_dirs);
        self.lifecycle.spawn("purge", OnPanic::Continue, async move {
            let outcome = gateway.carry_out(&purged, &purging, tasks, &entries, delete).await;
            purging.end(outcome);
        });
        Ok(pool_view(pool))
    }

    async fn carry_out(
        &self,
        pool: &Pool,
        purging: &Purging,
        tasks: Option<Tasks>,
        entries: &[Entry],
        delete: bool,
    ) -> Result<(), String> {
        if let Some(tasks) = tasks {
            purging.unload(tasks).await?;
            // It would be the first thing that the next process loads.
            self.keep_pool_model(pool, pool.configured_model()).await;
        }
        for entry in entries {
            // What another pool has in memory stays comparable with its files.
            if self.pools.iter().any(|pool| pool.needs_model(&entry.id)) {
                continue;
            }
            if let Some(folder) = cache_folder(&entry.source, &self.storage.data_dir).filter(|_| delete) {
                let what = folder.display().to_string();
                let deleted = self.lifecycle.blocking("delete a model", move || delete_cache(&folder)).await;
                let deleted = deleted.map_err(|panicked| panicked.to_string())?;
                purging.freed(deleted.map_err(|error| format!("{what}: {error}"))?);
            }
            self.catalog.forget(&entry.id);
        }
        Ok(())
    }

    fn entries(&self, references: &[String]) -> Result<Vec<Entry>, ErrorEnvelope> {
        let named = references.iter().enumerate();
        named.map(|(at, reference)| self.entry(reference, &format!("purge_models[{at}]"))).collect()
    }

    /// The entry that a reference means, served or not.
    fn entry(&self, reference: &str, param: &str) -> Result<Entry, ErrorEnvelope> {
        let found = self.catalog.resolve(reference).map(|model| model.entry);
        found.map_err(|unknown| {
            let error = super::no_such_model(reference);
            ErrorEnvelope { message: unknown.to_string(), param: Some(param.to_owned()), ..error }
        })
    }

    /// Whether the files of these entries are no other pool's: neither its model's, nor in the same folder.
    fn check_unneeded(&self, entries: &[Entry], unloaded: Option<&Arc<Pool>>) -> Result<(), ErrorEnvelope> {
        let others = self.pools.iter().filter(|pool| unloaded.is_none_or(|unloaded| !Arc::ptr_eq(pool, unloaded)));
        let folder = |entry: &Entry| cache_folder(&entry.source, &self.storage.data_dir);
        let kept: Vec<_> = self.catalog.models().into_iter().map(|model| model.entry).collect();
        for pool in others {
            let needed: Vec<_> = kept.iter().filter(|entry| pool.needs_model(&entry.id)).filter_map(folder).collect();
            let taken = entries.iter().find(|entry| folder(entry).is_some_and(|folder| needed.contains(&folder)));
            if let Some(entry) = taken {
                let message = format!("the files of {:?} are needed by the pool {:?}", entry.id, pool.id().as_str());
                return Err(ErrorEnvelope::new(ErrorCode::Conflict, message).with_pool(pool.id().as_str()));
            }
        }
        Ok(())
    }
}
