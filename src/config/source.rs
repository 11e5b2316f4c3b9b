//! Where a configuration comes from, so that it can be read again.

use std::fmt;
use std::path::PathBuf;

use super::{Effective, Mistakes, Overrides};

/// A file, an environment and flags.
#[derive(Clone, Default)]
pub struct Source {
    pub file: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
    pub overrides: Overrides,
}

impl Source {
    /// As [`Config::load`](super::Config::load).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn load(&self) -> Result<Effective, Mistakes> {
        Effective::load(self.file.as_deref(), self.environment.iter().cloned(), self.overrides.clone())
    }

    /// The file that is read, where there is one.
    pub fn path(&self) -> Option<PathBuf> {
        let named = || {
            let named = self.environment.iter().find(|(name, value)| name == "SLUICEGATE_CONFIG" && !value.is_empty());
            named.map(|(_, path)| PathBuf::from(path))
        };
        self.file.clone().or_else(named)
    }
}

impl fmt::Debug for Source {
    /// Variables may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}
