//! Names of things, each its own type: parsed once, cheap to clone, impossible to mix up.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use sluicegate_compat::native::API_KEY_PREFIX;
use uuid::Uuid;

/// A task: a UUID, version 7 where the gateway makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// A new id, ordered by the time it was made.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Parses what a client wrote; also accepts the ids of answers in other dialects, which carry the task id after a prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let prefixes = ["chatcmpl-", "cmpl-", "msg_", "resp_"];
        let text = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl Default for TaskId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session: a UUID that clients choose. Each tenant has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub Uuid);

impl SessionId {
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Whose a request is.
    TenantId
}
name! {
    /// An API key: the part of it that is no secret.
    KeyId
}
name! {
    /// A pool, as the configuration names it.
    PoolId
}
name! {
    /// A replica of a pool: the pool's id, a dash, and a number from 0.
    ReplicaId
}
name! {
    /// A model of the catalog.
    ModelId
}
name! {
    /// Ties together everything done for one request: in answers, logs, tasks and errors.
    CorrelationId
}

impl CorrelationId {
    /// The caller's id if it is 1 to 128 visible ASCII characters and no API key, which would stand in the log, else a fresh UUID.
    pub fn accept(callers: Option<&[u8]>) -> Self {
        callers
            .filter(|id| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
            .and_then(|id| std::str::from_utf8(id).ok())
            .filter(|id| !id.contains(API_KEY_PREFIX))
            .map_or_else(|| Self::from(Uuid::new_v4().to_string()), Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_correlation_id_is_kept_when_it_is_visible_ascii_of_bounded_length() {
        assert_eq!(CorrelationId::accept(Some(b"req-1")).as_str(), "req-1");
        let long = [b'a'; 129];
        for bad in [None, Some(&b""[..]), Some(&b"a b"[..]), Some(&b"\xff"[..]), Some(&b"sk-sg-9"[..]), Some(&long[..])]
        {
            assert_eq!(CorrelationId::accept(bad).as_str().len(), 36, "{bad:?}");
        }
    }

    #[test]
    fn a_task_is_found_by_the_id_of_its_answer_in_any_dialect() {
        let id = TaskId::new();
        assert_eq!(TaskId::parse(&format!("chatcmpl-{id}")), Some(id));
        assert_eq!(TaskId::parse(&format!("cmpl-{id}")), Some(id));
        assert_eq!(TaskId::parse(&format!("msg_{id}")), Some(id));
        assert_eq!(TaskId::parse("not an id"), None);
    }
}
