//! Who may load onto a device.

use tokio::sync::OwnedMutexGuard;

/// The right to load onto a device, until it is dropped.
#[derive(Debug)]
pub struct LoadPermit {
    _guard: Option<OwnedMutexGuard<()>>,
}

impl LoadPermit {
    /// Where nobody has to wait for another.
    pub const FREE: Self = Self { _guard: None };

    /// While this is held nobody else may.
    pub fn holding(guard: OwnedMutexGuard<()>) -> Self {
        Self { _guard: Some(guard) }
    }
}
