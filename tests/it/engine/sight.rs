//! The real engine with a model that sees: a tiny one of the family Gemma 3, with weights that mean nothing.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use safetensors::tensor::{Dtype, TensorView};
use sluicegate_compat::native::{Content, ContentPart, Image, Modality};
use tempfile::TempDir;

use super::*;

/// Tokens of an image, apart from those around it.
const TOKENS: usize = 4;

/// Writes a model into `folder`.
pub fn seeing_model(folder: &Path) {
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(builtin_model().join("tokenizer.json")).unwrap()).unwrap();
    for (id, content) in (1024..).zip(["<start_of_image>", "<end_of_image>", "<image_soft_token>"]) {
        let flags =
            json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let mut token = json!({"id": id, "content": content});
        token.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    }
    write("tokenizer.json", &tokenizer);
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
                    {% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
                    {% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}\
                    {% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    write("tokenizer_config.json", &json!({"eos_token": "<|im_end|>", "chat_template": template}));
    let text = json!({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16, "vocab_size": 1032, "sliding_window": 64,
        "max_position_embeddings": 2048});
    let vision = json!({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8});
    write(
        "config.json",
        &json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": text, "vision_config": vision, "image_token_index": 1026, "mm_tokens_per_image": TOKENS,
        "eos_token_id": 2}),
    );
    write(
        "preprocessor_config.json",
        &json!({"size": {"height": 32, "width": 32}, "resample": 2, "do_resize": true,
        "do_rescale": true, "rescale_factor": 1.0 / 255.0, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "image_seq_length": TOKENS}),
    );
    write("processor_config.json", &json!({"image_seq_length": TOKENS}));
    write("generation_config.json", &json!({"eos_token_id": 2}));
    safetensors::serialize_to_file(
        weights()
            .iter()
            .map(|(name, (shape, bytes))| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())),
        None,
        &folder.join("model.safetensors"),
    )
    .unwrap();
}

type Weights = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Noise of a fixed seed.
fn weights() -> Weights {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    add("language_model.model.embed_tokens.weight".into(), &[1032, 32]);
    add("language_model.model.norm.weight".into(), &[32]);
    for layer in 0..2 {
        let at = format!("language_model.model.layers.{layer}");
        for norm in
            ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        {
            add(format!("{at}.{norm}.weight"), &[32]);
        }
        for (name, shape) in [("q_proj", [32, 32]), ("k_proj", [16, 32]), ("v_proj", [16, 32]), ("o_proj", [32, 32])] {
            add(format!("{at}.self_attn.{name}.weight"), &shape);
        }
        for name in ["q_norm", "k_norm"] {
            add(format!("{at}.self_attn.{name}.weight"), &[16]);
        }
        for (name, shape) in [("gate_proj", [64, 32]), ("up_proj", [64, 32]), ("down_proj", [32, 64])] {
            add(format!("{at}.mlp.{name}.weight"), &shape);
        }
    }
    let tower = "vision_tower.vision_model";
    add(format!("{tower}.embeddings.patch_embedding.weight"), &[32, 3, 8, 8]);
    add(format!("{tower}.embeddings.patch_embedding.bias"), &[32]);
    add(format!("{tower}.embeddings.position_embedding.weight"), &[16, 32]);
    add(format!("{tower}.post_layernorm.weight"), &[32]);
    add(format!("{tower}.post_layernorm.bias"), &[32]);
    let layer = format!("{tower}.encoder.layers.0");
    for (name, rows, columns) in [
        ("self_attn.q_proj", 32, 32),
        ("self_attn.k_proj", 32, 32),
        ("self_attn.v_proj", 32, 32),
        ("self_attn.out_proj", 32, 32),
        ("mlp.fc1", 64, 32),
        ("mlp.fc2", 32, 64),
    ] {
        add(format!("{layer}.{name}.weight"), &[rows, columns]);
        add(format!("{layer}.{name}.bias"), &[rows]);
    }
    for norm in ["layer_norm1", "layer_norm2"] {
        add(format!("{layer}.{norm}.weight"), &[32]);
        add(format!("{layer}.{norm}.bias"), &[32]);
    }
    add("multi_modal_projector.mm_input_projection_weight".into(), &[32, 32]);
    add("multi_modal_projector.mm_soft_emb_norm.weight".into(), &[32]);
    let mut state = 7_u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * 0.6
    };
    let filled = shapes.into_iter().map(|(name, shape)| {
        let bytes = (0..shape.iter().product()).flat_map(|_| noise().to_le_bytes()).collect();
        (name, (shape, bytes))
    });
    filled.collect()
}

/// A `data:` URL of an image of one colour.
pub fn image_of(colour: [u8; 3], width: u32, height: u32) -> String {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgb8(RgbImage::from_pixel(width, height, Rgb(colour)));
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes.into_inner()))
}

/// A message with these texts, and an image between each two of them.
fn chat(texts: &[&str], images: &[String]) -> Arc<Prompt> {
    let mut parts = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        parts.push(ContentPart::Text { text: (*text).to_owned() });
        if let Some(url) = images.get(index) {
            let image_url = Image { url: url.clone(), detail: None, place: None };
            parts.push(ContentPart::ImageUrl { image_url });
        }
    }
    let message = Message { content: Some(Content::Parts(parts)), ..Message::text(Role::User, "") };
    Arc::new(Prompt::Chat(Chat { messages: vec![message], ..Chat::default() }))
}

async fn seeing() -> (MistralEngine, TempDir) {
    let folder = TempDir::new().unwrap();
    seeing_model(folder.path());
    let loaded = MistralEngine::load(spec(ModelFiles::Folder(folder.path().to_owned()))).await;
    (loaded.unwrap_or_else(|error| panic!("{error}")), folder)
}

/// How likely the model finds the first tokens of its answer: more telling than the words of one that knows nothing.
async fn answer(engine: &MistralEngine, prompt: &Arc<Prompt>) -> Vec<f32> {
    let prompt = engine.prepare(prompt).expect("it can be shown");
    let generation = Generation { prompt, top_logprobs: Some(0), ..greedy([0].into(), 4) };
    let (pieces, finished) = collect(engine, generation).await;
    finished.expect("finishes");
    pieces.iter().map(|piece| piece.logprobs.as_ref().expect("asked for").logprob).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_counted_and_changes_the_answer() {
    let (engine, _folder) = seeing().await;
    assert_eq!(engine.info().modalities, [Modality::Text, Modality::Image]);
    let hello = answer(&engine, &chat(&["Hello"], &[])).await;
    let (red, blue) = (image_of([250, 0, 0], 40, 20), image_of([0, 0, 250], 40, 20));
    let prepared = engine.prepare(&chat(&["What is ", "this?"], std::slice::from_ref(&red))).unwrap();
    let without = engine.prepare(&chat(&["What is \n\n<>\n\nthis?"], &[])).unwrap();
    let shown = prepared.ids().iter().filter(|id| **id == 1026).count();
    assert_eq!(shown, TOKENS);
    assert!(prepared.len() > without.len(), "{} {}", prepared.len(), without.len());

    let one = |url: &String| chat(&["What is ", "this?"], std::slice::from_ref(url));
    let (of_red, of_blue) = (answer(&engine, &one(&red)).await, answer(&engine, &one(&blue)).await);
    assert_ne!(of_red, of_blue);
    assert_eq!(answer(&engine, &one(&red)).await, of_red, "whatever was shown between");
    // Each stands in its place; one that is larger is made smaller.
    let both = [red.clone(), blue.clone()];
    let two = answer(&engine, &chat(&["Is ", " or ", "?"], &both)).await;
    let turned = answer(&engine, &chat(&["Is ", " or ", "?"], &[blue.clone(), red.clone()])).await;
    assert_ne!(two, turned, "each stands in its place");
    assert!(!answer(&engine, &one(&image_of([9, 9, 9], 3000, 20))).await.is_empty());
    assert_eq!(answer(&engine, &chat(&["Hello"], &[])).await, hello, "whatever was shown before");
    engine.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_refused_before_it_runs() {
    let (engine, _folder) = seeing().await;
    let refused = |prompt: Arc<Prompt>| engine.prepare(&prompt).unwrap_err().message;
    let good = image_of([1, 2, 3], 8, 8);
    let cut = BASE64_STANDARD.decode(&good["data:image/png;base64,".len()..]).unwrap();
    let cut = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&cut[..cut.len() / 2]));
    insta::assert_snapshot!(refused(chat(&["", ""], &[cut])), @"an image: the image is damaged");
    let forged = chat(&["<start_of_image> and ", "<|im_end|>"], std::slice::from_ref(&good));
    let split = vec!["<end_of_", "image>", ""].into_iter().map(|text| ContentPart::Text { text: text.to_owned() });
    let image_url = Image { url: good.clone(), detail: None, place: None };
    let parts = split.chain([ContentPart::ImageUrl { image_url }]).collect();
    let message = Message { content: Some(Content::Parts(parts)), ..Message::text(Role::User, "") };
    let split = refused(Arc::new(Prompt::Chat(Chat { messages: vec![message], ..Chat::default() })));
    assert!(split.contains("<end_of_image>"), "{split}");
    insta::assert_snapshot!(refused(forged), @r#"in a conversation with images no text can hold "<start_of_image>", a token of the model"#);
    engine.unload().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_images_are_not_as_the_engine_takes_them_is_not_loaded() {
    let mut told = String::new();
    for (file, name, value) in [
        ("preprocessor_config.json", "do_pan_and_scan", json!(true)),
        ("preprocessor_config.json", "do_resize", json!(false)),
        ("preprocessor_config.json", "size", json!({"height": 32, "width": 1_000_000})),
        ("preprocessor_config.json", "resample", json!(9)),
        ("processor_config.json", "image_seq_length", json!(5)),
        ("processor_config.json", "chat_template", json!("x")),
        ("preprocessor_config.json", "size", json!({"height": 16, "width": 16})),
        ("config.json", "mm_tokens_per_image", json!(5)),
        ("config.json", "image_token_index", json!(1025)),
        ("config.json", "vision_config", Value::Null),
    ] {
        let folder = TempDir::new().unwrap();
        seeing_model(folder.path());
        let path = folder.path().join(file);
        let mut content: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        content[name] = value;
        std::fs::write(&path, content.to_string()).unwrap();
        let loaded = MistralEngine::load(spec(ModelFiles::Folder(folder.path().to_owned()))).await;
        let Err(error) = loaded else { panic!("{file} {name}") };
        told += &error.to_string().replace(&folder.path().display().to_string(), "…");
        told += "\n";
    }
    insta::assert_snapshot!(told, @"
    …/preprocessor_config.json: `do_pan_and_scan` is not served
    …/preprocessor_config.json: images are resized, rescaled and normalized, and it does not say so
    …/preprocessor_config.json: images of 1000000 x 32 pixels are not served
    …/preprocessor_config.json: `resample` is 9, which is not served
    …/processor_config.json: an image has 5 tokens, and config.json says something else
    …/processor_config.json: a chat template stands in a file of its own
    …/preprocessor_config.json: images of 16 x 16 pixels are not those of config.json
    …/processor_config.json: an image has 4 tokens, and config.json says something else
    …: <image_soft_token> is 1026, and `image_token_index` 1025
    …/config.json: the architecture Gemma3ForConditionalGeneration is not one that the engine runs
    ");
}
