//! HTTP: the router and its layers, and one module per dialect. Nothing below knows HTTP, and nothing here decides.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use crate::gateway::Gateway;
use crate::tenants::Tenants;

mod access;
mod admin;
mod answer;
mod anthropic;
mod artifacts;
mod audit;
mod auth;
mod body;
mod budget;
mod catalog;
mod client;
mod correlation;
mod cors;
mod errors;
mod local;
mod meta;
mod metrics;
mod native;
mod openai;
mod path;
mod pools;
mod prefix;
mod prices;
mod rates;
mod sessions;
mod sse;
mod tasks;
mod throttle;
mod usage;
mod workers;

pub use client::{ClientAddress, Forwarding, Proxies};
pub use cors::{Cors, Origins};
pub use metrics::HttpMetrics;
pub use throttle::{FailedLogins, RefusalRate, RefusedActions};

/// What the handlers share. Cloned for each layer of each request.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

/// The parts of [`Api`].
pub struct Shared {
    pub gateway: Arc<Gateway>,
    pub tenants: Arc<Tenants>,
    pub http_metrics: HttpMetrics,
    pub proxies: Proxies,
    /// `None`: refused keys are not limited.
    pub failed_logins: Option<Arc<FailedLogins>>,
    pub refused_actions: Arc<RefusedActions>,
    /// Pages of other origins that may read answers; `None`: none.
    pub cors: Option<Cors>,
    pub settings: Settings,
}

impl From<Shared> for Api {
    fn from(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What the configuration says about HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Compress whole answers (never streams) where the client accepts it.
    pub compression: bool,
    pub max_body_bytes: usize,
    /// How long a body may be silent, and how much longer it may take than its size explains.
    pub body_timeout: Duration,
    /// Refuse a request with a field that has no effect, in the dialects but the native one.
    pub refuse_unknown: bool,
    /// Nobody on another machine can reach the gateway.
    pub loopback: bool,
    /// Metrics are for everybody.
    pub metrics_open: bool,
    /// The log has the addresses of clients.
    pub log_clients: bool,
}

/// Every route, and the layers around them from the outside in.
pub fn router(api: Api) -> Router {
    let Settings { compression, max_body_bytes, .. } = api.settings;
    let routes = Router::new()
        .route("/v2/tasks", post(native::submit).get(native::list))
        .route("/v2/tasks/preview", post(native::preview))
        .route("/v2/tasks/{id}", get(native::view))
        .route("/v2/tasks/{id}/events", get(native::events))
        .route("/v2/tasks/{id}/cancel", post(native::cancel))
        .route("/v2/pools", get(pools::list))
        .route("/v2/pools/{id}/health", get(pools::health))
        .route("/v2/pools/{id}/drain", post(pools::drain))
        .route("/v2/pools/{id}/resume", post(pools::resume))
        .route("/v2/pools/{id}/reload", post(pools::reload))
        .route("/v2/pools/{id}/purge", post(pools::purge))
        .route("/v2/sessions/{id}", get(sessions::view).post(sessions::change).delete(sessions::evict))
        .route("/v2/workers/register", post(workers::register))
        .route("/v2/catalog/models", get(catalog::list).post(catalog::create))
        .route("/v2/catalog/models/{id}", get(catalog::view).delete(catalog::remove))
        .route("/v2/catalog/models/{id}/verify", post(catalog::verify))
        .route("/v2/catalog/models/{id}/state", post(catalog::set_state))
        .route("/v2/artifacts", post(artifacts::create))
        .route("/v2/artifacts/{id}", get(artifacts::view))
        .route("/v2/admin/tenants", get(admin::tenants).post(admin::create_tenant))
        .route("/v2/admin/tenants/{id}", get(admin::tenant).patch(admin::change_tenant).delete(admin::delete_tenant))
        .route("/v2/admin/keys", get(admin::keys).post(admin::create_key))
        .route("/v2/admin/keys/{id}", get(admin::key).patch(admin::change_key).delete(admin::revoke_key))
        .route("/v2/admin/keys/{id}/rotate", post(admin::rotate_key))
        .route("/v2/admin/prices", get(prices::list))
        .route("/v2/admin/prices/{model}", get(prices::view).put(prices::set).delete(prices::reset))
        .route("/v2/admin/tasks", get(tasks::list))
        .route("/v2/admin/tasks/{id}/cancel", post(tasks::cancel))
        .route("/v2/admin/audit", get(audit::list))
        .route("/v2/usage", get(usage::usage))
        .route("/v2/meta/version", get(meta::version))
        .route("/v2/meta/capabilities", get(meta::capabilities))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/responses/input_tokens", post(openai::responses::input_tokens))
        .route("/v1/responses/{id}", get(openai::responses::view).delete(openai::responses::delete))
        .route("/v1/responses/{id}/cancel", post(openai::responses::cancel))
        .route("/v1/responses/{id}/input_items", get(openai::responses::input_items))
        .route("/v1/embeddings", post(openai::inputs::embeddings))
        .route("/v1/rerank", post(openai::inputs::rerank))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/tokenize", post(openai::tokens::tokenize))
        .route("/v1/detokenize", post(openai::tokens::detokenize))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{*id}", get(openai::model))
        .route("/healthz", get(meta::healthz))
        .route("/readyz", get(meta::readyz))
        .route("/metrics", get(meta::metrics))
        .route("/openapi/{file}", get(meta::openapi))
        .fallback(errors::no_such_route)
        .method_not_allowed_fallback(errors::no_such_method);
    let compress = CompressionLayer::new();
    let compress = if compression { compress } else { compress.no_gzip().no_zstd() };
    // Each `layer` wraps what stands above it, so the last one is the outermost.
    let routes = routes
        // Bodies beyond the limit end as PAYLOAD_TOO_LARGE.
        .layer(DefaultBodyLimit::max(max_body_bytes))
        // What administrators do is recorded before it is answered.
        .layer(axum::middleware::from_fn_with_state(api.clone(), audit::record))
        // Who asks, and whether they may.
        .layer(axum::middleware::from_fn_with_state(api.clone(), auth::check))
        // A bug in a handler is an INTERNAL for its caller and nobody else's problem.
        .layer(CatchPanicLayer::custom(errors::panicked))
        // Failures become bodies here, in the caller's dialect.
        .layer(axum::middleware::from_fn(errors::render))
        // Whole answers only: event streams are left alone.
        .layer(compress);
    let routes = match &api.cors {
        // Outside of what refuses: pages may read why, and what their browsers ask before needs no key.
        Some(cors) => routes.layer(cors.layer()),
        None => routes,
    };
    let routes = routes
        // The id that ties everything together; then the log line and the histogram when the body has ended.
        .layer(axum::middleware::from_fn_with_state(api.clone(), access::record))
        .with_state(api);
    // Before a route is looked for, which a layer of the router itself would come too late for.
    Router::new().fallback_service(ServiceBuilder::new().map_request(prefix::complete).service(routes))
}
