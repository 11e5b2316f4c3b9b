//! Tenants and keys of the configuration, which is read again when its file changes or SIGHUP comes: what it declares then holds at
//! once, all of it or, where anything is wrong with it, nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::reload::Reloads;
use crate::config::{Effective, Mistakes, SectionDigest, Source};
use crate::lifecycle::{Lifecycle, OnPanic};
use crate::tenants::{DeclareError, Tenants};

/// What is reloaded, and what of it holds.
pub(super) struct Follower {
    pub source: Source,
    pub tenants: Arc<Tenants>,
    /// Of the configuration that the gateway was started with.
    pub sections: BTreeMap<String, SectionDigest>,
    /// The file as it was seen last.
    seen: Option<[u8; 32]>,
}

enum Look {
    /// Nothing that was not seen before.
    Same,
    Read(Result<Box<Effective>, Mistakes>),
}

impl Follower {
    pub fn new(source: Source, sections: BTreeMap<String, SectionDigest>, tenants: Arc<Tenants>) -> Self {
        // It may have changed since it was read.
        Self { source, tenants, sections, seen: None }
    }

    /// Takes over what changes, until the gateway ends.
    pub fn follow(self, lifecycle: &Lifecycle) {
        lifecycle.spawn("declarations", OnPanic::Shutdown, follow(self, lifecycle.clone()));
    }

    fn look(&mut self, asked: bool) -> Look {
        let seen = self.source.path().and_then(|path| digest(&path));
        if seen == self.seen && !asked {
            return Look::Same;
        }
        self.seen = seen;
        Look::Read(self.source.load().map(Box::new))
    }

    async fn take(&mut self, read: Result<Box<Effective>, Mistakes>) {
        let told = |why: &str| tracing::warn!(why, "tenants and keys stay as they were declared");
        let effective = match read {
            Ok(effective) => effective,
            Err(mistakes) => return mistakes.iter().for_each(|mistake| told(&mistake.to_string())),
        };
        match self.tenants.declare(&effective.config.declared).await {
            Ok(()) => {}
            Err(DeclareError::Mistakes(mistakes)) => return mistakes.iter().for_each(|mistake| told(mistake)),
            Err(DeclareError::Store(error)) => {
                // At the next look it is tried again.
                self.seen = None;
                return told(&error.to_string());
            }
        }
        for name in self.sections.keys().chain(effective.sections.keys().filter(|it| !self.sections.contains_key(*it)))
        {
            let (before, after) = (self.sections.get(name), effective.sections.get(name));
            if before != after && !matches!(name.as_str(), "tenants" | "keys") {
                tracing::warn!(section = name, "this part of the configuration has changed, which takes a restart");
            }
        }
        match self.tenants.record_declared().await {
            Ok(changes) => tracing::info!(changes, "tenants and keys are as the configuration declares them"),
            Err(error) => {
                self.seen = None;
                tracing::error!(%error, "what is declared could not be recorded");
            }
        }
    }
}

async fn follow(mut declarations: Follower, lifecycle: Lifecycle) {
    let mut reloads = Reloads::new("tenants and keys", lifecycle.clone());
    while let Some(asked) = reloads.next().await {
        let looked = lifecycle.blocking("read the configuration", move || {
            let looked = declarations.look(asked);
            (declarations, looked)
        });
        let Ok((same, looked)) = looked.await else { return };
        declarations = same;
        if let Look::Read(read) = looked {
            declarations.take(read).await;
        }
    }
}

fn digest(path: &Path) -> Option<[u8; 32]> {
    std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into())
}
