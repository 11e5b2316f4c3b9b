//! What a model puts into its answers beside plain text, known from its chat template: calls of tools, and reasoning.

/// How a model writes its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Markup {
    /// `None` where its template knows no tools.
    pub calls: Option<CallFormat>,
    /// Whether it may reason between `<think>` and `</think>` before it answers.
    pub reasoning: bool,
}

/// How a model writes a call. The names are those of the models that made each of them known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`
    QwenCoder,
    /// `{"name": …, "parameters": {…}}` as the whole answer, also after `<|python_tag|>`; several with `;` between.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]NAME[ARGS]{…}` for each.
    Mistral,
}

pub const THINK: &str = "<think>";
pub const END_OF_THINKING: &str = "</think>";

impl Markup {
    /// What the sources of a model's chat template speak of.
    pub fn of_templates<'a>(sources: impl Iterator<Item = &'a str> + Clone) -> Self {
        let speaks_of = |word: &str| sources.clone().any(|source| source.contains(word));
        let calls = if !speaks_of("tools") {
            None
        } else if speaks_of("<tool_call>") && speaks_of("<function=") {
            Some(CallFormat::QwenCoder)
        } else if speaks_of("<tool_call>") {
            Some(CallFormat::Hermes)
        } else if speaks_of("[TOOL_CALLS]") {
            Some(CallFormat::Mistral)
        } else if speaks_of("<|python_tag|>") || speaks_of("ipython") {
            Some(CallFormat::Llama)
        } else {
            None
        };
        Self { calls, reasoning: speaks_of(END_OF_THINKING) }
    }

    /// Tokens that are part of it, which some tokenizers count among the special ones.
    pub fn markers(self) -> impl Iterator<Item = &'static str> {
        let calls: &[&str] = self.calls.map_or(&[], CallFormat::markers);
        let reasoning: &[&str] = if self.reasoning { &[THINK, END_OF_THINKING] } else { &[] };
        calls.iter().chain(reasoning).copied()
    }
}

impl CallFormat {
    /// What a call begins with, wherever in an answer.
    pub const fn opening(self) -> &'static str {
        match self {
            Self::Hermes | Self::QwenCoder => "<tool_call>",
            Self::Llama => "<|python_tag|>",
            Self::Mistral => "[TOOL_CALLS]",
        }
    }

    const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenCoder => &["<tool_call>", "</tool_call>"],
            Self::Llama => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        }
    }

    /// A fresh id for a call, as the model's template takes it back: Mistral's take nine letters and digits.
    pub fn new_id(self) -> String {
        let random = uuid::Uuid::new_v4().simple().to_string();
        match self {
            Self::Mistral => random[..9].to_owned(),
            Self::Hermes | Self::QwenCoder | Self::Llama => format!("call_{}", &random[..24]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_from_the_template() {
        let of = |sources: &[&str]| Markup::of_templates(sources.iter().copied());
        let hermes = "{% if tools %}<tool_call>{% endif %}{{ m.split('</think>') }}";
        assert_eq!(of(&[hermes]), Markup { calls: Some(CallFormat::Hermes), reasoning: true });
        let coder = "{% if tools %}<tool_call>\n<function=example>{% endif %}";
        assert_eq!(of(&[coder]), Markup { calls: Some(CallFormat::QwenCoder), reasoning: false });
        assert_eq!(of(&["plain", "{{ tools }}[TOOL_CALLS]"]).calls, Some(CallFormat::Mistral));
        assert_eq!(of(&["{{ tools }}Environment: ipython"]).calls, Some(CallFormat::Llama));
        assert_eq!(of(&["{{ messages }}<tool_call>"]), Markup::default());
    }

    #[test]
    fn ids_are_what_the_templates_take_back() {
        assert!(CallFormat::Hermes.new_id().len() == 29 && CallFormat::Mistral.new_id().len() == 9);
        assert_ne!(CallFormat::Llama.new_id(), CallFormat::Llama.new_id());
    }
}
