//! Frozen weights on the device: uploaded once, shared by all programs, freed with the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use streampool_core::Result;
use streampool_core::op::Constant;

use crate::context::Context;
use crate::memory::DeviceMemory;

/// The constants that live on a device.
#[derive(Default)]
pub(crate) struct Constants {
    uploaded: Mutex<HashMap<u64, Weak<DeviceMemory>>>,
}

impl Constants {
    /// The device's copy: made if no program holds one. The lock is not held while copying; of two that copy at once, one is kept.
    pub(crate) fn upload(&self, context: &Arc<Context>, constant: &Constant) -> Result<Arc<DeviceMemory>> {
        let find = |map: &HashMap<u64, Weak<DeviceMemory>>| map.get(&constant.id()).and_then(Weak::upgrade);
        if let Some(found) = find(&self.lock()) {
            return Ok(found);
        }
        let memory = DeviceMemory::new(context, constant.data().len())
            .map_err(|e| e.context(format_args!("uploading a constant of type {}", constant.ty())))?;
        memory.fill(constant.data())?;
        let memory = Arc::new(memory);
        let mut map = self.lock();
        if let Some(found) = find(&map) {
            return Ok(found);
        }
        map.retain(|_, m| m.strong_count() > 0);
        map.insert(constant.id(), Arc::downgrade(&memory));
        Ok(memory)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().values().filter_map(Weak::upgrade).map(|m| m.bytes()).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Weak<DeviceMemory>>> {
        self.uploaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
