//! What holds of every body that is nearly one that a real client sends: goldens with members left out, of other types, of
//! other goldens, unknown, or nested deeply.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use sluicegate_compat::native::ErrorCode;

use crate::goldens::{self, Golden, members, place, translated, without};

static GOLDENS: LazyLock<Vec<Golden>> = LazyLock::new(goldens::all);

/// One thing that is wrong with a body; indices say where.
#[derive(Debug, Clone)]
enum Change {
    /// A member is not there.
    Removed(Index),
    /// It is something else.
    Replaced(Index, Value),
    /// It is what another one is, there or in another golden.
    Exchanged(Index, Index, Index),
    /// An element is there twice.
    Repeated(Index),
    /// It is as deep as this.
    Nested(Index, usize),
    /// An object has a member that nobody knows.
    Added(Index, Value),
}

fn any_change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        index().prop_map(Change::Removed),
        (index(), any_value()).prop_map(|(at, value)| Change::Replaced(at, value)),
        (index(), index(), index()).prop_map(|(at, golden, other)| Change::Exchanged(at, golden, other)),
        index().prop_map(Change::Repeated),
        (index(), 1..200usize).prop_map(|(at, depth)| Change::Nested(at, depth)),
        (index(), any_value()).prop_map(|(at, value)| Change::Added(at, value)),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let object = proptest::collection::btree_map("[a-z_]{1,12}", inner.clone(), 0..3);
        prop_oneof![
            vec(inner, 0..3).prop_map(Value::from),
            object.prop_map(|members| Value::Object(members.into_iter().collect()))
        ]
    })
}

/// A member of `body` to change; each golden has some.
fn member(body: &Value, at: &Index) -> Option<String> {
    let members = members(body);
    (!members.is_empty()).then(|| at.get(&members).clone())
}

/// The objects of `body`, itself first.
fn objects(body: &Value) -> Vec<String> {
    let nested = members(body).into_iter().flat_map(|pointer| match body.pointer(&pointer) {
        Some(Value::Array(elements)) => (0..elements.len()).map(|index| format!("{pointer}/{index}")).collect(),
        _ => vec![pointer],
    });
    let objects = nested.filter(|pointer| body.pointer(pointer).is_some_and(Value::is_object));
    std::iter::once(String::new()).chain(objects).collect()
}

fn changed(mut body: Value, change: &Change) -> Value {
    let (Change::Removed(at)
    | Change::Replaced(at, _)
    | Change::Exchanged(at, ..)
    | Change::Repeated(at)
    | Change::Nested(at, _)
    | Change::Added(at, _)) = change;
    let Some(pointer) = member(&body, at) else { return body };
    if matches!(change, Change::Removed(_)) {
        return without(&body, &pointer);
    }
    if let Change::Added(at, value) = change {
        return with_unknown(body, at, value).0;
    }
    let place = body.pointer_mut(&pointer).unwrap();
    match change {
        Change::Replaced(_, value) => *place = value.clone(),
        Change::Exchanged(_, golden, other) => {
            let other_body = &golden.get(&GOLDENS).body;
            *place = other_body.pointer(&member(other_body, other).unwrap()).unwrap().clone();
        }
        Change::Repeated(_) => {
            if let Value::Array(elements) = place {
                elements.extend(elements.last().cloned());
            }
        }
        Change::Nested(_, depth) => {
            let inner = place.take();
            *place = (0..*depth)
                .fold(inner, |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"a": inner}) });
        }
        Change::Removed(_) | Change::Added(..) => {}
    }
    body
}

/// `body` with a member that nobody knows in one of its objects, and its place.
fn with_unknown(mut body: Value, at: &Index, value: &Value) -> (Value, String) {
    let object = at.get(&objects(&body)).clone();
    body.pointer_mut(&object).unwrap()["colour_of_it"] = value.clone();
    (body, place(&format!("{object}/colour_of_it")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_makes_it_panic_and_each_refusal_names_its_field(golden: Index, changes in vec(any_change(), 1..4)) {
        let golden = golden.get(&GOLDENS);
        let body = changes.iter().fold(golden.body.clone(), changed);
        match translated(&golden.path, body.to_string().as_bytes()) {
            Ok(understood) => {
                prop_assert!(understood.ignored.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_graphic())));
            }
            Err(error) => {
                // What is not found is an item or a response that the body refers to.
                prop_assert!(matches!(error.code, ErrorCode::InvalidParams | ErrorCode::NotFound), "{}", error.message);
                prop_assert!(!error.message.is_empty() && error.message.len() < 600, "{}", error.message);
                let named = error.param.as_deref().is_some_and(|param| !param.is_empty());
                prop_assert!(named, "{} {}", error.message, body);
            }
        }
    }

    #[test]
    fn a_member_that_nobody_knows_is_named_or_passed_on(golden: Index, at: Index, value in any_value()) {
        let golden = golden.get(&GOLDENS);
        let plain = translated(&golden.path, golden.body.to_string().as_bytes());
        let (body, place) = with_unknown(golden.body.clone(), &at, &value);
        match (plain, translated(&golden.path, body.to_string().as_bytes())) {
            (Ok(plain), Ok(understood)) if value.is_null() => {
                prop_assert_eq!(plain.ignored, understood.ignored);
            }
            (Ok(plain), Ok(understood)) => {
                let named = understood.names(&place);
                // Such as in a schema, or in the arguments of a call.
                let passed_on = plain.tasks != understood.tasks;
                prop_assert!(named != passed_on, "{place} {:?}", understood.ignored);
            }
            // What is refused without it is refused with it.
            (Err(plain), Err(refused)) => prop_assert_eq!(plain.param, refused.param),
            (Err(plain), Ok(_)) => prop_assert!(false, "{}", plain.message),
            // In a place where only some values may stand.
            (Ok(_), Err(error)) => prop_assert!(error.param.is_some(), "{}", error.message),
        }
    }
}
