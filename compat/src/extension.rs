//! The `sluicegate` object of a request: what the gateway offers beyond the API of a dialect, in the words of the native one.

use serde::Deserialize;
use uuid::Uuid;

use crate::json::{Object, one_of};
use crate::native::{ErrorEnvelope, Placement, PlacementMode, Priority, TaskRequest};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Extension {
    pub priority: Option<String>,
    /// From admission, in ms.
    pub deadline_ms: Option<u64>,
    pub session_id: Option<Uuid>,
    pub task_id: Option<Uuid>,
    pub placement: Option<Object<PlacementBody>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PlacementBody {
    pub mode: Option<String>,
    pub pin_pool_id: Option<String>,
    pub prefer_pools: Option<Vec<String>>,
    pub avoid_pools: Option<Vec<String>>,
    pub require_device_mask: Option<String>,
    pub allow_fallback: Option<bool>,
}

impl Extension {
    /// Puts what it says into `task`, and says whether it names a priority.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn apply(self, task: &mut TaskRequest) -> Result<bool, ErrorEnvelope> {
        let named = self.priority.is_some();
        if let Some(word) = self.priority.as_deref() {
            let words = Priority::ALL.map(|priority| (priority.as_str(), priority));
            task.priority = Some(one_of("sluicegate.priority", word, &words)?);
        }
        task.deadline_ms = self.deadline_ms;
        task.session_id = self.session_id;
        task.task_id = self.task_id;
        task.placement = self.placement.map(|Object(body)| placement(body)).transpose()?;
        Ok(named)
    }
}

/// The path in a request of a native field that this object says; `None` for all others.
pub fn param(native: &str) -> Option<String> {
    let field = native.split(['.', '[']).next().unwrap_or_default();
    matches!(field, "task_id" | "session_id" | "deadline_ms" | "placement").then(|| format!("sluicegate.{native}"))
}

fn placement(body: PlacementBody) -> Result<Placement, ErrorEnvelope> {
    let modes = [("pin", PlacementMode::Pin), ("prefer", PlacementMode::Prefer), ("auto", PlacementMode::Auto)];
    let mode = body.mode.as_deref().map(|word| one_of("sluicegate.placement.mode", word, &modes)).transpose()?;
    Ok(Placement {
        mode: mode.unwrap_or_default(),
        pin_pool_id: body.pin_pool_id,
        prefer_pools: body.prefer_pools.unwrap_or_default(),
        avoid_pools: body.avoid_pools.unwrap_or_default(),
        require_device_mask: body.require_device_mask,
        allow_fallback: body.allow_fallback,
    })
}
