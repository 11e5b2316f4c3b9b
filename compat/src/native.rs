//! The native dialect: the task request, the events of a task, the error envelope, the view of a task.

mod access;
mod admission;
mod artifact;
mod audit;
mod budget;
mod catalog;
mod chat;
mod error;
mod event;
pub mod media;
mod policy;
mod pool;
mod preparation;
mod price;
mod request;
mod schema;
mod session;
mod tools;
mod usage;
mod view;
mod worker;
mod workload;

pub use access::{
    API_KEY_ID_DIGITS, API_KEY_PREFIX, KeyList, KeyPatch, KeyRequest, KeyView, NewKey, RotateRequest, Scope,
    TenantList, TenantPatch, TenantRequest, TenantView,
};
pub use admission::{AdmissionResponse, PreviewResponse, Streams};
pub use artifact::{ArtifactView, CreateArtifact, Lineage, is_id as is_artifact_id};
pub use audit::{AuditEntry, AuditList, AuditTarget};
pub use budget::{Budget, BudgetKind, BudgetPeriod, BudgetView};
pub use catalog::{
    CreateModel, ModelFileView, ModelList, ModelPrice, ModelState, ModelStateRequest, ModelTrust, ModelView,
    Quantization, VerificationView,
};
pub use chat::{
    Content, ContentPart, FunctionCall, FunctionDefinition, FunctionTag, Message, Role, Tool, ToolCall, ToolChoice,
};
pub use error::{ErrorCode, ErrorEnvelope, PolicyLabel, detail};
pub use event::{
    CanceledBy, ChoiceEnd, End, Event, FinishReason, Metrics, Started, TaskResult, Token, TokenKind, TokenLogprobs,
    ToolDelta, TopLogprob, encode, encode_verbose,
};
pub use media::{Detail, Image, Modality, Recording, Shown, SoundFormat};
pub use policy::{MOST_OF_A_LIMIT, Policy, RateLimits};
pub use pool::{
    DrainRequest, PoolFigures, PoolList, PoolView, PurgeRequest, PurgeView, ReloadRequest, ReloadView, ReplicaView,
    WhenDrained,
};
pub use preparation::{Preparation, PreparationStep, StepKind, StepProgress, StepStatus, StepsProgress};
pub use price::{PriceList, PriceRequest, PriceView};
pub use request::{
    Determinism, EngineName, KvHint, OutputMode, Placement, PlacementMode, Priority, ReasoningEffort, TaskRequest,
    Violation,
};
pub use session::{SessionBudget, SessionRequest, SessionView};
pub use usage::{UsageGroup, UsageSums, UsageView};
pub use view::{AdminTask, AdminTaskList, TaskFacts, TaskList, TaskState, TaskSummary, TaskView};
pub use worker::{RegisterWorker, WorkerView};
pub use workload::{Input, MOST_INPUTS, Workload};
