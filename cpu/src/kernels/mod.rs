//! One file per family of operations.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use smallvec::SmallVec;
use streampool_core::op::Op;
use streampool_core::{Error, Result};

use crate::kernel::{Kernel, Prepare};

mod map;
mod matmul;
mod nest;
mod split;

/// Makes the kernel of a step. Operands were checked: they fit the operation and lie within their places.
pub(crate) fn prepare(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    match p.op {
        Op::Map(op) => map::prepare(op, p),
        Op::MatMul(_) => matmul::make(p),
        Op::MatMulInteger(_) => matmul::make_integer(p),
        op => Err(Error::unsupported(format!("the cpu has no kernel for {}", op.name()))),
    }
}

/// The addresses of the inputs, for tasks on several threads.
pub(crate) struct Shared(SmallVec<[*const u8; 4]>);

// SAFETY: an address alone does nothing; whoever follows it answers for the access.
unsafe impl Sync for Shared {}

impl Shared {
    /// All inputs of a call.
    pub(crate) fn all(inputs: &[*const u8]) -> Self {
        Self(SmallVec::from_slice(inputs))
    }

    /// Them.
    pub(crate) fn get(&self) -> &[*const u8] {
        &self.0
    }
}

/// The address of memory that tasks on several threads write, each its own part.
pub(crate) struct SharedMut(pub(crate) *mut u8);

// SAFETY: as for `Shared`.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// It.
    pub(crate) fn get(&self) -> *mut u8 {
        self.0
    }
}

/// Packed forms of constants, by constant and form, shared by all programs of the device and freed with the last of them.
#[derive(Default)]
pub struct Packs {
    forms: Mutex<HashMap<(u64, u64), Form>>,
}

/// A packed form, as long as a program holds it, and its size.
struct Form {
    packed: Weak<dyn Any + Send + Sync>,
    bytes: usize,
}

impl Packs {
    /// The packed form `form` of constant `id`: made by `pack` if no program holds it yet. The lock is not held while packing; of two
    /// threads that pack at once, one result is kept. Its size is taken to be that of `T` itself: see [`Packs::get_or_pack_sized`].
    pub fn get_or_pack<T: Any + Send + Sync>(&self, id: u64, form: u64, pack: impl FnOnce() -> T) -> Arc<T> {
        self.get_or_pack_sized(id, form, |packed| size_of_val(packed), pack)
    }

    /// [`Packs::get_or_pack`], with `bytes` telling how much memory a packed form keeps.
    pub fn get_or_pack_sized<T: Any + Send + Sync>(
        &self,
        id: u64,
        form: u64,
        bytes: impl FnOnce(&T) -> usize,
        pack: impl FnOnce() -> T,
    ) -> Arc<T> {
        let find = |forms: &HashMap<(u64, u64), Form>| {
            forms.get(&(id, form)).and_then(|f| f.packed.upgrade()).and_then(|p| p.downcast::<T>().ok())
        };
        if let Some(found) = find(&self.forms.lock().expect("no panic under this lock")) {
            return found;
        }
        let made = Arc::new(pack());
        let bytes = bytes(&made);
        let mut forms = self.forms.lock().expect("no panic under this lock");
        if let Some(found) = find(&forms) {
            return found;
        }
        forms.retain(|_, f| f.packed.strong_count() > 0);
        let erased: Arc<dyn Any + Send + Sync> = made.clone();
        forms.insert((id, form), Form { packed: Arc::downgrade(&erased), bytes });
        made
    }

    /// Bytes of all packed forms that some program holds.
    pub fn bytes(&self) -> usize {
        let forms = self.forms.lock().expect("no panic under this lock");
        forms.values().filter(|f| f.packed.strong_count() > 0).map(|f| f.bytes).sum()
    }
}
