//! What follows `[TOOL_CALLS]`: a list of objects, or `NAME[ARGS]{…}`, where an id may come before the arguments.

use super::object::ObjectCall;
use super::{Draft, Step};

/// Bytes of a name with an id after it.
const LONGEST_NAME: usize = 256;

const ARGUMENTS: &str = "[ARGS]";
const ID: &str = "[CALL_ID]";

/// Reads one call, the first of a list or one with its name before it.
#[derive(Debug)]
pub enum NamedCall {
    Start,
    InList(ObjectCall),
    /// What comes before the arguments, so far.
    Name(String),
    Arguments(ObjectCall),
}

impl NamedCall {
    /// A further call of a list.
    pub fn item() -> Self {
        Self::InList(ObjectCall::new(true))
    }

    pub fn feed(&mut self, character: char, draft: &mut Draft) -> Step {
        match self {
            Self::Start if character.is_ascii_whitespace() => Step::More,
            Self::Start if character == '[' => {
                *self = Self::item();
                Step::More
            }
            Self::Start => {
                *self = Self::Name(String::new());
                self.feed(character, draft)
            }
            Self::InList(object) => match object.feed(character, draft) {
                Step::Closed => Step::ClosedInList,
                step => step,
            },
            Self::Name(raw) if character == '{' => {
                let named = raw.strip_suffix(ARGUMENTS).unwrap_or(raw);
                let name = named.split_once(ID).map_or(named, |(name, _)| name).trim();
                draft.name = Some(name.to_owned());
                *self = Self::Arguments(ObjectCall::arguments());
                self.feed(character, draft)
            }
            Self::Name(raw) => {
                raw.push(character);
                let possible = character.is_alphanumeric() || "_-.[] ".contains(character);
                if raw.len() > LONGEST_NAME || !possible { Step::Bad } else { Step::More }
            }
            Self::Arguments(object) => object.feed(character, draft),
        }
    }
}
