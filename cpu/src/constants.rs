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
        constant.release_pages();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use streampool_core::op::{DType, Pages, TensorType};

    use super::*;

    #[derive(Debug, Default)]
    struct Released(AtomicUsize);

    impl Pages for Released {
        fn release(&self, data: &[u8]) {
            self.0.fetch_add(data.len(), Ordering::Relaxed);
        }
    }

    #[test]
    fn an_uploaded_constant_lets_go_of_its_mapped_pages_once() {
        let released = Arc::new(Released::default());
        let bytes: Vec<u8> = (0..48).collect();
        let ty = TensorType::new(DType::F32, [3, 4]);
        let constant = Constant::mapped(ty, Bytes::from(bytes.clone()), released.clone());
        let constants = Constants::default();
        let first = constants.upload(&constant).unwrap();
        let second = constants.upload(&constant).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(released.0.load(Ordering::Relaxed), 48);
        // SAFETY: 48 bytes were uploaded, and nobody writes them.
        assert_eq!(unsafe { std::slice::from_raw_parts(first.as_ptr(), 48) }, bytes);
    }
}
