//! The environment as a layer: `SLUICEGATE_SERVER__LISTEN` is `server.listen`, `SLUICEGATE_POOLS__0__SLOTS` is
//! `pools[0].slots`; and a few names that other programs share.

use std::path::PathBuf;

use toml::Value;

use super::{Layers, SECRETS};
use crate::config::Place;
use crate::config::key::Key;

const PREFIX: &str = "SLUICEGATE_";

/// The variables that matter, in the order of their names.
pub(super) struct Variables {
    /// `SLUICEGATE_CONFIG`.
    pub file: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    settings: Vec<(String, String)>,
    shared: Vec<(String, String)>,
}

impl Variables {
    /// An empty variable counts as one that is not set.
    pub(super) fn collect(environment: impl Iterator<Item = (String, String)>) -> Self {
        let mut variables = Self { file: None, home: None, settings: Vec::new(), shared: Vec::new() };
        for (name, value) in environment.filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "SLUICEGATE_CONFIG" => variables.file = Some(value.into()),
                "HOME" => variables.home = Some(value.into()),
                "HF_ENDPOINT" | "HF_TOKEN" | "ORCHD_PREFER_H2" => variables.shared.push((name, value)),
                // The command line's own.
                "SLUICEGATE_URL" | "SLUICEGATE_API_KEY" | "SLUICEGATE_CA_FILE" => {}
                name_text if name_text.starts_with(PREFIX) && !is_service_link(name_text) => {
                    variables.settings.push((name, value));
                }
                _ => {}
            }
        }
        variables.settings.sort();
        variables
    }
}

/// Lays the variables over the file; our own names win over shared ones.
pub(super) fn lay(layers: &mut Layers, variables: Variables) {
    for (name, value) in variables.shared {
        match (name.as_str(), value.as_str()) {
            ("HF_ENDPOINT", _) => {
                layers.set(&Key::dotted("catalog.hub.endpoint"), Value::String(value), Place::Environment(name))
            }
            ("HF_TOKEN", _) => {
                layers.set(&Key::dotted("catalog.hub.token"), Value::String(value), Place::Environment(name))
            }
            ("ORCHD_PREFER_H2", "1") => {
                layers.set(&Key::dotted("server.http2"), Value::String("auto".into()), Place::Environment(name));
            }
            _ => {}
        }
    }
    for (name, value) in variables.settings {
        let key = Key(name[PREFIX.len()..].to_ascii_lowercase().split("__").map(str::to_owned).collect());
        let secret = SECRETS.iter().any(|secret| Key::dotted(secret) == key);
        let value = if secret { Value::String(value) } else { parse(value) };
        layers.set(&key, value, Place::Environment(name));
    }
}

/// As TOML where it is that, else as text: `4096`, `true`, `["a"]`, `info`.
fn parse(text: String) -> Value {
    // A line break would end the value and begin another key.
    let parsed =
        (!text.contains('\n')).then(|| toml::from_str::<toml::Table>(&format!("value = {text}")).ok()).flatten();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or(Value::String(text))
}

/// Whether Kubernetes sets the variable in each pod beside a service called `sluicegate`, as in
/// `SLUICEGATE_PORT_8080_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    rest == "PORT" || rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT") || rest.starts_with("PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_toml_where_it_parses_and_text_where_it_does_not() {
        assert_eq!(parse("4096".into()), Value::Integer(4096));
        assert_eq!(parse("true".into()), Value::Boolean(true));
        assert_eq!(parse("[\"a\"]".into()), Value::Array(vec![Value::String("a".into())]));
        for text in ["127.0.0.1:0", "info", "/data", "1\nb = 2", "\"open"] {
            assert_eq!(parse(text.into()), Value::String(text.into()));
        }
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_of_our_name_is_no_setting() {
        for name in ["SLUICEGATE_PORT", "SLUICEGATE_PORT_8080_TCP_ADDR", "SLUICEGATE_SERVICE_HOST"] {
            assert!(is_service_link(name), "{name}");
        }
        assert!(!is_service_link("SLUICEGATE_SERVER__LISTEN"));
    }
}
