//! From a request that passed to the task and the job that are made of it.

use std::sync::Arc;

use sluicegate_compat::native::{Determinism, KvHint, Message, OutputMode, TaskRequest};

use super::Caller;
use crate::engine::{Chat, Grammar, Prompt, Sampling};
use crate::ids::TaskId;
use crate::pools::Job;
use crate::tasks::{Limits, Task, TaskSpec};

/// Moves the prompt out of the request, with the bytes of its texts.
pub(super) fn take_prompt(request: &mut TaskRequest) -> (Prompt, &'static str, usize) {
    if let Some(text) = request.prompt.take() {
        let bytes = text.len();
        return (Prompt::Text(text), "prompt", bytes);
    }
    let messages = request.messages.take().unwrap_or_default();
    let mut kwargs = request.chat_template_kwargs.take().unwrap_or_default();
    if let Some(effort) = request.reasoning_effort {
        // Templates that know it, such as those of gpt-oss, read this name.
        kwargs.entry("reasoning_effort".to_owned()).or_insert_with(|| effort.as_str().into());
    }
    let bytes = messages.iter().map(bytes_of).sum::<usize>()
        + kwargs.values().map(|value| value.to_string().len()).sum::<usize>();
    (Prompt::Chat(Chat { messages, tools: Vec::new(), kwargs }), "messages", bytes)
}

/// Every text of a message, and a little for the message itself.
fn bytes_of(message: &Message) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let calls = message.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
    message.content.as_ref().map_or(0, |content| content.len())
        + of(&message.name)
        + of(&message.reasoning_content)
        + of(&message.tool_call_id)
        + calls.sum::<usize>()
        + 16
}

/// What is kept of a request in its task.
pub(super) fn spec(request: &TaskRequest, caller: &Caller, limits: Limits) -> TaskSpec {
    TaskSpec {
        id: request.task_id.map_or_else(TaskId::new, TaskId),
        correlation_id: caller.correlation_id.clone(),
        tenant_id: caller.share.tenant.clone(),
        session_id: request.session_id,
        workload: request.workload,
        model_ref: request.model_ref.clone(),
        priority: request.priority,
        determinism: request.determinism,
        metadata: request.metadata.clone(),
        limits,
    }
}

/// What the dispatcher needs of it.
pub(super) fn job(
    request: TaskRequest,
    task: &Arc<Task>,
    caller: &Caller,
    prompt: Arc<[u32]>,
    plain: &Sampling,
) -> Job {
    let strict = request.determinism == Determinism::Strict;
    let sampling = Sampling {
        temperature: request.temperature.unwrap_or(plain.temperature),
        top_p: request.top_p.unwrap_or(plain.top_p),
        top_k: request.top_k.or(plain.top_k),
        min_p: request.min_p.unwrap_or(plain.min_p),
        frequency_penalty: request.frequency_penalty.unwrap_or(plain.frequency_penalty),
        presence_penalty: request.presence_penalty.unwrap_or(plain.presence_penalty),
        repetition_penalty: request.repetition_penalty.unwrap_or(plain.repetition_penalty),
        logit_bias: request.logit_bias.into_iter().collect(),
        // Without a seed, random bits: so that one exists, and nobody shares it.
        seed: request.seed.map_or_else(|| uuid::Uuid::new_v4().as_u64_pair().1, i64::cast_unsigned),
    };
    let grammar = match (request.output_mode, request.json_schema) {
        (OutputMode::Text, _) => None,
        (OutputMode::Json, None) => Some(Grammar::JsonObject),
        (OutputMode::Json, Some(schema)) => Some(Grammar::JsonSchema(schema)),
    };
    Job {
        task: Arc::clone(task),
        allowed: None,
        share: caller.share.clone(),
        prompt,
        sampling,
        stop: request.stop,
        top_logprobs: request.logprobs.then(|| request.top_logprobs.unwrap_or(0)),
        grammar,
        cold: strict || request.kv_hint == Some(KvHint::Cold),
        admitted: None,
    }
}
