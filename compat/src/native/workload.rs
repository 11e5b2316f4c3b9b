//! Workloads: what a task asks of a model, and which fields of a request each of them takes.

use serde::{Deserialize, Deserializer, Serialize};

use super::request::ensure;
use super::{OutputMode, TaskRequest, Violation};
use crate::json::StringOrList;

/// Inputs of one task at most, as in the OpenAI API.
pub const MOST_INPUTS: usize = 2048;

/// What a task asks of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// A text that goes on from a prompt or a conversation.
    #[default]
    Completion,
    /// A vector for each input.
    Embedding,
    /// A number for each input: how well it fits a query.
    Rerank,
}

impl Workload {
    pub const ALL: [Workload; 3] = [Self::Completion, Self::Embedding, Self::Rerank];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Rerank => "rerank",
        }
    }
}

/// One of the inputs of an embedding or rerank task: a string, or an array of the model's token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

impl Input {
    /// Of its text, or of its ids.
    pub const fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => ids.len() * size_of::<u32>(),
        }
    }

    const fn is_empty(&self) -> bool {
        self.bytes() == 0
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match StringOrList::deserialize(deserializer)? {
            StringOrList::String(text) => Self::Text(text),
            StringOrList::List(ids) => Self::Tokens(ids),
        })
    }
}

/// The fields that only some workloads take, and that they need.
pub(super) fn check(request: &TaskRequest) -> Result<(), Violation> {
    let (embedding, rerank) = (request.workload == Workload::Embedding, request.workload == Workload::Rerank);
    ensure(request.dimensions.is_none() || embedding, "dimensions", "goes with the workload `embedding`")?;
    ensure(request.dimensions != Some(0), "dimensions", "at least 1")?;
    ensure(request.query.is_none() || rerank, "query", "goes with the workload `rerank`")?;
    if !embedding && !rerank {
        return ensure(request.inputs.is_none(), "inputs", "goes with the workloads `embedding` and `rerank`");
    }
    refuse_what_is_for_completions(request)?;
    let inputs = request.inputs.as_deref().unwrap_or_default();
    ensure((1..=MOST_INPUTS).contains(&inputs.len()), "inputs", "1 to 2,048 inputs are needed")?;
    ensure(!inputs.iter().any(Input::is_empty), "inputs", "no input may be empty")?;
    let query = request.query.as_ref().is_some_and(|query| !query.is_empty());
    ensure(query || !rerank, "query", "the workload `rerank` needs a query")
}

fn refuse_what_is_for_completions(request: &TaskRequest) -> Result<(), Violation> {
    let only_completions = [
        ("prompt", request.prompt.is_some()),
        ("messages", request.messages.is_some()),
        ("n", request.n != 1),
        ("tools", request.tools.is_some()),
        ("tool_choice", request.tool_choice.is_some()),
        ("parallel_tool_calls", request.parallel_tool_calls.is_some()),
        ("reasoning_effort", request.reasoning_effort.is_some()),
        ("chat_template_kwargs", request.chat_template_kwargs.is_some()),
        ("continue_final_message", request.continue_final_message),
        ("max_tokens", request.max_tokens.is_some()),
        ("expected_tokens", request.expected_tokens.is_some()),
        ("seed", request.seed.is_some()),
        ("sampler_profile_version", request.sampler_profile_version.is_some()),
        ("temperature", request.temperature.is_some()),
        ("top_p", request.top_p.is_some()),
        ("top_k", request.top_k.is_some()),
        ("min_p", request.min_p.is_some()),
        ("frequency_penalty", request.frequency_penalty.is_some()),
        ("presence_penalty", request.presence_penalty.is_some()),
        ("repetition_penalty", request.repetition_penalty.is_some()),
        ("stop", !request.stop.is_empty()),
        ("logit_bias", !request.logit_bias.is_empty()),
        ("logprobs", request.logprobs),
        ("top_logprobs", request.top_logprobs.is_some()),
        ("output_mode", request.output_mode != OutputMode::Text),
        ("json_schema", request.json_schema.is_some()),
        ("kv_hint", request.kv_hint.is_some()),
    ];
    only_completions
        .into_iter()
        .try_for_each(|(param, given)| ensure(!given, param, "goes with the workload `completion`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: serde_json::Value) -> TaskRequest {
        TaskRequest::parse(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn inputs_are_texts_and_token_ids() {
        let request =
            read(json!({"workload": "embedding", "model_ref": "m", "inputs": ["a b", [1, 2]], "dimensions": 4}));
        request.check().unwrap();
        assert_eq!(request.inputs, Some(vec!["a b".into(), Input::Tokens(vec![1, 2])]));
        assert_eq!(serde_json::to_value(&request.inputs).unwrap(), json!(["a b", [1, 2]]));
        for wrong in
            [json!([1]), json!(["a", {"text": "b"}]), json!([[1.5]]), json!([[-1]]), json!([[4_294_967_296_u64]])]
        {
            let body = json!({"workload": "embedding", "model_ref": "m", "inputs": wrong}).to_string();
            let error = TaskRequest::parse(body.as_bytes()).unwrap_err();
            assert!(error.param.as_deref().is_some_and(|param| param.starts_with("inputs[")), "{error:?}");
        }
    }

    #[test]
    fn what_a_workload_does_not_take_or_lacks_is_refused_by_name() {
        let embedding = json!({"workload": "embedding", "model_ref": "m", "inputs": ["a"]});
        let rerank = json!({"workload": "rerank", "model_ref": "m", "inputs": ["a"], "query": "q"});
        read(rerank.clone()).check().unwrap();
        let cases = [
            (&embedding, json!({"prompt": "a"}), "prompt"),
            (&embedding, json!({"messages": [{"role": "user", "content": "a"}]}), "messages"),
            (&embedding, json!({"query": "q"}), "query"),
            (&embedding, json!({"inputs": null}), "inputs"),
            (&embedding, json!({"inputs": []}), "inputs"),
            (&embedding, json!({"inputs": ["a", ""]}), "inputs"),
            (&embedding, json!({"inputs": [[]]}), "inputs"),
            (&embedding, json!({"inputs": vec!["a"; MOST_INPUTS + 1]}), "inputs"),
            (&embedding, json!({"dimensions": 0}), "dimensions"),
            (&embedding, json!({"max_tokens": 1}), "max_tokens"),
            (&embedding, json!({"stop": ["x"]}), "stop"),
            (&embedding, json!({"n": 2}), "n"),
            (&embedding, json!({"logprobs": true}), "logprobs"),
            (&rerank, json!({"seed": 1}), "seed"),
            (&rerank, json!({"query": null}), "query"),
            (&rerank, json!({"query": ""}), "query"),
            (&rerank, json!({"dimensions": 2}), "dimensions"),
            (&json!({"model_ref": "m", "prompt": "a"}), json!({"dimensions": 2}), "dimensions"),
            (&json!({"model_ref": "m", "prompt": "a"}), json!({"query": "q"}), "query"),
            (&json!({"model_ref": "m"}), json!({"inputs": ["a"]}), "inputs"),
        ];
        for (base, change, param) in cases {
            let mut body = base.clone();
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            assert_eq!(read(body).check().unwrap_err().param, param);
        }
    }
}
