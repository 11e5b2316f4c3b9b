//! What goes wrong between a server and the disk.

use std::path::Path;
use std::time::Duration;

use crate::web;

/// What went wrong between a server and the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchProblem {
    #[error("the hub has no such repository or revision (404)")]
    NotFound,
    #[error("the server has no file {0} there (404)")]
    NoSuchFile(String),
    #[error(
        "the hub asks for a token (401): the repository is private or gated, or does not exist; set HF_TOKEN, which is sent for the models that the operator \
         has named"
    )]
    TokenNeeded,
    #[error("the hub does not accept the token (401)")]
    TokenRefused,
    #[error("the token gives no access (403): a gated model's terms are accepted on its page at the hub")]
    Gated,
    #[error("the server answered with status {0}")]
    Status(u16),
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the server sent nothing for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("the connection was cut after {done} bytes of {file}: {why}; start again to go on from there")]
    Cut { file: String, done: u64, why: String },
    #[error("the server's answer makes no sense: {0}")]
    BadAnswer(String),
    #[error("{0} leads to an address of a private network, and its host is not in catalog.web.trusted_hosts")]
    Private(String),
    #[error("{0} is not encrypted, and its host is not in catalog.web.trusted_hosts; write https://")]
    Plain(String),
    #[error(
        "the model has more than {0} bytes (catalog.max_model_bytes; admission.provision_reference_bytes where a task brings \
         it)"
    )]
    TooLarge(u64),
    #[error("the repository has no weights as *.safetensors")]
    NoWeights,
    #[error("the repository has no weights as *.safetensors; name one of its .gguf files, such as hf:…/{0}")]
    OnlyGguf(String),
    #[error("another process is downloading this model now")]
    Busy,
    #[error("{path}: {error}")]
    Disk { path: String, error: String },
}

impl FetchProblem {
    /// Whether the same again, a little later, may go well.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status(status) => *status == 429 || *status >= 500,
            Self::Unreachable(_) | Self::Stalled(_) | Self::Cut { .. } => true,
            _ => false,
        }
    }
}

impl From<web::Problem> for FetchProblem {
    fn from(problem: web::Problem) -> Self {
        match problem {
            web::Problem::Malformed(what) => Self::BadAnswer(what),
            problem @ web::Problem::Elsewhere(_) => Self::BadAnswer(problem.to_string()),
            web::Problem::Private(address) => Self::Private(address),
            web::Problem::Plain(address) => Self::Plain(address),
            web::Problem::Unreachable(why) => Self::Unreachable(why),
        }
    }
}

pub(super) fn disk(path: &Path, error: &std::io::Error) -> FetchProblem {
    FetchProblem::Disk { path: path.display().to_string(), error: error.to_string() }
}
