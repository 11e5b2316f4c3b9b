//! Answers in every format: good ones, broken ones, and any cutting of them into pieces.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_compat::native::Tool;

use super::*;

/// The parts of an answer, with the calls as (name, arguments).
#[derive(Debug, Default, PartialEq)]
struct Parts {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

fn calling(parallel: bool) -> Arc<Calling> {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tool = |name: &str| -> Tool {
        serde_json::from_value(json!({"type": "function", "function": {"name": name, "parameters": schema}})).unwrap()
    };
    Arc::new(Calling { tools: vec![tool("weather"), tool("now")], parallel, ..Calling::default() })
}

fn markup(format: CallFormat) -> Markup {
    Markup { calls: Some(format), reasoning: true }
}

/// Reads pieces; every byte must be told apart exactly once, and in order.
fn read(mut reader: AnswerReader, pieces: &[&str]) -> Parts {
    let (mut parts, mut segments) = (Parts::default(), Vec::new());
    for piece in pieces {
        reader.push(piece);
        segments.extend(std::iter::from_fn(|| reader.pop()));
    }
    let over = reader.is_over();
    reader.finish();
    segments.extend(std::iter::from_fn(|| reader.pop()));
    let whole = pieces.concat();
    let mut rest = whole.as_str();
    for Segment { length, class } in segments {
        let (stretch, after) = rest.split_at(length);
        rest = after;
        match class {
            Class::Text => parts.text.push_str(stretch),
            Class::Reasoning => parts.reasoning.push_str(stretch),
            Class::Hidden => {}
            Class::Call(delta) => {
                if let Some(name) = delta.name.clone() {
                    assert!(delta.id.is_some() && delta.index as usize == parts.calls.len());
                    parts.calls.push((name, String::new()));
                }
                assert_eq!(delta.index as usize + 1, parts.calls.len());
                parts.calls.last_mut().unwrap().1.push_str(&delta.arguments);
            }
        }
    }
    assert!(over || rest.is_empty(), "left: {rest:?}");
    parts
}

fn of(format: CallFormat, answer: &str) -> Parts {
    read(AnswerReader::new(markup(format), Some(calling(true)), false), &[answer])
}

fn parts(text: &str, calls: &[(&str, &str)]) -> Parts {
    let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned())).collect();
    Parts { text: text.to_owned(), reasoning: String::new(), calls }
}

#[test]
fn each_format_gives_the_calls_and_the_text_around_them() {
    use CallFormat::{Hermes, Llama, Mistral, QwenCoder};
    let berlin = r#"{"city": "Berlin"}"#;
    let cases = [
        (Hermes, format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {berlin}}}\n</tool_call>"), ""),
        (Hermes, format!("Wait.\n<tool_call>{{\"arguments\": {berlin}, \"name\": \"weather\"}}</tool_call>"), "Wait."),
        (Hermes, format!("<tool_call>{{\"id\": [1, {{}}], \"name\": \"weather\", \"parameters\": {berlin}}}"), ""),
        (
            QwenCoder,
            "<tool_call>\n<function=weather>\n<parameter=city>\nBerlin\n</parameter>\n</function>\n</tool_call>".into(),
            "",
        ),
        (Llama, format!("{{\"name\": \"weather\", \"parameters\": {berlin}}}"), ""),
        (
            Llama,
            format!(" <|python_tag|>{{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {berlin}}}"),
            "",
        ),
        (Mistral, format!("[TOOL_CALLS] [{{\"name\": \"weather\", \"arguments\": {berlin}}}]"), ""),
        (Mistral, format!("Well. [TOOL_CALLS]weather[ARGS]{berlin}"), "Well."),
        (Mistral, format!("[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{berlin}"), ""),
        (Mistral, format!("[TOOL_CALLS]weather{berlin}"), ""),
    ];
    for (format, answer, text) in cases {
        assert_eq!(of(format, &answer), parts(text, &[("weather", berlin)]), "{answer}");
    }
}

#[test]
fn several_calls_have_indices_in_order() {
    use CallFormat::{Hermes, Llama, Mistral};
    let cases = [
        (
            Hermes,
            "<tool_call>{\"name\": \"now\"}</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n",
        ),
        (Llama, "{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"weather\", \"parameters\": {}}"),
        (
            Llama,
            "<|python_tag|>{\"name\": \"now\", \"parameters\": {}};<|python_tag|>{\"name\": \"weather\", \"parameters\": {}}",
        ),
        (Mistral, "[TOOL_CALLS][{\"name\": \"now\"}, {\"name\": \"weather\", \"arguments\": {}}]"),
        (Mistral, "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]weather[ARGS]{}"),
    ];
    for (format, answer) in cases {
        assert_eq!(of(format, answer), parts("", &[("now", "{}"), ("weather", "{}")]), "{answer}");
    }
}

#[test]
fn what_is_no_call_is_text_with_nothing_lost() {
    use CallFormat::{Hermes, Llama, Mistral, QwenCoder};
    let cases = [
        (Hermes, "<tool_call>not JSON</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call>"),
        (Hermes, "<tool_call>{\"name\": \"now\", \"arguments\": \"text\"}</tool_call>"),
        (Hermes, "a <tool_call>{\"name\": \"no"),
        (Hermes, "one < two, <tool, <tool_cal"),
        (QwenCoder, "<tool_call><function=unknown></function></tool_call>"),
        (QwenCoder, "<tool_call>{\"name\": \"now\"}</tool_call>"),
        (Llama, "{\"name\": \"now\"}"),
        (Llama, "{\"answer\": 42}"),
        (Llama, "see {\"name\": \"now\", \"parameters\": {}}"),
        (Llama, "<|python_tag|>print(1)"),
        (Mistral, "[TOOL_CALLS][]"),
        (Mistral, "[TOOL_CALLS]unknown[ARGS]{}"),
        (Mistral, "[TOOL_CALLS]?"),
        (Mistral, "  \n "),
    ];
    for (format, answer) in cases {
        assert_eq!(of(format, answer), parts(answer, &[]), "{answer}");
    }
}

#[test]
fn a_call_that_was_announced_stands_and_what_follows_is_text() {
    let answer = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": [1}} oops";
    assert_eq!(of(CallFormat::Hermes, answer), parts("}} oops", &[("now", "{\"a\": [1")]));
    let answer = "<tool_call>{\"name\": \"now\", \"arguments\": {}} </tool_cat> <tool_call>{\"name\": \"now\"}";
    assert_eq!(of(CallFormat::Hermes, answer), parts(" </tool_cat>", &[("now", "{}"), ("now", "{}")]));
    let answer = "<tool_call><function=now><parameter=days>3</parameter>oops";
    assert_eq!(of(CallFormat::QwenCoder, answer), parts("oops", &[("now", "{\"days\": 3}")]));
    let answer = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"cut o";
    assert_eq!(of(CallFormat::Hermes, answer), parts("", &[("now", "{\"a\": \"cut o")]));
}

#[test]
fn quoted_arguments_are_unwrapped_and_null_is_none() {
    let answer = r#"<tool_call>{"name": "now", "arguments": "{\"a\": \"\\u00e9\"}"}</tool_call>"#;
    assert_eq!(of(CallFormat::Hermes, answer), parts("", &[("now", r#"{"a": "\u00e9"}"#)]));
    let answer = r#"<tool_call>{"name": "now", "arguments": null}</tool_call>"#;
    assert_eq!(of(CallFormat::Hermes, answer), parts("", &[("now", "{}")]));
}

#[test]
fn parameters_have_the_types_of_their_schema() {
    let answer = "<tool_call><function=weather><parameter=city>\n7\n</parameter><parameter=days>7</parameter>\
                  <parameter=more>[1, \"a\"]</parameter><parameter=other>plain \"text\"</parameter></function></tool_call>";
    let arguments = r#"{"city": "7", "days": 7, "more": [1,"a"], "other": "plain \"text\""}"#;
    assert_eq!(of(CallFormat::QwenCoder, answer), parts("", &[("weather", arguments)]));
}

#[test]
fn reasoning_stands_apart_with_the_white_space_around_it() {
    let reader = |thinking| AnswerReader::new(markup(CallFormat::Hermes), Some(calling(true)), thinking);
    let answer = "<think>\nHm, <tool_call>?\n</think>\n\nYes. </think>";
    let expected = Parts { text: "Yes. </think>".into(), reasoning: "Hm, <tool_call>?\n".into(), calls: vec![] };
    assert_eq!(read(reader(false), &[answer]), expected);
    assert_eq!(read(reader(true), &[answer.strip_prefix("<think>").unwrap()]), expected);
    let cut = Parts { reasoning: "Hm </thi".into(), ..Parts::default() };
    assert_eq!(read(reader(false), &["<think>Hm </thi"]), cut);
    assert_eq!(read(reader(false), &["a <think>b</think>"]), parts("a <think>b</think>", &[]));
}

#[test]
fn without_tools_and_without_reasoning_all_is_text() {
    let answer = "<think>a</think><tool_call>{\"name\": \"now\"}</tool_call>";
    let plain = Markup { calls: Some(CallFormat::Hermes), reasoning: false };
    assert_eq!(read(AnswerReader::new(plain, None, false), &[answer]), parts(answer, &[]));
}

#[test]
fn only_one_call_where_one_is_allowed() {
    let reader = AnswerReader::new(markup(CallFormat::Hermes), Some(calling(false)), false);
    let answer = "<tool_call>{\"name\": \"now\"}</tool_call><tool_call>{\"name\": \"weather\"}</tool_call>";
    assert_eq!(read(reader, &[answer]), parts("", &[("now", "{}")]));
}

#[test]
fn arguments_come_as_they_are_written() {
    let mut reader = AnswerReader::new(markup(CallFormat::Hermes), Some(calling(true)), false);
    let mut deltas = Vec::new();
    for piece in ["<tool_call>{\"name\": \"now\", \"arguments\"", ": {\"a\"", ": 1", "}", "}\n", "</tool_call>"] {
        reader.push(piece);
        deltas.extend(std::iter::from_fn(|| reader.pop()).map(|segment| match segment.class {
            Class::Call(delta) => delta.arguments.clone(),
            _ => "-".into(),
        }));
    }
    assert_eq!(deltas, ["{\"a\"", ": 1", "}", "-", "-"]);
}

#[test]
fn what_is_kept_back_is_bounded() {
    let mut reader = AnswerReader::new(markup(CallFormat::Hermes), Some(calling(true)), false);
    reader.push("<tool_call>{\"x\": \"");
    for _ in 0..20 {
        reader.push(&"y".repeat(LONGEST_DOUBT / 8));
        assert!(reader.pending.len() <= LONGEST_DOUBT + LONGEST_DOUBT / 8, "{}", reader.pending.len());
    }
    assert!(reader.pop().is_some());
}

/// Answers that are nearly right, whole ones among them.
fn any_answer() -> impl Strategy<Value = String> {
    let scraps = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[",
        "]",
        "<|python_tag|>",
        ";",
        "{\"name\": \"now\", \"arguments\": {\"a\": \"é}\\\"\"}}",
        "{\"name\": \"weather\", \"parameters\": {}}",
        "<function=weather>",
        "<parameter=city>",
        "</parameter>",
        "</function>",
        "now",
        "{}",
        "{",
        "}",
        "\"",
        ",",
        " ",
        "\n",
        "text",
        "é",
        "{\"name\": \"now\"}",
        "{\"arguments\": \"{}\"",
    ];
    prop::collection::vec(prop::sample::select(scraps.to_vec()), 0..14).prop_map(|scraps| scraps.concat())
}

fn any_format() -> impl Strategy<Value = CallFormat> {
    use CallFormat::{Hermes, Llama, Mistral, QwenCoder};
    prop::sample::select(vec![Hermes, Llama, Mistral, QwenCoder])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn every_cutting_gives_the_same_parts(
        answer in any_answer(), format in any_format(), parallel: bool, thinking: bool,
        cuts in prop::collection::vec(0usize..400, 0..30),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| answer.is_char_boundary(cut)).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
        let reader = || AnswerReader::new(markup(format), Some(calling(parallel)), thinking);
        let whole = read(reader(), &[&answer]);
        prop_assert_eq!(read(reader(), &pieces), whole);
    }

    #[test]
    fn good_calls_are_read_whatever_their_arguments(text in "\\PC{0,20}", number: i32, format in any_format()) {
        let arguments = json!({"city": text, "days": number, "deep": [{"a": [text]}, null]}).to_string();
        let value = |key: &str| serde_json::from_str::<Value>(&arguments).unwrap()[key].to_string();
        let answer = match format {
            CallFormat::Hermes => format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>"),
            CallFormat::Llama => format!("{{\"name\": \"weather\", \"parameters\": {arguments}}}"),
            CallFormat::Mistral => format!("[TOOL_CALLS]weather[ARGS]{arguments}"),
            CallFormat::QwenCoder => format!(
                "<tool_call><function=weather><parameter=city>{text}</parameter><parameter=days>{number}</parameter>\
                 <parameter=deep>{}</parameter></function></tool_call>", value("deep")
            ),
        };
        let read = of(format, &answer);
        prop_assert_eq!(&read.text, "");
        prop_assert_eq!(&read.calls[0].0, "weather");
        let got: Value = serde_json::from_str(&read.calls[0].1).unwrap();
        prop_assert_eq!(got, serde_json::from_str::<Value>(&arguments).unwrap());
    }
}
