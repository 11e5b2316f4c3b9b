//! The events of a task, and how each is written as one server-sent event.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::{ErrorEnvelope, StepStatus, StepsProgress};
use crate::sse;

/// One entry of a task's event log. Cheap to clone: a token's text is inline up to 23 bytes, everything larger is shared.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The engine took the task. Comes once, before the first token; a task that ends in the queue has none.
    Started(Arc<Started>),
    /// One sampled token.
    Token(Token),
    /// What an embedding or rerank task has come to. Comes once, after `Started`.
    Result(Arc<TaskResult>),
    /// Queue position, prediction and other facts while the task waits or runs.
    Metrics(Arc<Metrics>),
    /// The task ended as it should, or was cancelled. Last event.
    End(Arc<End>),
    /// The task failed. Last event.
    Error(Arc<ErrorEnvelope>),
}

impl Event {
    /// Whether this event is the last one of its log.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::End(_) | Self::Error(_))
    }

    /// The `event:` field.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::Token(_) => "token",
            Self::Result(_) => "result",
            Self::Metrics(_) => "metrics",
            Self::End(_) => "end",
            Self::Error(_) => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    pub queue_position: u64,
    pub predicted_start_ms: u64,
    pub engine: String,
    pub engine_version: String,
    pub pool_id: String,
    pub replica_id: String,
    pub sampler_profile_version: String,
    pub model_digest: String,
}

/// One token of one choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// The choice it belongs to, from 0.
    pub choice: u16,
    /// Its index within the choice, from 0, without gaps.
    pub index: u32,
    /// The text it completes. Empty where the token ends inside a UTF-8 character.
    pub text: SmolStr,
    pub kind: TokenKind,
    /// Present when log-probabilities were asked for.
    pub logprobs: Option<Arc<TokenLogprobs>>,
    /// What it adds to a call; there for the kind [`Tool`](TokenKind::Tool) alone, whose text is empty.
    pub tool: Option<Arc<ToolDelta>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    #[default]
    Text,
    Reasoning,
    /// Part of a call.
    Tool,
}

/// What one token adds to a call. The first of a call has its id and its name; the arguments of all of them together are
/// the arguments as the model wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDelta {
    /// The call within the answer, from 0.
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

impl ToolDelta {
    /// Whether it adds nothing: of a token that is only punctuation around a call.
    pub const fn is_empty(&self) -> bool {
        self.id.is_none() && self.name.is_none() && self.arguments.is_empty()
    }
}

/// Natural-log probabilities of a sampled token and of the likeliest alternatives, after penalties and bias and before
/// temperature and truncation.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// The token's own bytes, which may be a part of a UTF-8 character.
    pub bytes: Box<[u8]>,
    /// Likeliest first; as many as were asked for.
    pub top: Box<[TopLogprob]>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TopLogprob {
    pub bytes: Box<[u8]>,
    pub logprob: f32,
}

/// What an embedding or rerank task has come to, in the order of its inputs. Every number is finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskResult {
    /// All of one length.
    Embeddings(Vec<Vec<f32>>),
    /// The higher, the better it fits.
    Scores(Vec<f32>),
}

impl TaskResult {
    /// Of its numbers.
    pub fn bytes(&self) -> usize {
        let numbers = match self {
            Self::Embeddings(vectors) => vectors.iter().map(Vec::len).sum(),
            Self::Scores(scores) => scores.len(),
        };
        numbers * size_of::<f32>()
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Metrics {
    /// Tasks that will start before this one; absent once it has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_start_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u64>,
    /// Absent without such a budget, as are the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_budget_remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_budget_remaining_ms: Option<u64>,
    /// Micro-units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_budget_remaining: Option<u64>,
    /// How far the preparation of the task's model has come; absent once that is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prep: Option<Arc<StepsProgress>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The end token or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    ToolCalls,
    Canceled,
    Deadline,
}

impl FinishReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Canceled => "canceled",
            Self::Deadline => "deadline",
        }
    }
}

/// What has cancelled a task that no client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanceledBy {
    /// The deadline of its pool's drain.
    Drain,
    /// A purge of its model.
    Purge,
    /// An administrator of the gateway.
    Admin,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Tokens of the prompt, counted once for all choices; 0 for a task that never started.
    pub tokens_in: u64,
    /// Those of them that the engine took from its cache; at most `tokens_in`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
    /// Tokens sampled, over all choices: the end token and those of a stop string included.
    pub tokens_out: u64,
    pub queue_ms: u64,
    /// From the start to the first token; null where none came.
    pub first_token_ms: Option<u64>,
    /// From the first token to the end.
    pub decode_ms: u64,
    pub finish_reason: FinishReason,
    /// The stop string that ended the text, where it was one and the engine knows; of the first choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_stop: Option<String>,
    /// One per choice, only where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<ChoiceEnd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_label: Option<super::PolicyLabel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canceled_by: Option<CanceledBy>,
}

impl End {
    /// Why one choice ended: its own reason where there are several.
    pub fn reason_of(&self, choice: usize) -> FinishReason {
        let own = self.choices.iter().find(|ended| usize::from(ended.choice) == choice);
        own.map_or(self.finish_reason, |ended| ended.finish_reason)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChoiceEnd {
    pub choice: u16,
    pub finish_reason: FinishReason,
    pub tokens_out: u64,
}

/// Appends `event` to `out` as one server-sent event with the given id.
///
/// A token without log-probabilities is written without allocating (once `out` has grown).
pub fn encode(id: u64, event: &Event, out: &mut Vec<u8>) {
    sse::event_id(id, out);
    sse::event_name(event.name(), out);
    match event {
        Event::Started(started) => sse::data_json(started.as_ref(), out),
        Event::Token(token) => sse::data_json(&TokenJson(token), out),
        Event::Result(result) => sse::data_json(result.as_ref(), out),
        Event::Metrics(metrics) => sse::data_json(metrics.as_ref(), out),
        Event::End(end) => sse::data_json(end.as_ref(), out),
        Event::Error(error) => sse::data_json(error.as_ref(), out),
    }
}

/// As [`encode`], with narration in `metrics` events.
pub fn encode_verbose(id: u64, event: &Event, out: &mut Vec<u8>) {
    let Event::Metrics(metrics) = event else { return encode(id, event, out) };
    sse::event_id(id, out);
    sse::event_name(event.name(), out);
    sse::data_json(&Narrated { metrics, phase: metrics.phase(), human: metrics.narrate() }, out);
}

#[derive(Serialize)]
struct Narrated<'a> {
    #[serde(flatten)]
    metrics: &'a Metrics,
    phase: &'static str,
    human: String,
}

impl Metrics {
    /// A task that waits in a queue has a place.
    const fn phase(&self) -> &'static str {
        match self {
            Self { prep: Some(_), .. } => "preparing",
            Self { queue_position: Some(_), .. } => "queued",
            _ => "running",
        }
    }

    /// What it says, for a person.
    fn narrate(&self) -> String {
        if let Some(prep) = &self.prep {
            let running = prep.values().find(|step| step.status == StepStatus::Running);
            return running.map_or_else(|| "waiting for the model".to_owned(), |step| step.human.clone());
        }
        if self.queue_position.is_none() {
            return self.narrate_budget();
        }
        let place = match self.queue_position {
            Some(0) => "next in line".to_owned(),
            Some(1) => "1 task ahead".to_owned(),
            Some(ahead) => format!("{ahead} tasks ahead"),
            None => "waiting".to_owned(),
        };
        match self.predicted_start_ms {
            Some(ms) => format!("{place}, expected to start in {}.{} s", ms / 1000, ms % 1000 / 100),
            None => place,
        }
    }

    fn narrate_budget(&self) -> String {
        let of = |left: Option<u64>, unit: &str| left.map(|left| format!("{left} {unit}"));
        let left = [
            of(self.tokens_budget_remaining, "tokens"),
            of(self.time_budget_remaining_ms, "ms of engine time"),
            of(self.cost_budget_remaining, "micro-units"),
        ];
        format!("the budget leaves {}", left.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// The wire form of a token: short names, and only what is there.
struct TokenJson<'a>(&'a Token);

impl Serialize for TokenJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let token = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("t", token.text.as_str())?;
        map.serialize_entry("i", &token.index)?;
        if token.choice > 0 {
            map.serialize_entry("c", &token.choice)?;
        }
        if token.kind != TokenKind::Text {
            map.serialize_entry("kind", &token.kind)?;
        }
        if let Some(tool) = &token.tool {
            map.serialize_entry("tool", tool.as_ref())?;
        }
        if let Some(logprobs) = &token.logprobs {
            map.serialize_entry("logprob", &finite(logprobs.logprob))?;
            map.serialize_entry("top", &logprobs.top.iter().map(TopJson).collect::<Vec<_>>())?;
        }
        map.end()
    }
}

/// JSON has no infinities: an impossible token has −9999, as in the OpenAI API.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

struct TopJson<'a>(&'a TopLogprob);

impl Serialize for TopJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("t", &String::from_utf8_lossy(&self.0.bytes))?;
        map.serialize_entry("logprob", &finite(self.0.logprob))?;
        map.serialize_entry("bytes", &self.0.bytes)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_short_event() {
        let token =
            Token { choice: 0, index: 3, text: "a \"b\"\n".into(), kind: TokenKind::Text, logprobs: None, tool: None };
        let mut out = Vec::new();
        encode(5, &Event::Token(token), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "id: 5\nevent: token\ndata: {\"t\":\"a \\\"b\\\"\\n\",\"i\":3}\n\n"
        );
    }

    #[test]
    fn narration_says_the_place_in_words_and_changes_nothing_else() {
        let metrics = Metrics {
            queue_position: Some(2),
            predicted_start_ms: Some(1250),
            queue_depth: Some(4),
            ..Metrics::default()
        };
        let (mut plain, mut verbose) = (Vec::new(), Vec::new());
        encode(1, &Event::Metrics(Arc::new(metrics.clone())), &mut plain);
        encode_verbose(1, &Event::Metrics(Arc::new(metrics)), &mut verbose);
        let (plain, verbose) = (String::from_utf8(plain).unwrap(), String::from_utf8(verbose).unwrap());
        let added = r#","phase":"queued","human":"2 tasks ahead, expected to start in 1.2 s""#;
        assert_eq!(verbose.replace(added, ""), plain);
        assert!(verbose.contains(added));
    }

    #[test]
    fn what_a_running_task_is_told_is_what_its_budget_leaves() {
        let metrics =
            Metrics { tokens_budget_remaining: Some(10), time_budget_remaining_ms: Some(500), ..Metrics::default() };
        let mut out = Vec::new();
        encode_verbose(3, &Event::Metrics(Arc::new(metrics)), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "id: 3\nevent: metrics\ndata: {\"tokens_budget_remaining\":10,\"time_budget_remaining_ms\":500,\"phase\":\"running\",\"human\":\"the budget leaves 10 tokens, 500 ms of engine time\"}\n\n"
        );
    }

    #[test]
    fn a_result_is_its_numbers_and_each_reads_back_as_it_was() {
        let result = |result| {
            let mut out = Vec::new();
            encode(2, &Event::Result(Arc::new(result)), &mut out);
            String::from_utf8(out).unwrap()
        };
        let embeddings = TaskResult::Embeddings(vec![vec![0.1, -0.25], vec![1.0, f32::MIN_POSITIVE]]);
        let written = "id: 2\nevent: result\ndata: {\"embeddings\":[[0.1,-0.25],[1.0,1.1754944e-38]]}\n\n";
        assert_eq!(result(embeddings), written);
        assert_eq!(result(TaskResult::Scores(vec![0.5])), "id: 2\nevent: result\ndata: {\"scores\":[0.5]}\n\n");
    }

    #[test]
    fn an_event_stays_small() {
        assert!(size_of::<Event>() <= 48, "{}", size_of::<Event>());
    }
}
