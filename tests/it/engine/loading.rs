//! What is wrong with a model's files is said in one line that names the file.

use std::fs;
use std::path::Path;

use sluicegate::engine::LoadError;
use sluicegate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles};

use super::embedding::builtin_embedding;
use super::{builtin_model, spec};

/// A copy of the built-in model that may be spoilt.
fn copy() -> tempfile::TempDir {
    copy_of(&builtin_model())
}

fn copy_of(model: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy_into(folder.path(), model);
    folder
}

fn copy_into(folder: &Path, model: &Path) {
    for entry in fs::read_dir(model).expect("a model") {
        let path = entry.expect("an entry").path();
        let copy = folder.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir(&copy).expect("a folder");
            copy_into(&copy, &path);
        } else {
            fs::copy(&path, copy).expect("copies");
        }
    }
}

async fn error(spec: LoadSpec) -> String {
    let LoadError(message) = MistralEngine::load(spec).await.err().expect("does not load");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

async fn spoilt(spoil: impl FnOnce(&Path)) -> String {
    spoilt_copy(copy(), spoil).await
}

async fn spoilt_copy(folder: tempfile::TempDir, spoil: impl FnOnce(&Path)) -> String {
    spoil(folder.path());
    let path = folder.path().to_path_buf();
    let message = error(spec(ModelFiles::Folder(path))).await;
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("reads");
    assert!(text.contains(from), "{path:?} has {from:?}");
    fs::write(path, text.replacen(from, to, 1)).expect("writes");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_broken_files_are_named() {
    let remove = |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).expect("removes");
    assert_eq!(spoilt(remove("config.json")).await, "config.json: No such file or directory (os error 2)");
    assert_eq!(spoilt(remove("tokenizer.json")).await, "tokenizer.json: No such file or directory (os error 2)");
    let weights = spoilt(remove("model.safetensors")).await;
    assert!(weights.ends_with("has no weights: no file ends in .safetensors"), "{weights}");
    let cut = |folder: &Path| {
        let file = fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).expect("opens");
        file.set_len(100_000).expect("cuts");
    };
    let message = spoilt(cut).await;
    assert!(message.starts_with("model.safetensors: has 100000 bytes, and its header tells of "), "{message}");
    let garbage = |folder: &Path| fs::write(folder.join("model.safetensors"), [0xff; 64]).expect("writes");
    assert_eq!(spoilt(garbage).await, "model.safetensors: is not a safetensors file");
    let json = spoilt(|folder| fs::write(folder.join("config.json"), "{").expect("writes")).await;
    assert!(json.starts_with("config.json: is not JSON: EOF"), "{json}");
    let tokenizer = spoilt(|folder| fs::write(folder.join("tokenizer.json"), "{}").expect("writes")).await;
    assert!(tokenizer.starts_with("tokenizer.json: is not a tokenizer: "), "{tokenizer}");
    let template = spoilt(|folder| fs::write(folder.join("chat_template.jinja"), "{% if %}").expect("writes")).await;
    assert!(template.starts_with("chat_template.jinja: chat template: "), "{template}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_run_is_said() {
    let unknown = |folder: &Path| edit(&folder.join("config.json"), "Qwen3ForCausalLM", "NoSuchForCausalLM");
    assert_eq!(
        spoilt(unknown).await,
        "config.json: the architecture NoSuchForCausalLM is not one that the engine runs"
    );
    // Wrong shapes pass our checks; the engine's own words then follow the folder's name.
    let shape =
        spoilt(|folder| edit(&folder.join("config.json"), "\"intermediate_size\": ", "\"intermediate_size\": 1")).await;
    assert!(shape.contains("shape mismatch"), "{shape}");
    let nowhere = error(spec(ModelFiles::Folder("/no/such/folder".into()))).await;
    assert_eq!(nowhere, "/no/such/folder: is not a folder");
    let gguf = error(spec(ModelFiles::Gguf(builtin_model().join("config.json")))).await;
    assert!(gguf.ends_with("config.json: is not a GGUF file"), "{gguf}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_not_there_is_an_error_and_not_a_fallback() {
    let wanted = LoadSpec { device: Device::Cuda(63), ..spec(ModelFiles::Folder(builtin_model())) };
    let message = error(wanted).await;
    assert!(message.starts_with("cuda:63: "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_the_weights_cannot_bear_out_are_refused_before_room_is_made_for_them() {
    let layers = |folder: &Path| {
        edit(&folder.join("config.json"), "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000000");
    };
    assert_eq!(
        spoilt(layers).await,
        "config.json: `num_hidden_layers` is 1000000000, and the weights allow 46 at most: they are of another model"
    );
    let context = |folder: &Path| {
        let (from, to) = ("\"max_position_embeddings\": 4096", "\"max_position_embeddings\": 1000000000000");
        edit(&folder.join("config.json"), from, to);
    };
    let message = spoilt(context).await;
    assert!(message.starts_with("config.json: `max_position_embeddings` is 1000000000000, and "), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_embed_with_is_refused_and_named() {
    let wrong = |file: &'static str, from: &'static str, to: &'static str| {
        spoilt_copy(copy_of(&builtin_embedding()), move |folder| edit(&folder.join(file), from, to))
    };
    let (modules, pooling) = ("modules.json", "1_Pooling/config.json");
    let cases = [
        (modules, "models.Pooling", "models.CNN", "modules.json: the engine needs a Transformer and a Pooling"),
        (modules, "models.Normalize", "models.WordWeights", "modules.json: after them the engine runs Dense"),
        (modules, "\"1_Pooling\"", "\"../1_Pooling\"", "modules.json: the path of a module is the name of a folder"),
        (modules, "\"1_Pooling\"", "\"nowhere\"", "nowhere/config.json: No such file"),
        (modules, "[", "{", "modules.json: is not JSON"),
        (
            pooling,
            "\"pooling_mode_cls_token\": false",
            "\"pooling_mode_cls_token\": true",
            "1_Pooling/config.json: the engine takes",
        ),
        (
            pooling,
            "\"pooling_mode_lasttoken\": true",
            "\"pooling_mode_lasttoken\": false",
            "1_Pooling/config.json: the engine takes",
        ),
        (pooling, "\"include_prompt\"", "\"exclude_prompt\"", "1_Pooling/config.json: missing field `include_prompt`"),
        (pooling, "128", "256", "1_Pooling/config.json: `word_embedding_dimension` is not"),
        ("config.json", "Qwen3ForCausalLM", "BertModel", "config.json: the architecture BertModel is not one"),
    ];
    for (file, from, to, message) in cases {
        let said = wrong(file, from, to).await;
        assert!(said.starts_with(message), "{said}");
    }
}
