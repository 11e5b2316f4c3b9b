//! The catalog: adding, listing, verifying, retiring and removing models.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{
    CreateModel, ErrorCode, ErrorEnvelope, ModelFileView, ModelList, ModelState, ModelStateRequest, ModelView,
    VerificationView, detail,
};

use super::{Gateway, modalities_of, workloads_of};
use crate::audit::Act;
use crate::catalog::live::Verification;
use crate::catalog::verify::{Check, Fetching, Finding, Run, differ};
use crate::catalog::{Entry, Mistake, Model, ModelFiles, PrepareError, Refusal, Unusable, draft, prepare};
use crate::lifecycle::OnPanic;

impl Gateway {
    /// Every model of the catalog.
    pub fn catalog(&self) -> ModelList {
        ModelList { models: self.catalog.models().iter().map(|model| self.model_view(model)).collect() }
    }

    /// One model, by its id or another of its names.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn catalog_model(&self, id: &str) -> Result<ModelView, ErrorEnvelope> {
        Ok(self.model_view(&self.named(id)?))
    }

    /// The model of this id, or the one that it is another name of.
    pub(super) fn named(&self, name: &str) -> Result<Model, ErrorEnvelope> {
        self.catalog.get(name).or_else(|unknown| self.catalog.resolve(name).map_err(|_| unknown)).map_err(refused)
    }

    /// Adds a model. Nothing is fetched or read by this.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the field; CONFLICT where a name is taken or the catalog is full.
    pub async fn add_model(&self, request: CreateModel, act: &Arc<Act>) -> Result<ModelView, ErrorEnvelope> {
        let CreateModel { id, source, aliases, digest, quantization, price } = request;
        let entry = draft(id, &source, aliases, digest.as_deref(), price.unwrap_or_default()).map_err(mistaken)?;
        let entry = Entry { quantization, ..entry };
        let (policy, source) = (self.catalog.policy().clone(), entry.source.clone());
        let checked = self.lifecycle.blocking("check a source", move || policy.check_source(&source)).await;
        checked.map_err(|panicked| ErrorEnvelope::new(ErrorCode::Internal, panicked.to_string()))?.map_err(mistaken)?;
        let id = entry.id.clone();
        self.make_way(&entry).await?;
        self.catalog.add(entry).map_err(refused)?;
        self.keep_model_in(&self.store.acting(act), &id).await?;
        self.catalog_model(&id)
    }

    /// Takes a model out of the catalog.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; CONFLICT where it comes from the configuration, or a pool serves it or is getting it.
    pub async fn remove_model(&self, id: &str, act: &Arc<Act>) -> Result<(), ErrorEnvelope> {
        let Model { entry, facts } = self.named(id)?;
        let (id, configured) = (entry.id.as_str(), facts.configured);
        let needed = || self.pools.iter().find(|pool| pool.needs_model(id));
        if !configured && let Some(pool) = needed() {
            let message = format!(
                "the pool {:?} serves the model {id:?}; reload the pool with another one first",
                pool.id().as_str()
            );
            return Err(ErrorEnvelope::new(ErrorCode::Conflict, message).with_pool(pool.id().as_str()));
        }
        self.catalog.remove(id).map_err(refused)?;
        self.keep_model_in(&self.store.acting(act), id).await
    }

    /// Retires a model or brings it back. At the deadline of a retirement what is left of its tasks is ended.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub async fn set_model_state(
        self: &Arc<Self>,
        id: &str,
        request: ModelStateRequest,
        act: &Arc<Act>,
    ) -> Result<ModelView, ErrorEnvelope> {
        let id = self.named(id)?.entry.id;
        let id = id.as_str();
        let change = self.catalog.set_state(id, request.state).map_err(refused)?;
        if let (ModelState::Retired, Some(deadline_ms)) = (request.state, request.deadline_ms) {
            let (gateway, id) = (Arc::clone(self), id.to_owned());
            self.lifecycle.spawn("retirement", OnPanic::Continue, async move {
                let deadline = tokio::time::sleep(Duration::from_millis(deadline_ms));
                let came = gateway.lifecycle.forced().run_until_cancelled(deadline).await.is_some();
                if came && gateway.catalog.get(&id).is_ok_and(|model| model.facts.changes == change) {
                    gateway.end_tasks_of(&id, unusable(Unusable::Retired(id.clone())));
                }
            });
        }
        self.keep_model_in(&self.store.acting(act), id).await?;
        self.catalog_model(id)
    }

    /// Verifies a model's files in the background, or attaches to the verification that is under way. `fetch`: where there are
    /// none yet, they are fetched first.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn verify_model(self: &Arc<Self>, id: &str, fetch: bool) -> Result<ModelView, ErrorEnvelope> {
        let id = self.named(id)?.entry.id;
        let id = id.as_str();
        let stop = self.lifecycle.forced().child_token();
        if let Some((model, run)) = self.catalog.begin_verification(id, stop).map_err(refused)? {
            let gateway = Arc::clone(self);
            self.lifecycle.spawn("verify", OnPanic::Continue, async move {
                gateway.verify(&model, &run, fetch).await;
            });
        }
        self.catalog_model(id)
    }

    async fn verify(&self, model: &Model, run: &Arc<Run>, fetch: bool) {
        let mut finding = match Check::of(&model.entry, &model.facts.files, &self.storage.data_dir).await {
            None => Finding::Absent,
            Some(check) => {
                let run = Arc::clone(run);
                let checked = self.lifecycle.blocking("verify a model", move || check.run(&run)).await;
                checked.unwrap_or_else(|panicked| Finding::Unreadable(panicked.to_string()))
            }
        };
        if fetch && finding == Finding::Absent {
            finding = self.fetch(model, run).await;
        }
        let id = &model.entry.id;
        match finding.words() {
            None => tracing::info!(model = id, "verified"),
            Some(why) => tracing::warn!(model = id, why, "the verification did not pass"),
        }
        let pools = self.pools_of(id);
        let engine = pools.first().map_or("none", |pool| pool.spec().engine.as_str());
        if self.catalog.end_verification(id, run, finding, engine)
            && let Err(error) = self.usable(id)
        {
            self.end_tasks_of(id, error);
        }
        // Where that fails the log says so.
        let _ = self.keep_model(id).await;
    }

    /// Fetches the files of a model, and checks them as they come.
    async fn fetch(&self, model: &Model, run: &Arc<Run>) -> Finding {
        let progress = Arc::new(Fetching(Arc::clone(run)));
        let fetched = prepare(&model.entry, &self.storage, progress, &self.lifecycle);
        match run.stop.run_until_cancelled(fetched).await {
            None => Finding::Canceled,
            Some(Err(PrepareError::Digest { pinned, found, .. })) => Finding::Digest { pinned, found },
            Some(Err(error)) => Finding::NotFetched(error.to_string()),
            Some(Ok(ModelFiles { files, digest, .. })) => {
                differ(&model.facts.files, &files).unwrap_or(Finding::Passed { files, digest })
            }
        }
    }

    /// The model that a reference means, where it is served to new requests.
    ///
    /// # Errors
    ///
    /// NOT_FOUND, MODEL_DEPRECATED or UNTRUSTED_ARTIFACT; INVALID_PARAMS for a path outside of the allowed roots.
    pub(super) fn usable(&self, reference: &str) -> Result<Model, ErrorEnvelope> {
        let policy = self.catalog.policy();
        let model = self.catalog.resolve(reference).map_err(|unknown| {
            match reference.strip_prefix("file:").map(std::path::Path::new) {
                Some(path) if path.is_absolute() && !policy.roots.name(path) => {
                    ErrorEnvelope::invalid("model_ref", "the path is in no folder of catalog.allowed_file_roots")
                }
                _ => ErrorEnvelope { message: unknown.to_string(), ..super::no_such_model(reference) },
            }
        })?;
        model.usable(policy).map_err(unusable)?;
        Ok(model)
    }

    /// Ends what waits and runs in the pools of a model.
    fn end_tasks_of(&self, id: &str, error: ErrorEnvelope) {
        let pools = self.pools_of(id);
        for task in self.registry.live() {
            let at = task.pool_id();
            // One that waits for its model has only the name of a pool.
            if !task.is_preparing() && pools.iter().any(|pool| *pool.id() == at) {
                task.fail(error.clone().with_pool(at.as_str()));
            }
        }
    }

    fn model_view(&self, model: &Model) -> ModelView {
        let Model { entry, facts } = model;
        let pools = self.pools_of(&entry.id);
        ModelView {
            id: entry.id.clone(),
            aliases: entry.aliases.clone(),
            source: entry.source.shown(),
            digest: entry.digest.clone().or_else(|| facts.digest.clone()),
            quantization: entry.quantization,
            price: model.price(),
            state: facts.state,
            trust: facts.trust,
            configured: facts.configured,
            files: facts.files.iter().map(file_view).collect(),
            verification: verification_view(&facts.verification),
            created_at_ms: facts.created_at_ms,
            updated_at_ms: facts.updated_at_ms,
            workloads: workloads_of(&pools),
            modalities: modalities_of(&pools),
            pools: pools.iter().map(|pool| pool.id().to_string()).collect(),
        }
    }
}

fn file_view(file: &crate::catalog::FileDigest) -> ModelFileView {
    let sha256 = file.sha256.strip_prefix("sha256:").unwrap_or(&file.sha256).to_owned();
    ModelFileView { name: file.name.clone(), bytes: file.size, sha256 }
}

fn verification_view(verification: &Verification) -> VerificationView {
    let of = |state, run: &Run| {
        let (bytes_done, bytes_total) = run.bytes();
        let started_at_ms = Some(run.started_at_ms);
        VerificationView { state, started_at_ms, bytes_done, bytes_total, ..VerificationView::default() }
    };
    match verification {
        Verification::Never => VerificationView { state: "never", ..VerificationView::default() },
        Verification::Running(run) => of("running", run),
        Verification::Ended { run, ended_at_ms, finding } => VerificationView {
            ended_at_ms: Some(*ended_at_ms),
            outcome: Some(finding.result()),
            reason: finding.words(),
            ..of("ended", run)
        },
    }
}

fn mistaken(mistake: Mistake) -> ErrorEnvelope {
    ErrorEnvelope::invalid(mistake.field, mistake.why)
}

pub(super) fn refused(refusal: Refusal) -> ErrorEnvelope {
    let message = refusal.to_string();
    match refusal {
        Refusal::Unknown(_) => ErrorEnvelope::new(ErrorCode::NotFound, message).with_detail(detail::MODEL_NOT_FOUND),
        Refusal::Taken(_) | Refusal::Configured(_) | Refusal::Full => ErrorEnvelope::new(ErrorCode::Conflict, message),
    }
}

fn unusable(reason: Unusable) -> ErrorEnvelope {
    let code = match &reason {
        Unusable::Retired(_) => ErrorCode::ModelDeprecated,
        Unusable::Failed { .. } | Unusable::Unverified(_) => ErrorCode::UntrustedArtifact,
    };
    ErrorEnvelope { param: Some("model_ref".into()), ..ErrorEnvelope::new(code, reason.to_string()) }
}
