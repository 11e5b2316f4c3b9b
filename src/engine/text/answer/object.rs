//! A call as a JSON object, read character by character: `{"name": …, "arguments": {…}}`.

use super::{Draft, Step};

/// Nested objects and lists in arguments.
const DEEPEST: usize = 128;

/// Reads one object. Its arguments are handed on as the model writes them.
#[derive(Debug)]
pub struct ObjectCall {
    state: State,
    field: Field,
    /// The text of a key, a name or a quoted value so far.
    raw: String,
    /// What closes the open lists and objects of a value.
    open: Vec<char>,
    quoted: bool,
    escaped: bool,
    /// Whether the object is the arguments alone.
    bare: bool,
    /// Whether an object without arguments is a call.
    lenient: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Object,
    Key,
    InKey,
    Colon,
    Value,
    InText,
    InLiteral,
    InNested,
    After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

impl ObjectCall {
    /// With the name inside. `lenient`: what names a tool and has no arguments is a call without arguments.
    pub fn new(lenient: bool) -> Self {
        Self {
            state: State::Object,
            field: Field::Other,
            raw: String::new(),
            open: Vec::new(),
            quoted: false,
            escaped: false,
            bare: false,
            lenient,
        }
    }

    /// The arguments alone, of a call whose name is known.
    pub fn arguments() -> Self {
        Self { state: State::Value, field: Field::Arguments, bare: true, ..Self::new(true) }
    }

    pub fn feed(&mut self, character: char, draft: &mut Draft) -> Step {
        let blank = character.is_ascii_whitespace();
        match self.state {
            State::Object | State::Key | State::Colon | State::Value | State::After if blank => return Step::More,
            State::Object if character == '{' => self.state = State::Key,
            State::Key if character == '"' => self.quote(State::InKey),
            State::Key | State::After if character == '}' => return self.close(draft),
            State::InKey => return self.key(character, draft),
            State::Colon if character == ':' => self.state = State::Value,
            State::Value => return self.begin(character, draft),
            State::InText => return self.text(character, draft),
            State::InLiteral if blank || matches!(character, ',' | '}') => {
                self.state = State::After;
                return match self.literal(draft) {
                    Step::More => self.feed(character, draft),
                    step => step,
                };
            }
            State::InLiteral => self.raw.push(character),
            State::InNested => return self.nested(character, draft),
            State::After if character == ',' => self.state = State::Key,
            _ => return Step::Bad,
        }
        Step::More
    }

    fn quote(&mut self, state: State) {
        self.state = state;
        self.raw = "\"".into();
        self.escaped = false;
    }

    /// Takes a character of a quoted text; the text where it ends.
    fn quoted(&mut self, character: char) -> Option<Option<String>> {
        self.raw.push(character);
        if self.escaped || character == '\\' {
            self.escaped = !self.escaped;
            return None;
        }
        (character == '"').then(|| serde_json::from_str(&self.raw).ok())
    }

    fn key(&mut self, character: char, draft: &Draft) -> Step {
        let Some(key) = self.quoted(character) else { return Step::More };
        self.field = match key.as_deref() {
            None => return Step::Bad,
            Some("name") if draft.name.is_some() => return Step::Bad,
            Some("name") => Field::Name,
            Some("arguments" | "parameters") if draft.begun => return Step::Bad,
            Some("arguments" | "parameters") => Field::Arguments,
            Some(_) => Field::Other,
        };
        self.state = State::Colon;
        Step::More
    }

    /// The first character of a value.
    fn begin(&mut self, character: char, draft: &mut Draft) -> Step {
        match (self.field, character) {
            (_, '"') => self.quote(State::InText),
            (Field::Name, _) => return Step::Bad,
            (_, '{') | (Field::Other, '[') => {
                self.state = State::InNested;
                (self.quoted, self.escaped) = (false, false);
                draft.begun |= self.field == Field::Arguments;
                return self.nested(character, draft);
            }
            (Field::Arguments, 'n') | (Field::Other, _) if !matches!(character, ',' | '}' | ']' | ':') => {
                self.state = State::InLiteral;
                self.raw = character.into();
            }
            _ => return Step::Bad,
        }
        Step::More
    }

    /// Arguments may come quoted as a whole, as some models write them.
    fn text(&mut self, character: char, draft: &mut Draft) -> Step {
        let Some(text) = self.quoted(character) else { return Step::More };
        let Some(text) = text else { return Step::Bad };
        match self.field {
            Field::Name => draft.name = Some(text),
            Field::Arguments => {
                let object = serde_json::from_str::<serde_json::Map<_, _>>(&text);
                if object.is_err() {
                    return Step::Bad;
                }
                draft.arguments.push_str(&text);
                draft.begun = true;
            }
            Field::Other => {}
        }
        self.ended()
    }

    fn literal(&mut self, draft: &mut Draft) -> Step {
        match self.field {
            Field::Arguments if self.raw == "null" => {
                draft.arguments.push_str("{}");
                draft.begun = true;
                Step::More
            }
            Field::Other if serde_json::from_str::<serde_json::Value>(&self.raw).is_ok() => Step::More,
            _ => Step::Bad,
        }
    }

    fn nested(&mut self, character: char, draft: &mut Draft) -> Step {
        if self.quoted {
            if self.escaped || character == '\\' {
                self.escaped = !self.escaped;
            } else if character == '"' {
                self.quoted = false;
            }
        } else {
            match character {
                '"' => self.quoted = true,
                '{' | '[' if self.open.len() >= DEEPEST => return Step::Bad,
                '{' => self.open.push('}'),
                '[' => self.open.push(']'),
                '}' | ']' if self.open.pop() != Some(character) => return Step::Bad,
                _ => {}
            }
        }
        if self.field == Field::Arguments {
            draft.arguments.push(character);
        }
        if self.open.is_empty() { self.ended() } else { Step::More }
    }

    fn ended(&mut self) -> Step {
        self.state = State::After;
        if self.bare { Step::Closed } else { Step::More }
    }

    fn close(&self, draft: &mut Draft) -> Step {
        if draft.name.is_none() || !(draft.begun || self.lenient) {
            return Step::Bad;
        }
        if !draft.begun {
            draft.arguments.push_str("{}");
            draft.begun = true;
        }
        Step::Closed
    }
}
