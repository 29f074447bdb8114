//! Frozen weights on the device: uploaded once, shared by all programs, freed with the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use smallvec::SmallVec;
use streampool_core::Result;
use streampool_core::op::Constant;

use crate::context::Context;
use crate::memory::DeviceMemory;

/// One constant, or several that lie one behind the other.
type Ids = SmallVec<[u64; 1]>;

/// The constants that live on a device.
#[derive(Default)]
pub(crate) struct Constants {
    uploaded: Mutex<HashMap<Ids, Weak<DeviceMemory>>>,
}

impl Constants {
    /// The device's copy: made if no program holds one. The lock is not held while copying; of two that copy at once, one is kept.
    pub(crate) fn upload(&self, context: &Arc<Context>, constant: &Constant) -> Result<Arc<DeviceMemory>> {
        self.upload_all(context, &[constant])
    }

    /// Several constants, one behind the other without gaps.
    pub(crate) fn upload_all(
        &self,
        context: &Arc<Context>,
        constants: &[&Constant],
    ) -> Result<Arc<DeviceMemory>> {
        let ids: Ids = constants.iter().map(|c| c.id()).collect();
        let find = |map: &HashMap<Ids, Weak<DeviceMemory>>| map.get(&ids).and_then(Weak::upgrade);
        if let Some(found) = find(&self.lock()) {
            return Ok(found);
        }
        let bytes = constants.iter().map(|c| c.data().len()).sum();
        let memory = DeviceMemory::new(context, bytes)
            .map_err(|e| e.context(format_args!("uploading a constant of type {}", constants[0].ty())))?;
        match constants {
            [one] => memory.fill(one.data())?,
            all => memory.fill(&all.iter().flat_map(|c| c.data().iter().copied()).collect::<Vec<u8>>())?,
        }
        let memory = Arc::new(memory);
        let mut map = self.lock();
        if let Some(found) = find(&map) {
            return Ok(found);
        }
        map.retain(|_, m| m.strong_count() > 0);
        map.insert(ids.clone(), Arc::downgrade(&memory));
        Ok(memory)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lock().values().filter_map(Weak::upgrade).map(|m| m.bytes()).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Ids, Weak<DeviceMemory>>> {
        self.uploaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
