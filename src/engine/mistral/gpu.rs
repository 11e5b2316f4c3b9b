//! What the engine's GPU does now, as NVIDIA's driver tells it.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use crate::engine::GpuUse;

/// A GPU with the driver's library. A part of one (MIG) has figures of its own, which the driver does not tell by the name that CUDA has
/// for it: it is told of in the log, and has no metrics.
pub struct Gpu {
    driver: Nvml,
    /// As the driver calls it, whatever places CUDA's variables give to GPUs.
    uuid: String,
}

impl Gpu {
    /// `None` for the CPU, and where there is no driver to ask.
    pub fn of(device: &mistralrs::Device) -> Option<Self> {
        let uuid = uuid(device)?;
        let driver = Nvml::init().inspect_err(|error| tracing::warn!(%error, "the driver does not say what GPUs do"));
        let gpu = Self { driver: driver.ok()?, uuid };
        let known = gpu
            .ask()
            .inspect_err(|error| tracing::warn!(%error, gpu = gpu.uuid, "the driver does not say what this GPU does"));
        known.is_ok().then_some(gpu)
    }

    /// `None` where the driver does not say.
    pub fn usage(&self) -> Option<GpuUse> {
        self.ask().inspect_err(|error| tracing::debug!(%error, gpu = self.uuid, "the driver does not say")).ok()
    }

    fn ask(&self) -> Result<GpuUse, NvmlError> {
        let device = self.driver.device_by_uuid(self.uuid.as_str())?;
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

/// How the driver calls the GPU; `None` for the CPU.
#[cfg(feature = "cuda")]
pub fn uuid(device: &mistralrs::Device) -> Option<String> {
    let mistralrs::Device::Cuda(device) = device else { return None };
    let uuid = device.cuda_stream().context().uuid();
    let uuid = uuid.inspect_err(|error| tracing::warn!(%error, "the driver does not say which GPU this is")).ok()?;
    Some(format!("GPU-{}", uuid::Uuid::from_bytes(uuid.bytes.map(|byte| byte as u8))))
}

/// How the driver calls the GPU: this program was built without any.
#[cfg(not(feature = "cuda"))]
pub fn uuid(_: &mistralrs::Device) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::Gpu;

    #[test]
    fn what_is_no_gpu_has_none() {
        assert!(Gpu::of(&mistralrs::Device::Cpu).is_none());
    }
}
