//! Templates as models ship them.

use serde_json::json;

use super::*;

fn render(template: &str, variables: Value) -> Result<String, TemplateError> {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}});
    let Value::Object(variables) = variables else { panic!("variables are an object") };
    ChatTemplate::new(&json!(template), &config)?.render(&variables.into_iter().collect(), SystemTime::UNIX_EPOCH, true)
}

#[test]
fn a_chat_is_rendered_with_special_tokens_and_a_generation_prompt() {
    let template = "{{ bos_token }}{% for message in messages %}\n    {% if message['role'] == 'user' %}\n\
        [INST] {{ message['content'].strip() }} [/INST]{% else %}{{ message.content }}{{ eos_token }}{% endif %}\n\
        {% endfor %}{% if add_generation_prompt %}>{% endif %}";
    let messages = json!([{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}]);
    let rendered = render(template, json!({ "messages": messages }));
    assert_eq!(rendered.as_deref(), Ok("<s>[INST] hi [/INST]yo</s>>"));
}

#[test]
fn tojson_writes_as_python_does() {
    let value = json!({"name": "it's <b> & é", "list": [1, 2.5, true, null], "empty": {}});
    let rendered = render("{{ value | tojson }}", json!({ "value": value }));
    assert_eq!(rendered.as_deref(), Ok(r#"{"name": "it's <b> & é", "list": [1, 2.5, true, null], "empty": {}}"#));
    let rendered = render("{{ value | tojson(indent=2, ensure_ascii=False) }}", json!({"value": {"a": [1]}}));
    assert_eq!(rendered.as_deref(), Ok("{\n  \"a\": [\n    1\n  ]\n}"));
}

#[test]
fn raised_exceptions_come_out_in_the_templates_words() {
    let template = "{% if messages[0].role != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}";
    let error = render(template, json!({"messages": [{"role": "assistant"}]})).expect_err("raises");
    assert_eq!(error.0, "Roles must alternate (line 1 of the chat template)");
}

#[test]
fn a_template_that_does_not_parse_is_refused_at_once() {
    assert!(ChatTemplate::new(&json!("{% if %}"), &Value::Null).is_err());
    assert!(ChatTemplate::new(&Value::Null, &Value::Null).is_err());
}

#[test]
fn tools_choose_the_template_made_for_them() {
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
    let template = ChatTemplate::new(&named, &Value::Null).expect("parses");
    let render = |tools: Value| template.render(&[("tools".into(), tools)].into(), SystemTime::UNIX_EPOCH, true);
    assert_eq!(render(Value::Null).as_deref(), Ok("plain"));
    assert_eq!(render(json!([{}])).as_deref(), Ok("tools"));
}

#[test]
fn the_idioms_of_known_templates_work() {
    let messages =
        json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "<tool_response>b</tool_response>"}]);
    for (template, expected) in [
        ("{% for m in messages[::-1] %}{{ m.role }},{% endfor %}", "tool,user,"),
        ("{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ messages[1].content.split('</tool_response>')[0].split('>')[-1].lstrip('\\n') }}", "b"),
        ("{{ messages[-1].content.startswith('<tool_response>') }}", "True"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "tool"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ tools is none }}{{ nothing is defined }}", "TrueFalse"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}{{ messages[1:] | length }}", "[1]1"),
        (
            "{{ {'a': 1}.items() | list | tojson }}{{ messages | map(attribute='role') | join('+') }}",
            "[[\"a\", 1]]user+tool",
        ),
        ("{{ 'x' if messages[0].content is string and messages[0].name is not defined else 'y' }}", "x"),
    ] {
        let rendered = render(template, json!({"messages": messages, "tools": null}));
        assert_eq!(
            rendered.as_deref().map(|text| text.replace("true", "True").replace("false", "False")),
            Ok(expected.to_owned()),
            "{template}"
        );
    }
}

#[test]
fn arguments_are_text_only_where_objects_do_not_do() {
    let of = |write: &str| {
        let source = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}".to_owned()
            + write
            + "{% endfor %}{% endfor %}";
        ChatTemplate::new(&source.into(), &Value::Null).unwrap().wants_arguments_as_text()
    };
    assert!(!of("{{ c.function.arguments | tojson }}"));
    assert!(of("{{ '```json\n' + c.function.arguments }}"));
    assert!(!of("{{ c.function.name }}"));
}
