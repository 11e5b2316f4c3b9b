//! Which pools there are where the configuration says little about them.

use insta::assert_snapshot;
use sluicegate::config::{Config, Overrides};

use super::{HOME, file};

#[test]
fn whoever_says_something_about_pools_a_model_or_an_engine_has_no_pool_beside_that() {
    let pools = |set: &[(&str, &str)], overrides: Overrides| {
        let environment = [&[HOME], set].concat();
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::load(None, environment, overrides).unwrap();
        config.pools.into_iter().map(|pool| (pool.id, pool.model)).collect::<Vec<_>>()
    };
    let only = |model: &str| vec![("default".to_owned(), model.to_owned())];
    let flags = |model: Option<&str>, engine: Option<&str>| {
        let (model, engine) = (model.map(str::to_owned), engine.map(str::to_owned));
        Overrides { model, engine, ..Overrides::default() }
    };
    assert_eq!(pools(&[("SLUICEGATE_POOLS__0__SLOTS", "2")], flags(None, None)), only("builtin"));
    assert_eq!(pools(&[], flags(Some("builtin-embedding"), None)), only("builtin-embedding"));
    assert_eq!(pools(&[], flags(None, Some("scripted"))), only("builtin"));
    assert_eq!(pools(&[("SLUICEGATE_ADMISSION__RETENTION_MS", "5")], Overrides::default()).len(), 2);
}

#[test]
fn the_memory_of_a_gpu_is_shared_by_plan() {
    let share = |config: &Config| config.pools.iter().map(|pool| pool.gpu_memory_share).collect::<Vec<_>>();
    let pools = |first: &str, second: &str| {
        let text = format!("[[pools]]\nid = \"a\"\n{first}\n[[pools]]\nid = \"b\"\n{second}\n");
        text.replace("; ", "\n")
    };
    // Nobody says how: each replica has an equal part.
    let alike = pools("device = \"cuda:0\"; replicas = 2", "");
    assert_eq!(share(&file(&alike).config()), [0.3, 0.3]);
    // One says how much it has, and the other has the rest.
    let stated = pools("device = \"cuda:0\"; gpu_memory_share = 0.2; replicas = 2", "device = \"cuda:0\"");
    assert_eq!(share(&file(&stated).config()), [0.2, 0.5]);
    // The least that one of its GPUs leaves; another GPU is another matter.
    let over = pools("device = [\"cuda:0\", \"cuda:1\"]", "device = \"cuda:1\"; gpu_memory_share = 0.6");
    assert_eq!(share(&file(&over).config()), [0.3, 0.6]);
    let mistakes = |text: &str| file(text).mistakes();
    let both = "device = \"cuda:0\"; gpu_memory_share = 0.6";
    assert_snapshot!(mistakes(&pools(both, both)), @":8: pools[1].gpu_memory_share: the replicas on cuda:0 have 120 % of its memory together; 95 % at most");
    assert_snapshot!(mistakes(&pools("device = \"cuda:0\"; gpu_memory_share = 0.95", "")), @":5: pools[1].gpu_memory_share: other pools leave it nothing of the memory of cuda:0: say how much it has");
    assert_snapshot!(mistakes(&pools("device = [\"cuda:0\", \"cuda:0\"]; gpu_memory_share = 1.5", "device = []")), @r#"
    :3: pools[0].device: one of "auto", "cpu", "cuda:0", or a list of GPUs, each once
    :4: pools[0].gpu_memory_share: 0 to 0.95
    :7: pools[1].device: one of "auto", "cpu", "cuda:0", or a list of GPUs, each once
    "#);
    assert_snapshot!(mistakes(&pools("device = 7", "device = [\"cuda:0\", \"cpu\"]")), @r#"
    :3: pools[0].device: a device is a text, several are a list of texts
    :6: pools[1].device: one of "auto", "cpu", "cuda:0", or a list of GPUs, each once
    "#);
    assert_snapshot!(mistakes("[[catalog.models]]\nid = \"m\"\nsource = \"hf:a/b\"\nquantization = \"q3\""), @r#":4: catalog.models[0].quantization: one of "q2k", "q3k", "q4_0", "q4_1", "q4k", "q5_0", "q5_1", "q5k", "q6k", "q8_0", "hqq4", "hqq8""#);
}
