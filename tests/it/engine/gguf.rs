//! A GGUF file needs nothing beside it: tokenizer and chat template are inside.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sluicegate::engine::mistral::{MistralEngine, ModelFiles};
use sluicegate::engine::{Engine, EngineInfo, Finish};

use super::{builtin_model, engine, greedy, question, spec, text};

/// What an F16 tensor is called in GGUF.
const F16: u32 = 1;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(builtin_model().join(name)).expect("reads")).expect("is JSON")
}

/// The metadata and tensors of a GGUF file, written as they are added.
#[derive(Default)]
struct Gguf {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.pairs.extend([&string(key), &kind.to_le_bytes()[..], value].concat());
        self.pair_count += 1;
    }

    fn number(&mut self, key: &str, value: &Value) {
        self.pair(key, 4, &(value.as_u64().expect("a number") as u32).to_le_bytes());
    }

    fn float(&mut self, key: &str, value: &Value) {
        self.pair(key, 6, &(value.as_f64().expect("a number") as f32).to_le_bytes());
    }

    fn list(&mut self, key: &str, kind: u32, items: &[Vec<u8>]) {
        let head = [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes()].concat();
        self.pair(key, 9, &[head, items.concat()].concat());
    }

    fn tensor(&mut self, name: &str, shape: &[u64], data: &[u8]) {
        self.tensors.extend([string(name), (shape.len() as u32).to_le_bytes().to_vec()].concat());
        self.tensors.extend(shape.iter().rev().flat_map(|size| size.to_le_bytes()));
        self.tensors.extend([&F16.to_le_bytes()[..], &(self.data.len() as u64).to_le_bytes()].concat());
        self.tensor_count += 1;
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn bytes(self) -> Vec<u8> {
        let counts = [self.tensor_count.to_le_bytes(), self.pair_count.to_le_bytes()].concat();
        let mut file = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &self.pairs, &self.tensors].concat();
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(self.data);
        file
    }
}

/// `model.layers.0.self_attn.q_proj.weight` as `blk.0.attn_q.weight`.
fn gguf_name(name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.", "attn_"),
        ("o_proj", "output"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ] {
        name = name.replace(from, to);
    }
    name
}

/// Writes the built-in model as one GGUF file.
fn write_gguf(path: &Path) {
    let (config, tokenizer) = (read_json("config.json"), read_json("tokenizer.json"));
    let mut gguf = Gguf::default();
    gguf.pair("general.architecture", 8, &string("qwen3"));
    for (key, field) in [
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
    ] {
        gguf.number(&format!("qwen3.{key}"), &config[field]);
    }
    gguf.float("qwen3.attention.layer_norm_rms_epsilon", &config["rms_norm_eps"]);
    gguf.float("qwen3.rope.freq_base", &config["rope_theta"]);
    vocabulary(&mut gguf, &tokenizer, config["vocab_size"].as_u64().expect("a number") as usize);
    let template = read_json("tokenizer_config.json")["chat_template"].as_str().expect("a template").to_owned();
    gguf.pair("tokenizer.chat_template", 8, &string(&template));
    weights(&mut gguf);
    fs::write(path, gguf.bytes()).expect("writes");
}

fn vocabulary(gguf: &mut Gguf, tokenizer: &Value, size: usize) {
    let mut tokens = vec![(String::new(), 1u32); size];
    for (token, id) in tokenizer["model"]["vocab"].as_object().expect("a vocabulary") {
        tokens[id.as_u64().expect("an id") as usize].0.clone_from(token);
    }
    for added in tokenizer["added_tokens"].as_array().expect("added tokens") {
        // 3: a special token; 4: another one that the user defined.
        let kind = if added["special"] == true { 3 } else { 4 };
        tokens[added["id"].as_u64().expect("an id") as usize] = (added["content"].as_str().expect("text").into(), kind);
    }
    let merges = tokenizer["model"]["merges"].as_array().expect("merges").iter().map(|merge| match merge {
        Value::Array(pair) => {
            string(&format!("{} {}", pair[0].as_str().expect("text"), pair[1].as_str().expect("text")))
        }
        merge => string(merge.as_str().expect("text")),
    });
    gguf.pair("tokenizer.ggml.model", 8, &string("gpt2"));
    gguf.list("tokenizer.ggml.tokens", 8, &tokens.iter().map(|(token, _)| string(token)).collect::<Vec<_>>());
    let kinds: Vec<_> = tokens.iter().map(|(_, kind)| kind.to_le_bytes().to_vec()).collect();
    gguf.list("tokenizer.ggml.token_type", 5, &kinds);
    gguf.list("tokenizer.ggml.merges", 8, &merges.collect::<Vec<_>>());
    gguf.number("tokenizer.ggml.eos_token_id", &2.into());
}

fn weights(gguf: &mut Gguf) {
    let file = fs::read(builtin_model().join("model.safetensors")).expect("reads");
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    for (name, tensor) in header.as_object().expect("tensors").iter().filter(|(name, _)| *name != "__metadata__") {
        assert_eq!(tensor["dtype"], "F16");
        let numbers = |list: &Value| -> Vec<u64> {
            list.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number")).collect()
        };
        let span = numbers(&tensor["data_offsets"]);
        let data = &file[8 + length..][span[0] as usize..span[1] as usize];
        gguf.tensor(&gguf_name(name), &numbers(&tensor["shape"]), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_answers_as_the_folder_it_was_made_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    write_gguf(&path);
    let (from_folder, from_gguf) =
        (engine().await, MistralEngine::load(spec(ModelFiles::Gguf(path))).await.expect("loads"));
    // A GGUF file does not say how its model wants to be sampled.
    let sampling = from_gguf.info().sampling.clone();
    assert_eq!(*from_gguf.info(), EngineInfo { sampling, ..from_folder.info().clone() });
    let asked = "What is Sluicegate? <|im_end|> naïve 日本";
    let prompt = question(&from_gguf, asked);
    assert_eq!(prompt, question(&from_folder, asked));
    let (answer, finished) = text(&from_gguf, greedy(prompt.clone(), 40)).await;
    assert_eq!(text(&from_folder, greedy(prompt, 40)).await.0, answer);
    assert!(matches!(finished.finish, Finish::Stop | Finish::Length) && !answer.is_empty());
}

/// Why a GGUF file is not loaded that was filled so.
async fn refusal(fill: impl FnOnce(&mut Gguf)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    let mut gguf = Gguf::default();
    gguf.pair("general.architecture", 8, &string("qwen3"));
    fill(&mut gguf);
    fs::write(&path, gguf.bytes()).expect("writes");
    let error = MistralEngine::load(spec(ModelFiles::Gguf(path))).await.err().expect("does not load");
    error.0.replace(&format!("{}/", folder.path().display()), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_claims_more_than_it_holds_is_refused_before_room_is_made_for_it() {
    let layers = refusal(|gguf| gguf.number("qwen3.block_count", &1_000_000_000.into())).await;
    assert_eq!(layers, "m.gguf: `qwen3.block_count` is 1000000000, and 0 at most can be true");
    let context = refusal(|gguf| gguf.number("qwen3.context_length", &4_000_000_000_u32.into())).await;
    assert_eq!(context, "m.gguf: `qwen3.context_length` is 4000000000, and 16777216 at most can be true");
    let tensor = refusal(|gguf| gguf.tensor("blk.0.attn_q.weight", &[1 << 40, 1 << 20], &[0; 64])).await;
    assert!(
        tensor.starts_with("m.gguf: has a tensor \"blk.0.attn_q.weight\" that is larger than the file"),
        "{tensor}"
    );
    let long = refusal(|gguf| gguf.pair("general.name", 8, &u64::MAX.to_le_bytes())).await;
    assert_eq!(long, "m.gguf: is cut short, or its header is longer than any model's");
    let list = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
    let nested = refusal(|gguf| gguf.pair("general.tags", 9, &list.repeat(100))).await;
    assert_eq!(nested, "m.gguf: has lists in lists, or longer ones than any model has");
    let kind = refusal(|gguf| gguf.pair("general.name", 13, &[0; 8])).await;
    assert_eq!(kind, "m.gguf: has a value of the type 13, which is not known");
}
