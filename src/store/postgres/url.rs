//! Where a PostgreSQL database is.

use std::fmt::{self, Write as _};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How long it may take until a server is reached.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a database is, and how one gets in. It shows itself without the password.
#[derive(Clone, PartialEq)]
pub struct DatabaseUrl(pub(super) Box<Config>);

impl Eq for DatabaseUrl {}

impl DatabaseUrl {
    /// Reads `postgres://user:password@host:port/database`. What is wrong with it is said without showing anything of it.
    ///
    /// # Errors
    ///
    /// What it has to look like.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let mut config: Config = text.parse().map_err(
            |_| "write postgres://user:password@host:5432/database, with % codes for special characters of the password",
        )?;
        match (config.get_user(), config.get_hosts(), config.get_dbname()) {
            (None, _, _) => return Err("the user is missing: postgres://user:password@host:5432/database"),
            (_, [], _) => return Err("the host is missing: postgres://user:password@host:5432/database"),
            (_, _, None) => return Err("the database is missing: postgres://user:password@host:5432/database"),
            (Some(_), [_, ..], Some(_)) => {}
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err("encrypted connections to a database are not served by this version; leave sslmode out");
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_application_name().is_none() {
            config.application_name("sluicegate");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        Ok(Self(Box::new(config)))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "database {} on ", self.0.get_dbname().unwrap_or_default())?;
        let ports = self.0.get_ports();
        for (number, host) in self.0.get_hosts().iter().enumerate() {
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
