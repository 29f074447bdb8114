//! One file per family of operations.

#[allow(dead_code)]
pub(crate) mod matmul;

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// Packed forms of constants, by constant and form, shared by all programs of the device and freed with the last of them.
#[derive(Default)]
pub struct Packs {
    forms: Mutex<HashMap<(u64, u64), Weak<dyn Any + Send + Sync>>>,
}

impl Packs {
    /// The packed form `form` of constant `id`: made by `pack` if no program holds it yet. The lock is not held while packing; of two
    /// threads that pack at once, one result is kept.
    pub fn get_or_pack<T: Any + Send + Sync>(&self, id: u64, form: u64, pack: impl FnOnce() -> T) -> Arc<T> {
        let find = |forms: &HashMap<(u64, u64), Weak<dyn Any + Send + Sync>>| {
            forms.get(&(id, form)).and_then(Weak::upgrade).and_then(|p| p.downcast::<T>().ok())
        };
        if let Some(found) = find(&self.forms.lock().expect("no panic under this lock")) {
            return found;
        }
        let made = Arc::new(pack());
        let mut forms = self.forms.lock().expect("no panic under this lock");
        if let Some(found) = find(&forms) {
            return found;
        }
        forms.retain(|_, p| p.strong_count() > 0);
        let erased: Arc<dyn Any + Send + Sync> = made.clone();
        forms.insert((id, form), Arc::downgrade(&erased));
        made
    }
}
