//! What answers about a task of a client have in common, in whichever dialect but the native one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sluicegate_compat::native::{ErrorEnvelope, Event, Priority, TaskRequest, detail};
use uuid::Uuid;

use super::access::About;
use super::errors::Failure;
use super::{Api, budget};
use crate::admission::{Caller, Life, Refusal};
use crate::gateway::{Once, Owned};
use crate::tasks::{Read, Task};

const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");
const QUEUE_WAIT: HeaderName = HeaderName::from_static("x-queue-wait-ms");
const IGNORED: HeaderName = HeaderName::from_static("x-sluicegate-ignored");

/// Whoever asks for a task, and what is left of their budgets.
pub struct Client<'a> {
    api: &'a Api,
    caller: Caller,
    session: Option<Uuid>,
}

impl<'a> Client<'a> {
    pub fn new(api: &'a Api, caller: Caller, session: Option<Uuid>) -> Self {
        Self { api, caller, session }
    }

    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    fn budget(&self) -> HeaderMap {
        budget::headers(self.api, &self.caller.share.tenant, self.session, self.caller.owners())
    }

    /// A refusal in the words of the client, with what is left where a budget was the reason.
    pub fn refused(&self, error: ErrorEnvelope) -> Failure {
        Failure::from(error).with_budget(|| self.budget())
    }

    /// Lets a task in that ends when its clients hang up.
    ///
    /// # Errors
    ///
    /// What the client is told, with the fields that it is about in the words of the native API.
    pub async fn submit(&self, once: Option<Once>, request: TaskRequest) -> Result<Owned, ErrorEnvelope> {
        self.submit_for(once, request, Life::default()).await
    }

    /// As [`submit`](Self::submit), with what is kept of the task.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn submit_for(
        &self,
        once: Option<Once>,
        request: TaskRequest,
        life: Life,
    ) -> Result<Owned, ErrorEnvelope> {
        self.api.gateway.submit_owned(once, request, life, &self.caller).await
    }

    /// As [`submit`](Self::submit), for the tasks that one request is: all of them are let in or none.
    ///
    /// # Errors
    ///
    /// As there, with the task that it is about.
    pub async fn submit_all(&self, once: Option<&Once>, requests: Vec<TaskRequest>) -> Result<Vec<Owned>, Refusal> {
        self.api.gateway.submit_all_owned(once, requests, &self.caller).await
    }

    /// The whole answer to a task, once that has ended: `look` collects its events, and `write` makes a response of them and of
    /// how long the task waited, in ms. The owner's drop cancels the task where the client does not wait as long.
    ///
    /// # Errors
    ///
    /// Those of `write`.
    pub async fn whole<A: Send + 'static>(
        &self,
        Owned { task, owner }: Owned,
        mut answer: A,
        mut look: impl FnMut(&mut A, &Event),
        write: impl FnOnce(A, Option<u64>) -> Result<Response, ErrorEnvelope> + Send + 'static,
    ) -> Result<Response, ErrorEnvelope> {
        let queue_ms = follow(&task, |event| look(&mut answer, event)).await;
        // Held until here: dropped before, it would have cancelled the task.
        drop(owner);
        written(self.api, task.bytes(), move || write(answer, queue_ms)).await
    }

    /// An answer about a task with what its head says of that, whatever it is.
    pub fn told(&self, answer: Result<Response, ErrorEnvelope>, task: &Task, ignored: &[String]) -> Response {
        let mut response = about(answer.unwrap_or_else(|error| self.refused(error).into_response()), task, ignored);
        if response.status().is_success() {
            // Of an answer that is whole, after it was charged.
            response.headers_mut().extend(self.budget());
        }
        response
    }
}

/// An answer about a task with what its head says of that.
pub fn about(mut response: Response, task: &Task, ignored: &[String]) -> Response {
    response.headers_mut().extend(told(task, ignored));
    response.extensions_mut().insert(About(task.spec.id));
    response
}

/// Writes a response of about so many bytes, off the reactor where that is long.
///
/// # Errors
///
/// Those of `write`.
pub async fn written(
    api: &Api,
    bytes: usize,
    write: impl FnOnce() -> Result<Response, ErrorEnvelope> + Send + 'static,
) -> Result<Response, ErrorEnvelope> {
    api.gateway.lifecycle.sized("write an answer", bytes, write).await?
}

/// Goes on with a request that has fields without effect, unless the configuration has it refused.
///
/// # Errors
///
/// INVALID_PARAMS with the first of them.
pub fn heeded(api: &Api, ignored: &[String]) -> Result<(), ErrorEnvelope> {
    match ignored.first().filter(|_| api.settings.refuse_unknown) {
        None => Ok(()),
        Some(field) => {
            let message = format!("`{field}` has no effect here, and this gateway refuses such fields");
            Err(ErrorEnvelope::invalid(field.as_str(), message).with_detail(detail::UNSUPPORTED_PARAMETER))
        }
    }
}

/// The body of an answer to a task that has waited so long, in ms.
pub fn whole_body(body: impl Serialize, queue_ms: Option<u64>) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Some(queue_ms) = queue_ms {
        response.headers_mut().insert(QUEUE_WAIT, HeaderValue::from(queue_ms));
    }
    response
}

/// What headers say that the body may say as well, in its `sluicegate` object: the headers win, since whoever stands
/// between a client and the gateway can set them. Then comes what the caller may have.
pub fn wishes(headers: &HeaderMap, caller: &Caller, request: &mut TaskRequest) -> Result<(), ErrorEnvelope> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    if let Some(word) = text("x-priority") {
        let priority = Priority::ALL.into_iter().find(|priority| priority.as_str() == word);
        let unknown = || ErrorEnvelope::invalid("X-Priority", "`X-Priority` is `interactive` or `batch`");
        request.priority = Some(priority.ok_or_else(unknown)?);
    }
    if let Some(number) = text("x-deadline-ms") {
        let deadline_ms = number.parse().ok().filter(|ms| *ms > 0);
        let no_number = || ErrorEnvelope::invalid("X-Deadline-Ms", "`X-Deadline-Ms` is a whole number of ms above 0");
        request.deadline_ms = Some(deadline_ms.ok_or_else(no_number)?);
    }
    if let Some(id) = text("x-session-id") {
        let no_id = |_| ErrorEnvelope::invalid("X-Session-Id", "`X-Session-Id` is a UUID");
        request.session_id = Some(Uuid::try_parse(id).map_err(no_id)?);
    }
    caller.grade(request);
    Ok(())
}

/// Looks at every event of a task up to its last, and returns how long the task waited, in ms.
pub async fn follow(task: &Task, mut look: impl FnMut(&Event)) -> Option<u64> {
    let mut reader = task.log.reader(0);
    let mut queue_ms = None;
    let mut events = Vec::new();
    while reader.read(&mut events).await != Read::End {
        for event in events.drain(..) {
            if let Event::End(end) = &event {
                queue_ms = Some(end.queue_ms);
            }
            look(&event);
        }
    }
    queue_ms
}

fn told(task: &Task, ignored: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(&task.spec.id.to_string()) {
        headers.insert(TASK_ID, id);
    }
    headers.extend(passed_over(ignored));
    headers
}

/// The header that names what of a request has no effect, where there is any of that.
pub fn passed_over(ignored: &[String]) -> HeaderMap {
    let names = (!ignored.is_empty()).then(|| HeaderValue::from_str(&ignored.join(", ")));
    names.and_then(Result::ok).map(|names| (IGNORED, names)).into_iter().collect()
}
