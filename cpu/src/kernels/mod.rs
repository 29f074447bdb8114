//! One file per family of operations.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use smallvec::SmallVec;
use streampool_core::Result;
use streampool_core::op::Op;

use crate::kernel::{Kernel, Prepare};

mod along;
mod attention;
mod conv;
mod copy;
mod create;
mod gather;
mod lanes;
mod linalg;
mod map;
mod matmul;
mod nest;
mod normalize;
mod pool;
mod random;
mod reader;
mod recurrent;
mod reduce;
mod reference;
mod resize;
mod scatter;
mod split;
mod storage;

/// Makes the kernel of a step. Operands were checked: they fit the operation and lie within their places.
pub(crate) fn prepare(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    Ok(match p.op {
        Op::Map(op) => return map::prepare(op, p),
        Op::Reduce(op) => return reduce::prepare(op, p),
        Op::ArgReduce(op) => along::prepare_arg(op, p),
        Op::Cumulative(op) => along::prepare_cumulative(op, p),
        Op::MatMul(_) => return matmul::make(p),
        Op::MatMulInteger(_) => return matmul::make_integer(p),
        Op::Attention(_) => return attention::make(p),
        Op::Conv(_) => return conv::make(p),
        Op::ConvTranspose(_) => return conv::make_transpose(p),
        Op::Pool(op) => pool::prepare(op, p),
        Op::Resize(op) => resize::prepare(op, p),
        Op::Softmax(op) => normalize::prepare_softmax(op, p),
        Op::LayerNorm(op) => normalize::prepare_norm(op, p),
        Op::Copy(_) => copy::prepare(p),
        Op::Fill(op) => create::prepare_fill(op.value, p),
        Op::Range(op) => create::prepare_range(op),
        Op::Pad(op) => create::prepare_pad(op, p),
        Op::Trilu(op) => create::prepare_trilu(op, p),
        Op::Gather(op) => gather::prepare(op, p),
        Op::GatherElements(op) => gather::prepare_elements(op, p),
        Op::GatherNd(op) => gather::prepare_nd(op, p),
        Op::ScatterElements(op) => scatter::prepare_elements(op, p),
        Op::ScatterNd(op) => scatter::prepare_nd(op, p),
        Op::TopK(op) => along::prepare_top(op, p),
        Op::Unique(op) => along::prepare_unique(op, p),
        Op::Random(op) => random::prepare(op, p),
        Op::Recurrent(op) => recurrent::prepare(op, p),
        Op::Linalg(op) => linalg::prepare(*op, p),
    })
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
