//! A path into the configuration, such as `pools[0].queue.capacity`.

use std::fmt;

/// The segments of a path; places in a list are numbers in digits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Key(pub Vec<String>);

impl Key {
    /// From `pools.0.slots`.
    pub(super) fn dotted(text: &str) -> Self {
        Self(text.split('.').map(str::to_owned).collect())
    }

    pub(super) fn child(&self, segment: impl Into<String>) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment.into());
        Self(segments)
    }

    /// Everything but the last segment.
    pub(super) fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    pub(super) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
            match (digits && !segment.is_empty(), index) {
                (true, _) => write!(f, "[{segment}]")?,
                (false, 0) => f.write_str(segment)?,
                (false, _) => write!(f, ".{segment}")?,
            }
        }
        Ok(())
    }
}

impl From<&eserde::path::Path> for Key {
    fn from(path: &eserde::path::Path) -> Self {
        use eserde::path::Segment::{Enum, Map, Seq};
        let segment = |segment: &eserde::path::Segment| match segment {
            Seq { index } => index.to_string(),
            Map { key } | Enum { variant: key } => key.clone(),
        };
        Self(path.iter().map(segment).collect())
    }
}

impl From<&serde_ignored::Path<'_>> for Key {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path;
        match path {
            Path::Root => Self::default(),
            Path::Seq { parent, index } => Self::from(*parent).child(index.to_string()),
            Path::Map { parent, key } => Self::from(*parent).child(key.clone()),
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                Self::from(*parent)
            }
        }
    }
}
