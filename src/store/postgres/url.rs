//! Where a PostgreSQL database is.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::Encryption;

/// How long it may take until a server is reached.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a database is, and how one gets in. It shows itself without the password.
#[derive(Clone, PartialEq)]
pub struct DatabaseUrl {
    pub(super) config: Box<Config>,
    pub(super) encryption: Encryption,
}

impl Eq for DatabaseUrl {}

impl DatabaseUrl {
    /// Reads `postgres://user:password@host:port/database`. What is wrong with it is said without showing anything of it.
    ///
    /// # Errors
    ///
    /// What it has to look like.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let (text, encryption) = encryption(text)?;
        let mut config: Config = text.parse().map_err(
            |_| "write postgres://user:password@host:5432/database, with % codes for special characters of the password",
        )?;
        match (config.get_user(), config.get_hosts(), config.get_dbname()) {
            (None, _, _) => return Err("the user is missing: postgres://user:password@host:5432/database"),
            (_, [], _) => return Err("the host is missing: postgres://user:password@host:5432/database"),
            (_, _, None) => return Err("the database is missing: postgres://user:password@host:5432/database"),
            (Some(_), [_, ..], Some(_)) => {}
        }
        // It stood there in another spelling, and is decided here.
        if config.get_ssl_mode() != SslMode::Prefer {
            return Err("sslmode is written without % codes");
        }
        // A server that only reads is not the one.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.ssl_mode(if encryption == Encryption::Off { SslMode::Disable } else { SslMode::Require });
        if config.get_application_name().is_none() {
            config.application_name("sluicegate");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        Ok(Self { config: Box::new(config), encryption })
    }
}

/// Takes out of a URL what it says of encryption.
fn encryption(url: &str) -> std::result::Result<(String, Encryption), &'static str> {
    let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut others) = (None, None, Vec::new());
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", _)) if mode.is_some() => return Err("sslmode is there twice"),
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => roots = Some(value),
            _ => others.push(parameter),
        }
    }
    let roots = match roots {
        None => None,
        Some(path) if path.contains('%') => return Err("sslrootcert: a path is written as it is, without % codes"),
        Some(path) => Some(PathBuf::from(path)),
    };
    let encryption = match (mode, roots) {
        (None | Some("disable"), None) => Encryption::Off,
        (Some("require"), None) => Encryption::Unverified,
        (Some("verify-full"), roots) => Encryption::Verified(roots),
        (None | Some("disable" | "require"), Some(_)) => return Err("sslrootcert is for sslmode=verify-full"),
        (Some(_), _) => return Err("sslmode is disable (which it is where nothing is said), require or verify-full"),
    };
    let text = if others.is_empty() { place.to_owned() } else { format!("{place}?{}", others.join("&")) };
    Ok((text, encryption))
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "database {} on ", self.config.get_dbname().unwrap_or_default())?;
        let ports = self.config.get_ports();
        for (number, host) in self.config.get_hosts().iter().enumerate() {
            if number > 0 {
                text.write_char(',')?;
            }
            match host {
                Host::Tcp(host) => text.write_str(host)?,
                Host::Unix(path) => write!(text, "{}", path.display())?,
            }
            if let Some(port) = ports.get(number).or(ports.first()) {
                write!(text, ":{port}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "DatabaseUrl({self})")
    }
}
