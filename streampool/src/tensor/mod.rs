//! Tensors: immutable values on a device, ordered across threads and streams by themselves.
//!
//! A tensor remembers which submission wrote it. Whoever uses it on another stream waits for that submission on the device; whoever
//! drops it while work still reads it gives back memory that the pool withholds until that work is done. No user of a
//! tensor synchronises anything.

mod create;
mod elementwise;
mod index;
mod matmul;
mod reduce;
mod view;

use std::fmt;
use std::sync::Arc;

use streampool_core::op::{DType, Element, HostTensor, Layout, Shape};

pub use create::Generator;
pub use elementwise::promote_types;
pub use matmul::ConvOptions;
pub(crate) use matmul::conv_op;

use crate::device::{Home, Storage};
use crate::{Device, Error, Result};

/// An immutable array on a device. Cloning, views and sending to other threads are cheap; dropping is safe at any moment.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    dtype: DType,
    layout: Layout,
}

impl Tensor {
    pub(crate) fn new(storage: Arc<Storage>, dtype: DType, layout: Layout) -> Self {
        Self { storage, dtype, layout }
    }

    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        Self { storage: self.storage.clone(), dtype: self.dtype, layout }
    }

    pub(crate) fn device_handle(&self) -> &Arc<Home> {
        self.storage.home()
    }

    /// Axis lengths.
    pub fn shape(&self) -> Shape {
        self.layout.shape.clone()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.layout.shape.rank()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.layout.shape.len()
    }

    /// Step per axis, in elements; 0 where an axis is repeated.
    pub fn strides(&self) -> Vec<isize> {
        self.layout.strides.to_vec()
    }

    /// Whether the elements lie row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    /// Whether it lives on `device`.
    pub fn is_on(&self, device: &Device) -> bool {
        self.device_handle().same_device(device.handle())
    }

    /// Copies to the host, row-major, waiting for the work that makes it. An error of that work is an error of this call.
    pub fn to_host(&self) -> Result<HostTensor> {
        let dense = self.contiguous()?;
        dense.device_handle().download(&dense)
    }

    /// The elements, row-major. `T` must be the tensor's dtype.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::invalid_argument(format!(
                "to_vec: the tensor is {}, not {}; cast it first",
                self.dtype,
                T::DTYPE
            )));
        }
        Ok(self.to_host()?.as_slice::<T>()?.to_vec())
    }

    /// The one element of a tensor that has one.
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.numel() != 1 {
            return Err(Error::invalid_argument(format!(
                "item: shape {} has {} elements, not one",
                self.shape(),
                self.numel()
            )));
        }
        Ok(self.to_vec::<T>()?[0])
    }

    /// A copy on another device.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.is_on(device) {
            return Ok(self.clone());
        }
        Tensor::from_host(device, &self.to_host()?)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{}, {})", self.dtype, self.layout.shape, self.device_handle().device_name())
    }
}

/// `axis` counted from the end if negative; an error that names the rank if there is no such axis.
pub(crate) fn axis_of(axis: isize, rank: usize, name: &str) -> Result<usize> {
    let wrapped = if axis < 0 { axis + rank as isize } else { axis };
    if (0..rank as isize).contains(&wrapped) {
        return Ok(wrapped as usize);
    }
    Err(Error::invalid_argument(format!("{name}: there is no axis {axis} in a tensor of rank {rank}")))
}
