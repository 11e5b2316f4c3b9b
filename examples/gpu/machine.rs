//! What the models run on.

use std::time::Instant;

use mistralrs::{DType, Device, Tensor};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::Serialize;
use sluicegate::engine::mistral::gpu_uuid;

use crate::Failure;
use crate::quantile::quantile;

#[derive(Debug, Serialize)]
pub struct Machine {
    /// `cpu`, `cuda:0`, …
    pub device: String,
    pub gpu: Option<Gpu>,
    pub cpu_threads: usize,
    /// Read and written, copying a gigabyte from one place in the device's memory to another.
    pub bandwidth_bytes_per_s: f64,
}

#[derive(Debug, Serialize)]
pub struct Gpu {
    pub name: String,
    pub driver: String,
    pub cuda: String,
    pub memory_bytes: u64,
}

/// A gigabyte that is copied, and how often.
const BYTES: usize = 1 << 30;
const COPIES: usize = 16;

impl Machine {
    pub fn of(name: &str) -> Result<Self, Failure> {
        let number: Option<u32> = match name.strip_prefix("cuda:") {
            Some(number) => Some(number.parse()?),
            None if name == "cpu" => None,
            None => return Err(format!("`{name}` is neither cpu nor a GPU, such as cuda:0").into()),
        };
        let device = number.map_or(Ok(Device::Cpu), |number| Device::new_cuda(number as usize))?;
        // A part of a GPU (MIG) is not known to the driver by this name.
        let said =
            |uuid: String| gpu(&uuid).inspect_err(|error| eprintln!("the driver does not know {uuid}: {error}")).ok();
        let gpu = gpu_uuid(&device).and_then(said);
        Ok(Self {
            device: name.to_owned(),
            gpu,
            cpu_threads: std::thread::available_parallelism()?.get(),
            bandwidth_bytes_per_s: bandwidth(&device)?,
        })
    }
}

fn gpu(uuid: &str) -> Result<Gpu, Failure> {
    let driver = Nvml::init()?;
    let gpu = driver.device_by_uuid(uuid)?;
    let cuda = driver.sys_cuda_driver_version()?;
    let ask = || -> Result<Gpu, NvmlError> {
        Ok(Gpu {
            name: gpu.name()?,
            driver: driver.sys_driver_version()?,
            cuda: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
            memory_bytes: gpu.memory_info()?.total,
        })
    };
    Ok(ask()?)
}

fn bandwidth(device: &Device) -> Result<f64, Failure> {
    // Both are there before, so that nothing but the copy is timed.
    let numbers = BYTES / size_of::<i64>();
    let (from, to) = (Tensor::zeros(numbers, DType::I64, device)?, Tensor::ones(numbers, DType::I64, device)?);
    let mut speeds = Vec::with_capacity(COPIES);
    for _ in 0..COPIES {
        device.synchronize()?;
        let began = Instant::now();
        to.slice_set(&from, 0, 0)?;
        device.synchronize()?;
        speeds.push((2 * BYTES) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(quantile(&speeds, 0.5))
}
