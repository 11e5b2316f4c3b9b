//! What the engine's GPU does now, as NVIDIA's driver tells it.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use crate::engine::GpuUse;

/// A GPU with the driver's library.
pub struct Gpu {
    driver: Nvml,
    /// As the driver counts, by place on the bus.
    number: u32,
}

impl Gpu {
    /// The GPU of this name (`cuda:0`); `None` for the CPU, and where there is no driver to ask.
    pub fn of(device: &str) -> Option<Self> {
        let number = device.strip_prefix("cuda:")?.parse().ok()?;
        let driver = Nvml::init().inspect_err(|error| tracing::warn!(%error, "the driver does not say what GPUs do"));
        Some(Self { driver: driver.ok()?, number })
    }

    /// `None` where the driver does not say.
    pub fn usage(&self) -> Option<GpuUse> {
        self.ask().inspect_err(|error| tracing::debug!(%error, gpu = self.number, "the driver does not say")).ok()
    }

    fn ask(&self) -> Result<GpuUse, NvmlError> {
        let device = self.driver.device_by_index(self.number)?;
        let memory = device.memory_info()?;
        Ok(GpuUse {
            utilization: f64::from(device.utilization_rates()?.gpu) / 100.0,
            vram_used_bytes: memory.used,
            vram_total_bytes: memory.total,
            // Not every card has the sensors.
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Gpu;

    #[test]
    fn what_is_no_gpu_has_none() {
        assert!(["cpu", "none", "cuda:", "cuda:x", ""].into_iter().all(|device| Gpu::of(device).is_none()));
    }
}
