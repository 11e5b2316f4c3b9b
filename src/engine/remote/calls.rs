//! The calls of tools in an answer, told apart and numbered. Pure.
//!
//! Servers differ in how they stream them: with an id and a name once or in each chunk, with an index of their own, with the
//! same one for all or with none, in pieces or whole, or as the one `function_call` of the older API. What comes out is the
//! form of ours: numbered from 0, an id and a name once for each, and arguments that go on.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sluicegate_compat::native::ToolDelta;

use crate::engine::Reading;
use crate::engine::text::CallFormat;

/// What a chunk adds to a call.
#[derive(Debug, Default, Deserialize)]
pub struct Call {
    /// Left out by servers that give each call whole.
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Function {
    #[serde(default)]
    pub name: Option<String>,
    /// A string; some servers have the JSON itself.
    #[serde(default)]
    pub arguments: Value,
}

/// The calls of one answer so far.
#[derive(Debug, Default)]
pub struct Calls {
    /// Whether there is something to call.
    offered: bool,
    /// Whether one call is all that is wanted.
    single: bool,
    begun: Vec<Begun>,
}

/// A call, as its server has told it.
#[derive(Debug, Default)]
struct Begun {
    index: Option<u32>,
    id: Option<String>,
    name: Option<String>,
    /// Kept where there is no id, to see when they are whole.
    arguments: String,
}

/// What a chunk's part of a call comes to.
#[derive(Debug, PartialEq)]
pub enum Taken {
    Delta(ToolDelta),
    Nothing,
    /// It begins another call than the one that is wanted.
    TooMany,
}

impl Calls {
    /// Of an answer that is read in this way.
    pub fn of(reading: &Reading) -> Self {
        let calling = match reading {
            Reading::Answer(calling) => calling.as_deref(),
            Reading::Plain => None,
        };
        Self { offered: calling.is_some(), single: calling.is_some_and(|calling| !calling.parallel), begun: Vec::new() }
    }

    /// Whether the answer has a call.
    pub fn any(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Takes what a chunk says.
    pub fn take(&mut self, call: Call) -> Taken {
        if !self.offered {
            return Taken::Nothing;
        }
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let Function { name, arguments } = call.function.unwrap_or_default();
        let (index, id, name) = (call.index, said(call.id), said(name));
        let arguments = match arguments {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let known = match index {
            Some(_) => self.begun.iter().rposition(|begun| begun.index == index),
            None => self.begun.len().checked_sub(1),
        };
        let known = known.filter(|at| self.begun[*at].goes_on(index, id.as_deref(), name.as_deref()));
        let at = match known {
            Some(at) => at,
            None if self.single && self.any() => return Taken::TooMany,
            None => {
                self.begun.push(Begun { index, id: id.clone(), ..Begun::default() });
                self.begun.len() - 1
            }
        };
        let begun = &mut self.begun[at];
        let name = name.filter(|_| begun.name.is_none());
        if name.is_some() {
            begun.name.clone_from(&name);
        }
        if begun.id.is_none() {
            begun.arguments.push_str(&arguments);
        }
        let id = known.is_none().then(|| id.unwrap_or_else(|| CallFormat::Hermes.new_id()));
        let delta = ToolDelta { index: u32::try_from(at).unwrap_or(u32::MAX), id, name, arguments };
        if delta.is_empty() { Taken::Nothing } else { Taken::Delta(delta) }
    }
}

impl Begun {
    /// Whether what comes at its place is more of it, and not another call.
    fn goes_on(&self, index: Option<u32>, id: Option<&str>, name: Option<&str>) -> bool {
        match (self.id.as_deref(), id, self.name.as_deref(), name) {
            (Some(known), Some(id), ..) => known == id,
            // Nothing but arguments, or its name after its id.
            (.., None) | (.., None, Some(_)) => true,
            (.., Some(known), Some(name)) if known != name => false,
            (Some(_), None, ..) => true,
            // Without ids: one that says its name in each chunk, or another one of the same name.
            (None, ..) => index.is_some() && !self.is_whole(),
        }
    }

    fn is_whole(&self) -> bool {
        serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn calls(deltas: &[Value]) -> Vec<(String, String, String)> {
        let mut calls = Calls { offered: true, ..Calls::default() };
        let mut whole: Vec<(String, String, String)> = Vec::new();
        for delta in deltas {
            let Taken::Delta(delta) = calls.take(serde_json::from_value(delta.clone()).unwrap()) else { continue };
            let at = delta.index as usize;
            assert!(at < whole.len() || at == whole.len() && delta.id.is_some(), "{delta:?}");
            if at == whole.len() {
                whole.push(Default::default());
            }
            whole[at].0.extend(delta.id);
            whole[at].1.extend(delta.name);
            whole[at].2.push_str(&delta.arguments);
        }
        whole
    }

    #[test]
    fn calls_are_the_same_in_whatever_form_they_come() {
        let part = |index: Value, id: Value, name: Value, arguments: Value| json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}});
        let (none, empty) = (Value::Null, json!(""));
        let forms = [
            // As OpenAI and vLLM.
            vec![
                part(json!(0), json!("a"), json!("f"), empty.clone()),
                part(json!(0), none.clone(), none.clone(), json!("{\"x\"")),
                part(json!(0), none.clone(), none.clone(), json!(":1}")),
                part(json!(1), json!("b"), json!("f"), json!("{}")),
            ],
            // All of it in each chunk, and from another number on.
            vec![
                part(json!(7), json!("a"), json!("f"), json!("{\"x\"")),
                part(json!(7), json!("a"), json!("f"), json!(":1}")),
                part(json!(4_000_000_000_u32), json!("b"), json!("f"), json!("{}")),
            ],
            // In turns.
            vec![
                part(json!(0), json!("a"), json!("f"), json!("{\"x\"")),
                part(json!(1), json!("b"), json!("f"), json!("{")),
                part(json!(0), empty.clone(), empty.clone(), json!(":1}")),
                part(json!(1), empty.clone(), empty.clone(), json!("}")),
            ],
            // Whole, without an index, or with the same one.
            vec![
                part(none.clone(), json!("a"), json!("f"), json!("{\"x\":1}")),
                part(none.clone(), json!("b"), json!("f"), json!("{}")),
            ],
            vec![
                part(json!(0), json!("a"), json!("f"), json!({"x": 1})),
                part(json!(0), json!("b"), json!("f"), json!({})),
            ],
            // The id before all else.
            vec![
                part(json!(0), json!("a"), none.clone(), none.clone()),
                part(json!(0), none.clone(), json!("f"), json!("{\"x\":1}")),
                part(json!(1), json!("b"), none.clone(), none.clone()),
                part(json!(1), none.clone(), json!("f"), json!("{}")),
            ],
        ];
        let is = |id: &str, arguments: &str| (id.to_owned(), "f".to_owned(), arguments.to_owned());
        for form in &forms {
            assert_eq!(calls(form), [is("a", "{\"x\":1}"), is("b", "{}")], "{form:?}");
        }
        let nameless = [
            // Whole, with neither an index nor an id; the same with an index that says nothing; in pieces, with the name in each.
            vec![part(none.clone(), none.clone(), json!("f"), json!("{\"x\":1}")); 2],
            vec![part(json!(0), empty.clone(), json!("f"), json!("{\"x\":1}")); 2],
            [
                part(json!(0), none.clone(), json!("f"), json!("{\"x\"")),
                part(json!(0), none.clone(), json!("f"), json!(":1}")),
            ]
            .into_iter()
            .cycle()
            .take(4)
            .collect(),
        ];
        for form in &nameless {
            let calls = calls(form);
            assert_eq!(calls.len(), 2, "{form:?}");
            assert!(calls.iter().all(|call| call.0.starts_with("call_") && call.2 == "{\"x\":1}"), "{calls:?}");
            assert_ne!(calls[0].0, calls[1].0);
        }
    }

    #[test]
    fn another_call_than_the_one_that_is_wanted_is_too_many_and_none_is_none() {
        let whole = |id: &str| Call { id: Some(id.into()), ..Call::default() };
        let mut single = Calls { offered: true, single: true, ..Calls::default() };
        assert!(matches!(single.take(whole("a")), Taken::Delta(_)));
        assert_eq!((single.take(whole("a")), single.take(whole("b"))), (Taken::Nothing, Taken::TooMany));
        let mut unasked = Calls::of(&Reading::Answer(None));
        assert_eq!((unasked.take(whole("a")), unasked.any()), (Taken::Nothing, false));
    }
}
