//! Whether a model fits into memory beside the one that is served.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::engine::mistral::{LoadSpec, copies_on_cpu};

/// What an engine needs of memory for each byte of its files: weights can be wider there, and the cache comes on top.
const BYTES_PER_BYTE: u64 = 2;

/// Whether `engines` engines of this model fit beside what is in memory now. On a GPU they never do: an engine there takes
/// most of the memory for its cache.
pub(super) fn fits_beside(spec: &LoadSpec, file_bytes: u64, engines: usize) -> bool {
    copies_on_cpu(spec).is_some_and(|copies| {
        let engines = u64::try_from(engines).unwrap_or(u64::MAX);
        needed(file_bytes, copies, engines) <= available()
    })
}

fn needed(file_bytes: u64, copies: u32, engines: u64) -> u64 {
    file_bytes.saturating_mul(BYTES_PER_BYTE).saturating_mul(u64::from(copies)).saturating_mul(engines)
}

/// Bytes that the machine, or the container, can still give.
fn available() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let limited = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(limited)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::engine::mistral::{Device, ModelFiles};

    #[test]
    fn a_small_model_fits_and_one_larger_than_the_machine_does_not() {
        let spec = LoadSpec {
            model: ModelFiles::Gguf(PathBuf::from("/m.gguf")),
            digest: String::new(),
            device: Device::Cpu,
            slots: Some(2),
            gpu_memory_share: 0.9,
            quantization: None,
            context_length: None,
        };
        assert!(fits_beside(&spec, 1 << 10, 1));
        assert!(!fits_beside(&spec, 1 << 50, 1));
        assert!(!fits_beside(&spec, u64::MAX, 2));
        assert_eq!(needed(100, 2, 3), 1200);
    }
}
