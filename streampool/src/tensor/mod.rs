//! Tensors: immutable values on a device, ordered across threads and streams by themselves.
//!
//! A tensor remembers which submission wrote it. Whoever uses it on another stream waits for that submission on the device; whoever
//! drops it while work still reads it gives back memory that the pool withholds until that work is done. No user of a
//! tensor synchronises anything.

mod create;
mod elementwise;
mod index;
mod matmul;
mod number;
mod reduce;
mod view;

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;
use streampool_core::op::{DType, Element, HostTensor, Layout, Shape, TensorType};

pub use create::Generator;
pub use elementwise::promote_types;
pub use matmul::ConvOptions;
pub(crate) use matmul::conv_op;
pub use number::Number;

use crate::device::{Home, PATIENCE, Storage, deadline_after};
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

    /// A tensor that reads host memory where it is, if the device can (see [`DeviceInfo`](streampool_core::driver::DeviceInfo)): element
    /// `i` lies at `offset + sum(i[k] * strides[k])` of `owner`'s elements. On other devices, and if the elements are not aligned, it is a copy.
    ///
    /// The owner's bytes are not to change while the tensor or a view of it lives; if they do, so do the tensor's elements.
    ///
    /// # Errors
    /// `is_invalid_argument` if an element lies outside of the owner's bytes, or is no valid bool.
    pub fn from_owner(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        strides: &[isize],
        offset: usize,
        owner: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let shape = Shape::new(shape);
        shape.checked_len()?;
        let layout = Layout { shape, strides: SmallVec::from_slice(strides), offset };
        let bytes: &[u8] = owner.as_ref();
        check_layout(&layout, bytes.len() / dtype.size())?;
        if dtype == DType::Bool && bytes.iter().any(|&b| b > 1) {
            return Err(Error::invalid_argument(
                "a bool is one byte of 0 or 1, the array has others; compare it with 0 first",
            ));
        }
        device.check()?;
        let info = device.info();
        if info.host_memory && info.inline && bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            // A stream's home counts the tensor among those that keep the device open.
            let home = device.shared().enter()?.home.clone();
            let storage = Storage::foreign(Box::new(owner), &home);
            return Ok(Self { storage, dtype, layout });
        }
        let whole = bytes.len() / dtype.size() * dtype.size();
        let flat = TensorType::new(dtype, [whole / dtype.size()]);
        Ok(device.handle().upload(&flat, &bytes[..whole])?.with_layout(layout))
    }

    /// The first element, for devices whose memory the host can read, once the work that makes it is done: `None` on others. The
    /// elements lie as [`Tensor::strides`] says and stay there, unchanged, for as long as this tensor lives.
    ///
    /// # Errors
    /// That of the work that makes the tensor; `is_forked`, `is_shut_down`.
    pub fn host_pointer(&self) -> Result<Option<*const u8>> {
        self.device_handle().device.pool.gate().check()?;
        let driver = &self.device_handle().device.driver;
        if !driver.info().host_memory {
            return Ok(None);
        }
        self.wait()?;
        let address = self.storage.slice().address() as usize + self.layout.offset * self.dtype.size();
        Ok(Some(std::ptr::with_exposed_provenance(address)))
    }

    /// Waits until the work that makes it is done.
    ///
    /// # Errors
    /// That of this work; `is_timeout` after a minute; `is_forked`, `is_shut_down`.
    pub fn wait(&self) -> Result<()> {
        let shared = &self.device_handle().device;
        shared.pool.gate().check()?;
        match self.storage.written() {
            Some(ticket) => shared.driver.wait(ticket, deadline_after(PATIENCE)),
            None => Ok(()),
        }
    }

    /// A handle of the device it lives on.
    pub fn device(&self) -> Device {
        Device::from_shared(self.device_handle().device.clone())
    }

    /// Says whether its device can be used by this process now, as [`Device::check`].
    ///
    /// # Errors
    /// `is_forked`, `is_shut_down`.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.device_handle().device.pool.gate().check()
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

/// Whether every element of the layout lies among `elements` ones.
fn check_layout(layout: &Layout, elements: usize) -> Result<()> {
    let bad = || {
        Err(Error::invalid_argument(format!(
            "from_owner: shape {} with strides {:?} from element {} leaves an array of {elements} elements",
            layout.shape, layout.strides, layout.offset
        )))
    };
    if layout.strides.len() != layout.shape.rank() {
        return bad();
    }
    if layout.shape.is_empty() {
        return Ok(());
    }
    let (mut low, mut high) = (layout.offset as i128, layout.offset as i128);
    for (&d, &s) in layout.shape.iter().zip(&layout.strides) {
        let reach = (d as i128 - 1) * s as i128;
        if reach < 0 { low += reach } else { high += reach }
    }
    if low < 0 || high >= elements as i128 { bad() } else { Ok(()) }
}

/// `axis` counted from the end if negative; an error that names the rank if there is no such axis.
pub(crate) fn axis_of(axis: isize, rank: usize, name: &str) -> Result<usize> {
    let wrapped = if axis < 0 { axis + rank as isize } else { axis };
    if (0..rank as isize).contains(&wrapped) {
        return Ok(wrapped as usize);
    }
    Err(Error::invalid_argument(format!("{name}: there is no axis {axis} in a tensor of rank {rank}")))
}
