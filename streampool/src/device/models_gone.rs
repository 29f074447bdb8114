//! Models that were dropped while streams still keep plans of theirs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Stream;

/// A list that streams look at when its length changed. Its length is read at every entry and written when a model is dropped.
#[derive(Default)]
pub(crate) struct ModelsGone {
    count: AtomicU64,
    ids: Mutex<Vec<u64>>,
}

impl ModelsGone {
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, model: u64) {
        let mut ids = self.ids.lock().unwrap_or_else(|e| e.into_inner());
        ids.push(model);
        self.count.store(ids.len() as u64, Ordering::Release);
    }

    /// Lets a stream forget the plans of models that are gone.
    #[inline]
    pub(crate) fn sweep(&self, stream: &mut Stream) {
        if stream.models_swept != self.count() {
            self.sweep_slow(stream);
        }
    }

    #[cold]
    fn sweep_slow(&self, stream: &mut Stream) {
        let gone = {
            let ids = self.ids.lock().unwrap_or_else(|e| e.into_inner());
            ids[stream.models_swept as usize..].to_vec()
        };
        stream.models_swept += gone.len() as u64;
        for model in gone {
            stream.plans.forget(model);
        }
    }
}
