//! The OpenAPI documents say what the gateway does, and the gateway does what they say.

mod answers;
mod bad_input;
pub mod documents;
pub mod places;
mod requests;
mod witness;

use std::collections::BTreeSet;

use serde_json::Value;
use sluicegate_compat::native::ErrorCode;

use self::documents::{DIALECTS, Document, NATIVE};
use crate::harness::{Gate, says};

/// Calls `visit` with every value of a document and the pointer to it.
fn visit(value: &Value, pointer: &str, visitor: &mut impl FnMut(&str, &Value)) {
    visitor(pointer, value);
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                visit(value, &format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), visitor);
            }
        }
        Value::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                visit(value, &format!("{pointer}/{index}"), visitor);
            }
        }
        _ => {}
    }
}

#[test]
fn the_documents_list_exactly_the_routes_of_the_router() {
    let router = include_str!("../../src/api.rs");
    let mut routes = BTreeSet::new();
    let router = router.replace(".route(\n            ", ".route(").replace("\",\n            ", "\", ");
    for line in router.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, methods) = line.split_once("\", ").unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == method) {
                routes.insert(format!("{method} {}", path.replace("{*", "{")));
            }
        }
    }
    assert!(routes.len() > 10, "the lines of the router are read: {routes:?}");
    let documents = Document::both();
    let operations = documents.iter().flat_map(Document::operations);
    let documented: BTreeSet<_> =
        operations.map(|operation| format!("{} {}", operation.method, operation.path)).collect();
    assert_eq!(documented, routes);
    for (document, prefix) in documents.iter().zip(["/v2/", "/v1/"]) {
        assert!(document.operations().any(|operation| operation.path.starts_with(prefix)));
        let other = if prefix == "/v1/" { "/v2/" } else { "/v1/" };
        assert!(!document.operations().any(|operation| operation.path.starts_with(other)));
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    for document in Document::both() {
        assert_eq!(document.root["openapi"], "3.1.0");
        let mut referred = BTreeSet::new();
        visit(&document.root, "", &mut |_, value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                document.resolve(value);
                referred.insert(reference.to_owned());
            }
            // A security scheme is referred to by its name.
            for requirement in value.get("security").and_then(Value::as_array).into_iter().flatten() {
                let names = requirement.as_object().unwrap().keys();
                referred.extend(names.map(|name| format!("#/components/securitySchemes/{name}")));
            }
        });
        for (kind, components) in document.root["components"].as_object().unwrap() {
            for name in components.as_object().unwrap().keys() {
                let reference = format!("#/components/{kind}/{name}");
                assert!(referred.contains(&reference), "{reference} is not used");
            }
        }
    }
}

#[test]
fn a_reference_to_another_document_leads_there_and_one_without_a_name_stays() {
    let all = || NATIVE.into_iter().chain(DIALECTS);
    let find = |name: &str| all().find(|(known, _)| *known == name).map(|(_, text)| Document::parse(text));
    for (name, text) in all() {
        let document = Document::parse(text);
        visit(&document.root, "", &mut |pointer, value| {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return };
            let (file, target) = reference.split_once('#').unwrap();
            let file = if file.is_empty() { name } else { file };
            let home = find(file).unwrap_or_else(|| panic!("{name}, {pointer}: there is no {file}"));
            assert!(home.root.pointer(target).is_some(), "{name}, {pointer}: nothing is at {reference}");
        });
    }
}

#[test]
fn every_schema_is_one_and_every_closed_object_names_its_fields() {
    for document in Document::both() {
        visit(&document.root, "", &mut |pointer, value| {
            if pointer.ends_with("/schema")
                || pointer.starts_with("/components/schemas/") && pointer.split('/').count() == 4
            {
                jsonschema::meta::validate(value).unwrap_or_else(|error| panic!("{pointer}: {error}"));
                document.mistakes(value, &Value::Null);
            }
            let names =
                |key: &str| value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            if let Some(properties) =
                value.get("properties").filter(|_| value.get("additionalProperties") == Some(&false.into()))
            {
                for name in names("required") {
                    assert!(properties.get(name).is_some(), "{pointer} requires {name}, which it does not have");
                }
            }
        });
    }
}

#[test]
fn every_operation_is_told_apart_and_described() {
    let mut ids = BTreeSet::new();
    for document in Document::both() {
        let tags = document.root["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect::<Vec<_>>();
        for operation in document.operations() {
            let place = format!("{} {}", operation.method, operation.path);
            assert!(ids.insert(operation.value["operationId"].as_str().unwrap().to_owned()), "{place}");
            assert!(operation.value["summary"].is_string(), "{place}");
            assert!(operation.value["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)), "{place}");
            let parameters =
                operation.value["parameters"].as_array().unwrap().iter().map(|value| document.resolve(value));
            let in_path = parameters.clone().filter(|parameter| parameter["in"] == "path");
            let in_path: Vec<_> =
                in_path.map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap())).collect();
            assert_eq!(in_path.len(), operation.path.matches('{').count(), "{place}");
            assert!(in_path.iter().all(|name| operation.path.contains(name)), "{place}");
            for parameter in parameters {
                assert!(
                    parameter["description"].is_string() && parameter["schema"].is_object(),
                    "{place}: {parameter}"
                );
            }
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    for document in Document::both() {
        let mut examples = 0;
        let mut without = Vec::new();
        visit(&document.root, "", &mut |pointer, value| {
            let Some(schema) = value.get("schema") else { return };
            for (name, example) in value.get("examples").and_then(Value::as_object).into_iter().flatten() {
                let mistakes = document.mistakes(schema, &example["value"]);
                assert!(mistakes.is_empty(), "{pointer}, {name}: {mistakes:#?}");
                if value.get("x-sse-events").is_some() {
                    document.events(value, example["value"].as_str().unwrap(), pointer);
                }
                examples += 1;
            }
            if let Some(example) = value.get("example") {
                assert_eq!(document.mistakes(schema, example), Vec::<String>::new(), "{pointer}");
            }
            let of_a_body = pointer.contains("/content/") && !pointer.contains("/examples/");
            if of_a_body && value.get("examples").is_none() {
                without.push(pointer.to_owned());
            }
        });
        assert!(examples > 10 && without.is_empty(), "{examples} examples, none at {without:?}");
    }
}

#[test]
fn the_error_codes_are_those_of_the_program() {
    let [native, _] = Document::both();
    let documented = &native.root["components"]["schemas"]["ErrorCode"]["enum"];
    let codes: Vec<_> = ErrorCode::ALL.map(ErrorCode::as_str).to_vec();
    assert_eq!(*documented, Value::from(codes));
    let mut examples = 0;
    for operation in native.operations() {
        for (status, response) in operation.value["responses"].as_object().unwrap() {
            visit(native.resolve(response), "", &mut |_, value| {
                let Some(code) = value.pointer("/value/code").and_then(Value::as_str) else { return };
                let known = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code).unwrap();
                // A clash of idempotency keys is a conflict that no client may repeat, and so is one with `If-Match`.
                let clash = known == ErrorCode::Conflict && matches!(status.as_str(), "412" | "422");
                assert!(clash || known.http_status().to_string() == *status, "{code}: {status}");
                examples += 1;
            });
        }
    }
    assert!(examples > 20, "{examples}");
}

#[tokio::test(start_paused = true)]
async fn the_version_of_the_document_is_that_of_the_api() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let version = gate.get("/v2/meta/version").await.json()["api_version"].clone();
    for (name, text) in NATIVE.into_iter().chain(DIALECTS) {
        assert_eq!(Document::parse(text).root["info"]["version"], version, "{name}");
        assert_eq!(gate.get(&format!("/openapi/{name}")).await.body, text);
    }
    gate.finish().await;
}

/// The other tests are worth what they notice.
#[tokio::test(start_paused = true)]
async fn what_a_document_does_not_say_is_noticed() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let answer = gate.get("/v2/meta/version").await;
    let lost = [
        "/components/schemas/Version/properties/gateway_version",
        "/paths/~1v2~1meta~1version/get/responses/200",
        "/paths/~1v2~1meta~1version/get/responses/200/headers/X-Correlation-Id",
        "/paths/~1v2~1meta~1version/get/responses/200/content/application~1json",
    ];
    let agrees = |document: &Document| {
        let check = || document.assert_documented("GET", "/v2/meta/version", &answer);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_ok()
    };
    assert!(agrees(&Document::native()));
    for pointer in lost {
        let mut document = Document::native();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = document.root.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        assert!(parent.remove(&name.replace("~1", "/")).is_some(), "{pointer}");
        assert!(!agrees(&document), "nobody misses {pointer}");
    }
    gate.finish().await;
}
