//! What the program says once it is ready.

use std::net::SocketAddr;

use crate::gateway::Gateway;

/// Prints what is served and where, with a line to try.
pub(super) fn print(gateway: &Gateway, address: SocketAddr) {
    println!("{}", text(gateway, address));
}

fn text(gateway: &Gateway, address: SocketAddr) -> String {
    let mut text = format!("Sluicegate {} is ready on http://{address}\n", env!("CARGO_PKG_VERSION"));
    for pool in gateway.each_pool() {
        let model = pool.model();
        if let Some(info) = pool.info() {
            text += &format!(
                "  model {model} in pool {}: {} {} on {}, {} slots, context {} tokens\n",
                pool.id(),
                info.engine.as_str(),
                info.engine_version,
                info.device,
                pool.slots().1,
                info.context_length,
            );
        }
    }
    let model = gateway.models().first().map_or_else(String::new, |model| model.id.to_string());
    text += "  no API keys: programs on this machine only\n\nTry:\n\n";
    text += &format!(
        "  curl -N http://{address}/v1/chat/completions -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"{model}\", \
         \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"What is Sluicegate?\"}}]}}'\n"
    );
    text
}
