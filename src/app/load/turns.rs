//! One engine at a time is loaded onto a GPU: what another takes of its memory meanwhile would count as its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Device;
use crate::engine::LoadPermit;

/// Those who load, for each GPU.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nothing is loaded onto the device; nothing is until what is returned is dropped. The CPU has no turns.
    pub async fn take(&self, device: Device) -> LoadPermit {
        let number = match device {
            Device::Cuda(number) => number,
            Device::Auto if cfg!(feature = "cuda") => 0,
            Device::Auto | Device::Cpu => return LoadPermit::FREE,
        };
        let turn = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default());
        LoadPermit::holding(turn.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_gpu_has_one_turn_at_a_time_and_each_has_its_own() {
        let turns = Turns::default();
        let first = turns.take(Device::Cuda(0)).now_or_never().unwrap();
        assert!(turns.take(Device::Cuda(0)).now_or_never().is_none());
        assert!(turns.take(Device::Cuda(1)).now_or_never().is_some());
        assert!([(); 2].map(|()| turns.take(Device::Cpu).now_or_never()).iter().all(Option::is_some));
        drop(first);
        assert!(turns.take(Device::Cuda(0)).now_or_never().is_some());
    }
}
