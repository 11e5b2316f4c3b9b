//! How many ways an answer can go on at one place of it: a grammar follows all of them at once.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{join, violation};
use crate::native::request::Violation;

/// Properties of one object.
const MOST_PROPERTIES: usize = 1000;

/// What may come next at one place of an answer: properties that are not required, of which any may be the next one, and
/// alternatives, each of which counts as two. The grammar compiler follows all of them at once, at most 2,000 of its items,
/// of which a property takes 4 and an alternative up to 8.
pub(super) const MOST_WAYS: usize = 450;
const WAYS_OF_AN_ALTERNATIVE: usize = 2;

/// In how many ways a value can begin, as a grammar that follows all of them counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    /// Values of different shapes, and one for all that are written out.
    pub alternatives: usize,
    /// Of those, the ones that are written out: they cost nothing.
    written: usize,
    /// Properties that may come first.
    properties: usize,
}

impl Ways {
    pub const ONE: Self = Self { alternatives: 1, written: 0, properties: 0 };

    /// Those of a schema by itself.
    pub fn of(fields: &Map<String, Value>) -> Self {
        let compound = |value: &&Value| value.is_object() || value.is_array();
        match (fields.get("const"), fields.get("enum").and_then(Value::as_array)) {
            (Some(value), _) if !compound(&value) => Self { written: 1, ..Self::ONE },
            (None, Some(values)) => match values.iter().filter(compound).count() {
                0 => Self { written: 1, ..Self::ONE },
                compound => Self { alternatives: compound, ..Self::ONE },
            },
            _ => Self { properties: runs(fields)[0], ..Self::ONE },
        }
    }

    /// One of them, or one of the others.
    pub fn or(self, other: Self) -> Self {
        Self {
            alternatives: self.alternatives.saturating_add(other.alternatives),
            written: self.written.saturating_add(other.written),
            properties: self.properties.saturating_add(other.properties),
        }
    }

    /// One of them that is one of the others as well.
    pub fn and(self, other: Self) -> Self {
        let times = |one: usize, other: usize| one.saturating_mul(other);
        let mine = times(self.properties, other.alternatives);
        Self {
            alternatives: times(self.alternatives, other.alternatives),
            written: times(self.written, other.alternatives).max(times(other.written, self.alternatives)),
            properties: mine.saturating_add(times(other.properties, self.alternatives)),
        }
    }

    pub fn sum(self) -> usize {
        let alternatives = self.alternatives.saturating_sub(self.written);
        alternatives.saturating_mul(WAYS_OF_AN_ALTERNATIVE).saturating_add(self.properties)
    }
}

/// The lengths of the runs of properties that are not required, in the order in which an object has them; one follows on
/// each property that is required.
fn runs(fields: &Map<String, Value>) -> Vec<usize> {
    let names = |keyword: &str| fields.get(keyword).and_then(Value::as_object).into_iter().flat_map(Map::keys);
    let required = fields.get("required").and_then(Value::as_array).into_iter().flatten();
    let required: BTreeSet<_> = required.take(MOST_PROPERTIES).filter_map(Value::as_str).collect();
    let mut lengths = vec![0];
    for name in names("properties").take(MOST_PROPERTIES) {
        match lengths.last_mut() {
            Some(length) if !required.contains(name.as_str()) => *length += 1,
            _ => lengths.push(0),
        }
    }
    // What matches a pattern comes behind all of them.
    if let Some(last) = lengths.last_mut() {
        *last += names("patternProperties").count();
    }
    lengths
}

/// Bounds the properties of one object, and those of which any may come next.
pub(super) fn few_properties(fields: &Map<String, Value>, place: &str) -> Result<(), Violation> {
    let many = |keyword: &str, value: &Value| match value {
        Value::Object(properties) if keyword != "required" => properties.len() > MOST_PROPERTIES,
        Value::Array(names) => names.len() > MOST_PROPERTIES,
        _ => false,
    };
    for keyword in ["properties", "patternProperties", "required"] {
        if fields.get(keyword).is_some_and(|value| many(keyword, value)) {
            return violation(&join(place, keyword), "an object has at most 1,000 properties");
        }
    }
    if runs(fields).into_iter().any(|length| length > MOST_WAYS - WAYS_OF_AN_ALTERNATIVE) {
        let message = "at most 448 properties in a row are not required";
        return violation(&join(place, "properties"), message);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::native::schema::{Steps, check, check_loosely};

    fn check_at(schema: &Value, place: &str) -> Result<(), Violation> {
        check(schema, place, &mut Steps::default())
    }

    fn object(names: std::ops::Range<usize>, required: &[usize]) -> Value {
        let name = |n: &usize| format!("p{n:04}");
        let properties: Map<_, _> = names.map(|n| (name(&n), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties, "required": required.iter().map(name).collect::<Vec<_>>()})
    }

    #[test]
    fn an_object_has_so_many_properties_and_so_many_of_them_in_a_row_that_are_not_required() {
        let all: Vec<_> = (0..1001).collect();
        check_at(&object(0..448, &[]), "s").unwrap();
        check_at(&object(0..1000, &all[..1000]), "s").unwrap();
        // The grammar goes through them in their order.
        check_at(&object(0..897, &[448]), "s").unwrap();
        let cases = [
            (object(0..449, &[]), "s.properties"),
            (object(0..898, &[448]), "s.properties"),
            (json!({"items": object(0..449, &[])}), "s.items.properties"),
            (json!({"$defs": {"a": object(0..500, &[])}, "type": "string"}), "s.$defs.a.properties"),
            (object(0..1001, &all), "s.properties"),
            (object(0..1, &all), "s.required"),
        ];
        for (schema, place) in cases {
            assert_eq!(check_at(&schema, "s").unwrap_err().param, place);
            assert_eq!(check_loosely(&schema, "s", &mut Steps::default()).unwrap_err().param, place);
        }
    }

    #[test]
    fn what_may_come_at_one_place_is_bounded_over_all_alternatives() {
        let any = |members: Vec<Value>| json!({"anyOf": members});
        let several = |count: usize, member: &Value| any(vec![member.clone(); count]);
        check_at(&several(4, &object(0..110, &[])), "s").unwrap();
        check_at(&several(225, &json!({"type": "array"})), "s").unwrap();
        // Models that a first property tells apart, and words.
        check_at(&several(30, &object(0..100, &[0])), "s").unwrap();
        check_at(&any((0..2000).map(|n| json!({"const": format!("word {n}")})).collect()), "s").unwrap();
        check_at(&json!({"enum": (0..1000).collect::<Vec<_>>()}), "s").unwrap();
        let optional = object(0..200, &[]);
        let referred = json!({"oneOf": vec![json!({"$ref": "#/$defs/a"}); 3], "$defs": {"a": optional}});
        let cases = [
            (several(4, &object(0..111, &[])), "s"),
            (several(226, &json!({"type": "array"})), "s"),
            (json!({"properties": {"x": {"anyOf": [optional, several(2, &optional)]}}}), "s.properties.x"),
            (json!({"allOf": [several(2, &json!({"required": ["p0000"]})), object(0..300, &[])]}), "s"),
            (referred, "s"),
            (json!({"enum": (0..226).map(|n| json!([n])).collect::<Vec<_>>()}), "s"),
        ];
        for (schema, place) in cases {
            let violation = check_at(&schema, "s").unwrap_err();
            assert_eq!(violation.param, place, "{}", violation.message);
            assert!(violation.message.contains("450"), "{}", violation.message);
        }
    }
}
