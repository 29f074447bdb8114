//! Frozen weights on this device: uploaded and packed once, shared by all programs, freed with the last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use streampool_core::Result;
use streampool_core::op::Constant;

use crate::kernels::Packs;
use crate::memory::HostMemory;

/// The uploaded and packed forms of constants that live on a device.
#[derive(Default)]
pub(crate) struct Constants {
    uploaded: Mutex<HashMap<u64, Weak<HostMemory>>>,
    packs: Packs,
}

impl Constants {
    /// The packed forms.
    pub(crate) fn packs(&self) -> &Packs {
        &self.packs
    }

    /// The bytes of `constant` in aligned memory: copied if no program holds them yet. The lock is not held while copying; of two threads
    /// that copy at once, one result is kept.
    pub(crate) fn upload(&self, constant: &Constant) -> Result<Arc<HostMemory>> {
        let find = |map: &HashMap<u64, Weak<HostMemory>>| map.get(&constant.id()).and_then(Weak::upgrade);
        if let Some(found) = find(&self.uploaded.lock().expect("no panic under this lock")) {
            return Ok(found);
        }
        let data = constant.data();
        let memory = HostMemory::new(data.len())
            .map_err(|e| e.context(format_args!("uploading a constant of type {}", constant.ty())))?;
        // SAFETY: freshly allocated with this very length, and not shared yet.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), memory.as_ptr(), data.len()) };
        let memory = Arc::new(memory);
        let mut map = self.uploaded.lock().expect("no panic under this lock");
        if let Some(found) = find(&map) {
            return Ok(found);
        }
        map.retain(|_, m| m.strong_count() > 0);
        map.insert(constant.id(), Arc::downgrade(&memory));
        Ok(memory)
    }

    /// Bytes that live now.
    pub(crate) fn bytes(&self) -> usize {
        let map = self.uploaded.lock().expect("no panic under this lock");
        let uploaded: usize = map.values().filter_map(Weak::upgrade).map(|m| m.len()).sum();
        uploaded + self.packs.bytes()
    }
}
