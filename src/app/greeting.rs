//! What the program says once it is ready.

use std::net::SocketAddr;
use std::path::Path;

use crate::gateway::Gateway;
use crate::tenants::{Rights, Secret};

/// Prints what is served and where (`url` is without a slash at its end), with a line to try.
/// `open`: without API keys.
pub(super) fn print(gateway: &Gateway, url: &str, open: bool) {
    println!("{}", text(gateway, url, open));
}

/// Prints the key that is made where other machines are to be served and nobody has a key yet.
pub(super) fn print_first_key(secret: &Secret) {
    println!("The first API key, for everything. It is not shown again:\n\n  {}\n", secret.reveal());
}

fn text(gateway: &Gateway, url: &str, open: bool) -> String {
    let mut text = format!("Sluicegate {} is ready on {url}\n", env!("CARGO_PKG_VERSION"));
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
    let model = gateway.models(&Rights::default()).first().map_or_else(String::new, |model| model.id.to_string());
    let (keys, header) = match open {
        true => ("no API keys: programs on this machine only", ""),
        false => {
            ("with API keys: `sluicegate key create --tenant ID` makes them", " -H \"Authorization: Bearer $KEY\"")
        }
    };
    text += &format!(
        "  {keys}\n\nTry:\n\n  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\\n    -d '{{\"model\": \"{model}\", \
         \"stream\": true, \"messages\": [{{\"role\": \"user\", \"content\": \"What is Sluicegate?\"}}]}}'\n"
    );
    text
}

/// Writes the address that is listened on to a file, beside and renamed, so that a reader finds it whole or not at all.
pub(super) fn write_port_file(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    std::fs::write(file.path(), format!("{address}\n"))?;
    file.persist(path)?;
    Ok(())
}
