//! What a JSON schema may ask for that an answer is held to: checked before a grammar is made of it, so that what cannot be
//! held is said with its place, and nothing grows without bound.

use serde_json::{Map, Value};

use super::request::Violation;

mod ways;

use ways::{MOST_WAYS, Ways, few_properties};

/// Bytes of a schema.
const MOST_BYTES: usize = 256 << 10;

/// Schemas within a schema.
const MOST_SCHEMAS: usize = 5000;

/// Schemas within each other.
const DEEPEST: usize = 32;

/// Alternatives that come of combining others, as `allOf` does.
const MOST_ALTERNATIVES: usize = 256;

/// References and combinations that are followed, over all schemas of a request.
const MOST_STEPS: usize = 20_000;

/// Properties that are looked at in the time of one such step.
const NAMES_OF_A_STEP: usize = 16;

/// Values of one `enum`.
const MOST_VALUES: usize = 1000;

/// What numbers may have to be multiples of: the grammar counts up to it, digit by digit.
const LARGEST_MULTIPLE: f64 = 1000.0;

/// Bytes of one pattern.
const LONGEST_PATTERN: usize = 512;

/// Bytes of a place in a message.
const LONGEST_PLACE: usize = 512;

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

/// Keywords that restrict a value in ways that no grammar is made of.
const NOT_HELD: [&str; 19] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "contentSchema",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyDependencies",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "$vocabulary",
];

/// Checks the schema that stands at `place` of a request.
///
/// # Errors
///
/// The first thing in it that cannot be held, with its place.
pub fn check(root: &Value, place: &str, taken: &mut Steps) -> Result<(), Violation> {
    Walk { root, place, loose: false, schemas: 0, taken }.whole()
}

/// As [`check`], for a schema that is held as far as it can be: what cannot be held is passed over.
///
/// # Errors
///
/// What is no schema, or grows without bound.
pub fn check_loosely(root: &Value, place: &str, taken: &mut Steps) -> Result<(), Violation> {
    Walk { root, place, loose: true, schemas: 0, taken }.whole()
}

/// Checks that a schema that has passed [`check`] or [`check_loosely`] leaves room for an object: the arguments of a call
/// are one.
///
/// # Errors
///
/// A schema that no object fits, whatever is in it.
pub fn check_takes_objects(root: &Value, place: &str) -> Result<(), Violation> {
    match takes_objects(root, root) {
        true => Ok(()),
        false => violation(place, "the arguments of a call are an object, which this schema does not allow"),
    }
}

/// Whether it may be that an object fits `schema`, which stands in `root`.
fn takes_objects(root: &Value, schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return *schema != Value::Bool(false) };
    let target = |reference: &Value| root.pointer(reference.as_str()?.strip_prefix('#')?);
    fields.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
        ("type", Value::Array(types)) => types.iter().any(|name| name == "object"),
        ("type", name) => name == "object",
        ("const", value) => value.is_object(),
        ("enum", Value::Array(values)) => values.iter().any(Value::is_object),
        ("$ref", reference) => target(reference).is_none_or(|target| takes_objects(root, target)),
        ("allOf", Value::Array(schemas)) => schemas.iter().all(|schema| takes_objects(root, schema)),
        ("anyOf" | "oneOf", Value::Array(schemas)) => schemas.iter().any(|schema| takes_objects(root, schema)),
        _ => true,
    })
}

/// References and combinations that were followed, in all schemas of a request so far.
#[derive(Debug, Default)]
pub struct Steps(usize);

struct Walk<'a> {
    root: &'a Value,
    /// Where the root stands in the request.
    place: &'a str,
    /// Whether what cannot be held is passed over.
    loose: bool,
    schemas: usize,
    taken: &'a mut Steps,
}

impl<'a> Walk<'a> {
    fn whole(&mut self) -> Result<(), Violation> {
        if self.root.to_string().len() > MOST_BYTES {
            return violation(self.place, "a schema has at most 262,144 bytes");
        }
        self.schema(self.root, self.place, 0)
    }

    fn schema(&mut self, schema: &'a Value, place: &str, depth: usize) -> Result<(), Violation> {
        self.schemas += 1;
        if self.schemas > MOST_SCHEMAS {
            return violation(place, "a schema has at most 5,000 schemas in it");
        }
        if depth > DEEPEST {
            return violation(place, "schemas stand in each other at most 32 times");
        }
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(_) => return Ok(()),
            _ => return violation(place, "a schema is an object, true or false"),
        };
        few_properties(fields, place)?;
        self.at_one_place(schema, place, &mut Vec::new(), 0)?;
        fields.iter().try_for_each(|(keyword, value)| self.keyword(keyword, value, &join(place, keyword), depth))
    }

    fn keyword(&mut self, keyword: &str, value: &'a Value, place: &str, depth: usize) -> Result<(), Violation> {
        match (keyword, value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                // What is only defined does not stand in anything yet.
                let depth = if keyword.starts_with('$') || keyword == "definitions" { 0 } else { depth };
                if keyword == "patternProperties" {
                    schemas.keys().try_for_each(|pattern| short(pattern, place))?;
                }
                schemas.iter().try_for_each(|(name, schema)| self.schema(schema, &join(place, name), depth + 1))
            }
            ("properties" | "patternProperties" | "$defs" | "definitions", _) => {
                violation(place, "is an object of schemas")
            }
            ("items" | "prefixItems", Value::Array(schemas)) => self.list(schemas, place, depth),
            ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) if !schemas.is_empty() => {
                self.list(schemas, place, depth)
            }
            ("prefixItems" | "anyOf" | "oneOf" | "allOf", _) => violation(place, "is a list of schemas"),
            ("additionalProperties" | "additionalItems" | "items", Value::Bool(_)) => Ok(()),
            ("additionalProperties" | "additionalItems" | "items", schema) => self.schema(schema, place, depth + 1),
            ("type", Value::Array(types)) => types.iter().try_for_each(|name| known_type(name, place)),
            ("type", name) => known_type(name, place),
            ("enum", Value::Array(values)) if !values.is_empty() && values.len() <= MOST_VALUES => Ok(()),
            ("enum", _) => violation(place, "is a list of 1 to 1,000 values"),
            ("pattern", Value::String(pattern)) => short(pattern, place),
            ("pattern" | "format" | "$ref", value) if !value.is_string() => violation(place, "is a string"),
            ("required", Value::Array(names)) if names.iter().all(Value::is_string) => Ok(()),
            ("required", _) => violation(place, "is a list of names"),
            ("minItems" | "maxItems" | "minProperties" | "maxProperties", value) => up_to(value, 10_000, place),
            ("multipleOf", value) if value.as_f64().is_some_and(|of| of > LARGEST_MULTIPLE) => {
                violation(place, "is at most 1,000")
            }
            ("minLength" | "maxLength", value) => up_to(value, 1_000_000, place),
            (keyword, _) if !self.loose && NOT_HELD.contains(&keyword) => {
                violation(place, "an answer cannot be held to this keyword")
            }
            _ => Ok(()),
        }
    }

    fn list(&mut self, schemas: &'a [Value], place: &str, depth: usize) -> Result<(), Violation> {
        let each = |(index, schema): (usize, &'a Value)| self.schema(schema, &format!("{place}[{index}]"), depth + 1);
        schemas.iter().enumerate().try_for_each(each)
    }

    /// Follows what says something of the same value as `schema`, which must not lead back to where it has been, and gives
    /// the ways in which such a value can begin.
    fn at_one_place(
        &mut self,
        schema: &'a Value,
        place: &str,
        met: &mut Vec<&'a str>,
        depth: usize,
    ) -> Result<Ways, Violation> {
        self.taken.0 += 1;
        if self.taken.0 > MOST_STEPS || depth > DEEPEST {
            return violation(place, "the combinations in it are too many");
        }
        let Some(fields) = schema.as_object() else { return Ok(Ways::ONE) };
        // Looking at many names takes time as well.
        let names = fields.get("properties").and_then(Value::as_object).map_or(0, Map::len);
        self.taken.0 += names / NAMES_OF_A_STEP;
        let mut ways = Ways::of(fields);
        if let Some(Value::String(reference)) = fields.get("$ref") {
            let place = join(place, "$ref");
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            let Some(target) = target else {
                return violation(&place, "a reference leads to a place in the same schema, as in \"#/$defs/name\"");
            };
            if met.contains(&reference.as_str()) {
                return violation(&place, "this reference leads back to itself");
            }
            met.push(reference);
            let target_place = format!("{}{}", self.place, reference.trim_start_matches('#').replace('/', "."));
            ways = ways.and(self.at_one_place(target, &target_place, met, depth + 1)?);
            met.pop();
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let members = fields.get(keyword).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let mut together = None;
            for (index, member) in members.iter().enumerate() {
                let place = format!("{}[{index}]", join(place, keyword));
                let of_member = self.at_one_place(member, &place, met, depth + 1)?;
                let join = if keyword == "allOf" { Ways::and } else { Ways::or };
                together = Some(together.map_or(of_member, |together| join(together, of_member)));
            }
            ways = together.map_or(ways, |together| ways.and(together));
        }
        if ways.alternatives > MOST_ALTERNATIVES && combines(fields) {
            return violation(place, "the combinations in it are too many");
        }
        if ways.sum() > MOST_WAYS {
            return violation(
                place,
                "at one place there are at most 450 properties that are not required and alternatives, which count twice",
            );
        }
        Ok(ways)
    }
}

/// Whether alternatives in it are multiplied with each other, and not only counted.
fn combines(fields: &Map<String, Value>) -> bool {
    fields.contains_key("allOf")
        || ["anyOf", "oneOf", "$ref"].iter().filter(|key| fields.contains_key(**key)).count() > 1
}

fn known_type(name: &Value, place: &str) -> Result<(), Violation> {
    match name.as_str() {
        Some(name) if TYPES.contains(&name) => Ok(()),
        _ => violation(place, "a type is null, boolean, object, array, number, string or integer"),
    }
}

fn short(pattern: &str, place: &str) -> Result<(), Violation> {
    if pattern.len() > LONGEST_PATTERN { violation(place, "a pattern has at most 512 bytes") } else { Ok(()) }
}

fn up_to(value: &Value, most: u64, place: &str) -> Result<(), Violation> {
    match value.as_u64() {
        Some(number) if number <= most => Ok(()),
        _ => violation(place, if most > 10_000 { "is 0 to 1,000,000" } else { "is 0 to 10,000" }),
    }
}

/// A place below a place, short enough for a message.
fn join(place: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    if place.len() > LONGEST_PLACE { place.to_owned() } else { format!("{place}.{name}") }
}

fn violation<T>(place: &str, message: &'static str) -> Result<T, Violation> {
    Err(Violation { param: place.to_owned().into(), message })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, place: &str) -> Result<(), Violation> {
        super::check(schema, place, &mut Steps::default())
    }

    fn check_loosely(schema: &Value, place: &str) -> Result<(), Violation> {
        super::check_loosely(schema, place, &mut Steps::default())
    }

    #[test]
    fn the_schemas_that_pydantic_and_zod_write_pass() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$defs": {
                "Step": {"type": "object", "title": "Step", "required": ["text", "next"], "additionalProperties": false,
                    "properties": {"text": {"type": "string", "description": "a", "minLength": 1},
                        "next": {"anyOf": [{"$ref": "#/$defs/Step"}, {"type": "null"}], "default": null}}},
            },
            "type": "object", "additionalProperties": false, "required": ["steps"],
            "properties": {
                "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}, "maxItems": 5},
                "kind": {"enum": ["a", 1, null]}, "not": {"type": ["string", "null"], "pattern": "^a+$"},
                "when": {"type": "string", "format": "date-time"}, "pair": {"prefixItems": [{"const": 1}, true]},
            },
        });
        check(&schema, "json_schema").unwrap();
    }

    #[test]
    fn what_cannot_be_held_is_named_with_its_place() {
        let cases = [
            (json!({"properties": {"x": {"not": {}}}}), "s.properties.x.not"),
            (json!({"properties": {"x": {"items": {"uniqueItems": true}}}}), "s.properties.x.items.uniqueItems"),
            (json!({"anyOf": [{}, {"type": "text"}]}), "s.anyOf[1].type"),
            (json!({"$defs": {"a": {"type": ["string", 1]}}}), "s.$defs.a.type"),
            (json!({"properties": []}), "s.properties"),
            (json!({"properties": {"x": 1}}), "s.properties.x"),
            (json!({"enum": []}), "s.enum"),
            (json!({"required": "x"}), "s.required"),
            (json!({"minItems": -1}), "s.minItems"),
            (json!({"maxItems": 1_000_000}), "s.maxItems"),
            (json!({"items": {"multipleOf": 999_983}}), "s.items.multipleOf"),
            (json!({"pattern": "a".repeat(513)}), "s.pattern"),
            (json!({"$ref": "https://example.com/x.json"}), "s.$ref"),
            (json!({"$ref": "#/$defs/none"}), "s.$ref"),
            (json!({"oneOf": []}), "s.oneOf"),
            (json!([1]), "s"),
        ];
        for (schema, place) in cases {
            assert_eq!(check(&schema, "s").unwrap_err().param, place, "{schema}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_passed_over_where_it_need_not_be() {
        check_loosely(&json!({"properties": {"x": {"not": {}, "uniqueItems": true}}}), "s").unwrap();
        assert_eq!(check_loosely(&json!({"$ref": "#"}), "s").unwrap_err().param, "s.$ref");
        let long = json!({"description": "x".repeat(300_000)});
        assert!(check_loosely(&long, "s").unwrap_err().message.contains("262,144"));
    }

    #[test]
    fn references_that_lead_nowhere_are_no_schemas() {
        let loops = [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"oneOf": [{"$ref": "#"}]}}}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ];
        for schema in loops {
            assert!(check(&schema, "s").unwrap_err().message.contains("itself"), "{schema}");
        }
        check(&json!({"properties": {"next": {"$ref": "#"}}}), "s").unwrap();
        check(&json!({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}), "s").unwrap();
    }

    #[test]
    fn many_schemas_have_one_bound() {
        let mut chain: Map<String, Value> = (0..11)
            .map(|n| (format!("d{n}"), json!({"anyOf": vec![json!({"$ref": format!("#/$defs/d{}", n + 1)}); 2]})))
            .collect();
        chain.insert("d11".to_owned(), json!({"const": null}));
        let schema = json!({"$defs": chain, "$ref": "#/$defs/d0"});
        let mut taken = Steps::default();
        let refused = (0..128).find_map(|_| super::check(&schema, "s", &mut taken).err());
        assert!(refused.is_some_and(|violation| violation.message.contains("combinations")));
        assert!(taken.0 <= MOST_STEPS + 1);
    }

    #[test]
    fn names_that_are_looked_at_again_and_again_have_a_bound() {
        let names: Map<_, _> = (0..1000).map(|n| (format!("p{n}"), json!(true))).collect();
        let many_names = json!({"properties": names, "required": names.keys().collect::<Vec<_>>()});
        let many = json!({"$ref": "#/$defs/a"});
        let members: Vec<_> = (0..200).map(|_| json!({"allOf": vec![many.clone(); 1]})).collect();
        let schema = json!({"properties": {"x": {"anyOf": members}}, "$defs": {"a": many_names}});
        let mut taken = Steps::default();
        let refused = (0..10).find_map(|_| super::check(&schema, "s", &mut taken).err());
        assert!(refused.is_some_and(|violation| violation.message.contains("combinations")));
    }

    #[test]
    fn what_grows_is_bounded() {
        let mut deep = json!({"type": "null"});
        for _ in 0..40 {
            deep = json!({"properties": {"x": deep}});
        }
        assert!(check(&deep, "s").unwrap_err().message.contains("32"));
        let many: Map<String, Value> = (0..6000).map(|n| (format!("p{n}"), json!({"type": "null"}))).collect();
        assert!(check(&json!({"$defs": many}), "s").unwrap_err().message.contains("5,000"));
        let either = json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
        assert!(check(&json!({"allOf": vec![either; 30]}), "s").unwrap_err().message.contains("combinations"));
        let chain: Map<String, Value> =
            (0..40).map(|n| (format!("d{n}"), json!({"anyOf": [{"$ref": format!("#/$defs/d{}", n + 1)}, {"$ref": format!("#/$defs/d{}", n + 1)}]}))).collect();
        let mut chain = json!({"$defs": chain, "$ref": "#/$defs/d0"});
        chain["$defs"]["d40"] = json!({"type": "null"});
        assert!(check(&chain, "s").is_err());
        check(&json!({"anyOf": (0..900).map(|n| json!({"const": n})).collect::<Vec<_>>()}), "s").unwrap();
    }
}
