//! The request that a server gets. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluicegate_compat::native::{EngineName, ToolChoice};

use crate::engine::{Chat, Choice, Generation, Grammar, Prepared, Prompt, Reading, Sampling};

/// A path below the base address, and the body to post there.
pub struct Request {
    pub path: &'static str,
    pub body: Vec<u8>,
}

/// Fields of a request that a program is known not to follow. What `strict` and `cold` promise, no server elsewhere can.
pub const fn unsupported(engine: EngineName) -> &'static [&'static str] {
    match engine {
        EngineName::Tgi | EngineName::Triton => &[
            "determinism",
            "kv_hint",
            "top_k",
            "min_p",
            "repetition_penalty",
            "reasoning_effort",
            "chat_template_kwargs",
            "continue_final_message",
        ],
        _ => &["determinism", "kv_hint", "continue_final_message"],
    }
}

/// The request for one sequence; none where the prompt's content is not known.
pub fn request(engine: EngineName, model: &str, generation: &Generation) -> Option<Request> {
    let Prepared::Content { prompt, .. } = &generation.prompt else { return None };
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "max_tokens": generation.max_tokens,
    });
    let path = match prompt.as_ref() {
        Prompt::Chat(chat) => {
            converse(&mut body, chat);
            call(&mut body, &generation.reading);
            log_probabilities(&mut body, generation.top_logprobs);
            "chat/completions"
        }
        Prompt::Text(text) => {
            body["prompt"] = text.as_str().into();
            if let Some(top) = generation.top_logprobs {
                body["logprobs"] = top.into();
            }
            "completions"
        }
        Prompt::Tokens(_) => return None,
    };
    sample(&mut body, engine, &generation.sampling);
    if !generation.stop.is_empty() {
        body["stop"] = json!(generation.stop);
    }
    match &generation.grammar {
        None => {}
        Some(Grammar::JsonObject) => body["response_format"] = json!({"type": "json_object"}),
        Some(Grammar::JsonSchema(schema)) => {
            let schema = json!({"name": "answer", "schema": schema, "strict": true});
            body["response_format"] = json!({"type": "json_schema", "json_schema": schema});
        }
    }
    Some(Request { path, body: serde_json::to_vec(&body).ok()? })
}

fn converse(body: &mut Value, chat: &Chat) {
    body["messages"] = json!(chat.messages);
    if !chat.tools.is_empty() {
        body["tools"] = json!(chat.tools);
    }
    let mut kwargs = chat.kwargs.clone();
    if let Some(effort) = kwargs.remove("reasoning_effort") {
        body["reasoning_effort"] = effort;
    }
    if !kwargs.is_empty() {
        body["chat_template_kwargs"] = json!(kwargs);
    }
}

/// Which of the tools in the body may be called.
fn call(body: &mut Value, reading: &Reading) {
    let Reading::Answer(Some(calling)) = reading else { return };
    let choice = match &calling.choice {
        Choice::Free => None,
        Choice::Required => Some(ToolChoice::Required),
        Choice::Named(name) => Some(ToolChoice::Function(name.clone())),
    };
    if let Some(choice) = choice {
        body["tool_choice"] = json!(choice);
    }
    if !calling.parallel {
        body["parallel_tool_calls"] = false.into();
    }
}

fn log_probabilities(body: &mut Value, top: Option<u8>) {
    if let Some(top) = top {
        body["logprobs"] = true.into();
        body["top_logprobs"] = top.into();
    }
}

/// What the request says. What it leaves open is left to the server, which may know better how its model is sampled.
fn sample(body: &mut Value, engine: EngineName, sampling: &Sampling) {
    if sampling.stated.temperature {
        body["temperature"] = number(sampling.temperature);
    }
    if sampling.stated.top_p {
        body["top_p"] = number(sampling.top_p);
    }
    if sampling.stated.seed {
        body["seed"] = seed(engine, sampling.seed).into();
    }
    let repetition = if engine == EngineName::LlamaCpp { "repeat_penalty" } else { "repetition_penalty" };
    let penalties = [
        ("frequency_penalty", sampling.frequency_penalty, 0.0),
        ("presence_penalty", sampling.presence_penalty, 0.0),
        ("min_p", sampling.min_p, 0.0),
        (repetition, sampling.repetition_penalty, 1.0),
    ];
    for (name, value, nothing) in penalties {
        if value != nothing {
            body[name] = number(value);
        }
    }
    if let Some(top_k) = sampling.top_k {
        body["top_k"] = top_k.into();
    }
    if !sampling.logit_bias.is_empty() {
        let bias: BTreeMap<_, _> =
            sampling.logit_bias.iter().map(|(token, bias)| (token.to_string(), number(*bias))).collect();
        body["logit_bias"] = json!(bias);
    }
}

/// With the digits that the client wrote: 0.7, and not 0.699999988079071.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().unwrap_or_default().into()
}

/// The seed as far as the program's numbers reach: llama.cpp has 32 bits, of which the highest number stands for no seed;
/// TGI and Triton have no numbers below 0. One seed always becomes the same one.
fn seed(engine: EngineName, seed: u64) -> i64 {
    let bits = match engine {
        EngineName::LlamaCpp if seed > 0x7fff_ffff => (seed ^ (seed >> 32)) & 0x7fff_ffff,
        EngineName::Tgi | EngineName::Triton => seed & (u64::MAX >> 1),
        _ => seed,
    };
    bits.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::engine::Stated;

    fn sent(engine: EngineName, sampling: Sampling) -> Value {
        let prompt = Arc::new(Prompt::Text("hi".into()));
        let generation = Generation {
            prompt: Prepared::Content { prompt, tokens: 2 },
            max_tokens: 5,
            sampling,
            stop: vec!["end".into()],
            top_logprobs: Some(0),
            grammar: None,
            reading: Reading::Plain,
            cold: false,
            correlation_id: None,
            cancel: CancellationToken::new(),
        };
        let Request { path, body } = request(engine, "m", &generation).unwrap();
        assert_eq!(path, "completions");
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn what_a_request_leaves_open_is_left_to_the_server() {
        let open = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5,
            "prompt": "hi", "stop": ["end"], "logprobs": 0});
        assert_eq!(sent(EngineName::Remote, Sampling::default()), open);
        let stated = Stated { temperature: true, top_p: true, seed: true };
        let all = Sampling { temperature: 0.7, repetition_penalty: 1.5, seed: 7, stated, ..Sampling::default() };
        let mut said = open;
        said.as_object_mut().unwrap().extend(
            json!({"temperature": 0.7, "top_p": 1.0, "seed": 7, "repeat_penalty": 1.5}).as_object().unwrap().clone(),
        );
        assert_eq!(sent(EngineName::LlamaCpp, all), said);
    }

    #[test]
    fn seeds_are_sent_whole_where_the_server_takes_them() {
        let far = (-7_i64).cast_unsigned();
        assert_eq!([EngineName::Remote, EngineName::Vllm].map(|engine| seed(engine, far)), [-7, -7]);
        assert_eq!(seed(EngineName::Tgi, far), i64::MAX - 6);
        assert_eq!(seed(EngineName::LlamaCpp, 7), 7);
        assert!((0..=0x7fff_ffff).contains(&seed(EngineName::LlamaCpp, far)));
    }
}
