//! Opening a device.

use std::sync::Arc;
use std::time::Duration;

use streampool_core::driver::Driver;
use streampool_core::slot::Policy;
use streampool_sim::SimConfig;

use super::{Device, Shared};
use crate::{Error, Result};

/// Settings of a device that is to be opened.
#[derive(Clone, Debug)]
pub struct DeviceBuilder {
    name: String,
    streams: usize,
    policy: Policy,
    memory_limit: Option<usize>,
    cores: Option<usize>,
    sim: SimConfig,
}

impl DeviceBuilder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            streams: 32,
            policy: Policy::default(),
            memory_limit: None,
            cores: None,
            sim: SimConfig::default(),
        }
    }

    /// How many streams the pool has: 1 to 1,024; 32 by default. More threads than streams share them by `policy`.
    #[must_use]
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// What a thread does when every stream is running or leased. By default it waits 30 s in line.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The most bytes that may be taken from the device; by default 90 % of what it reports.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// CPU: how many cores may work, of all threads together; by default all that the process may use.
    #[must_use]
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores);
        self
    }

    /// Simulated device: its schedule, memory and faults.
    #[must_use]
    pub fn sim(mut self, config: SimConfig) -> Self {
        self.sim = config;
        self
    }

    /// Opens it. The calling thread gets stream 0.
    ///
    /// # Errors
    /// `is_unsupported` for a name that is no device here; `is_invalid_argument` for a pool size out of range.
    pub fn open(self) -> Result<Device> {
        todo!()
    }
}
