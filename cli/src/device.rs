//! Opening the device that the options describe.

use streampool::{Device, DeviceBuilder, Result};

use crate::args::{DeviceArgs, DeviceName};

impl DeviceName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DeviceName::Cpu => "cpu",
            DeviceName::Sim => "sim",
            DeviceName::Cuda => "cuda",
        }
    }
}

impl DeviceArgs {
    /// The settings, not yet opened.
    pub(crate) fn builder(&self) -> DeviceBuilder {
        let builder = Device::builder(self.device.name())
            .streams(usize::from(self.streams))
            .tf32(self.tf32)
            .strict(self.strict);
        match self.memory_limit {
            Some(mib) => builder.memory_limit(usize::try_from(mib << 20).unwrap_or(usize::MAX)),
            None => builder,
        }
    }

    /// The device.
    ///
    /// # Errors
    /// As [`DeviceBuilder::open`].
    pub(crate) fn open(&self) -> Result<Device> {
        self.builder().open()
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
