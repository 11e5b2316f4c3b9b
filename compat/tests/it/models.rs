//! The models' objects.

use async_openai::types::models::{ListModelResponse, Model as TheirModel};
use sluicegate_compat::native::{Modality, Workload};
use sluicegate_compat::openai::{Model, ModelFacts, ModelList};

fn model() -> Model {
    let facts = ModelFacts {
        context_length: Some(4096),
        pool_state: Some("ready".into()),
        workloads: vec![Workload::Completion, Workload::Embedding],
        modalities: vec![Modality::Text, Modality::Image],
    };
    Model::new("org/model", 1_700_000_000, "org", facts)
}

#[test]
fn a_model_carries_what_the_gateway_knows_of_it() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&ModelList::new(vec![model()])).unwrap(), @r#"
    {
      "object": "list",
      "data": [
        {
          "id": "org/model",
          "object": "model",
          "created": 1700000000,
          "owned_by": "org",
          "sluicegate": {
            "context_length": 4096,
            "pool_state": "ready",
            "workloads": [
              "completion",
              "embedding"
            ],
            "modalities": [
              "text",
              "image"
            ]
          }
        }
      ]
    }
    "#);
}

#[test]
fn async_openai_reads_a_model_and_the_list() {
    let one: TheirModel = serde_json::from_value(serde_json::to_value(model()).unwrap()).unwrap();
    assert_eq!((one.id.as_str(), one.object.as_str()), ("org/model", "model"));
    let list = serde_json::to_value(ModelList::new(vec![model(), model()])).unwrap();
    let list: ListModelResponse = serde_json::from_value(list).unwrap();
    assert_eq!(list.data, [one.clone(), one]);
}
