//! Between host and device.

use std::sync::Arc;
use std::time::Instant;

use streampool_core::op::{HostTensor, Layout, TensorType};

use super::{Home, PATIENCE, Storage};
use crate::{Error, Result, Tensor};

impl Home {
    /// Copies host bytes into a new tensor, on the calling thread's stream.
    pub(crate) fn upload(&self, ty: &TensorType, bytes: &[u8]) -> Result<Tensor> {
        if ty.shape.checked_len()? * ty.dtype.size() != bytes.len() {
            return Err(Error::invalid_argument(format!(
                "a tensor of type {ty} has {} bytes, got {}",
                ty.bytes(),
                bytes.len()
            )));
        }
        let mut stream = self.device.enter()?;
        let block = stream.alloc(bytes.len())?;
        let ticket = stream.write(block.slice(), bytes)?;
        if let Some(ticket) = ticket {
            block.record(ticket);
        }
        let storage = Storage::new(block, ticket, &stream.home);
        Ok(Tensor::new(storage, ty.dtype, Layout::contiguous(ty.shape.clone())))
    }

    /// Copies a dense tensor to the host, after the work that makes it.
    pub(crate) fn download(self: &Arc<Self>, tensor: &Tensor) -> Result<HostTensor> {
        let mut host = HostTensor::zeros(TensorType { dtype: tensor.dtype(), shape: tensor.shape() })?;
        let size = tensor.dtype().size();
        let bytes = host.bytes().len();
        let from = tensor.storage().slice().part(tensor.layout().offset * size, bytes);
        let mut stream = self.device.enter()?;
        stream.order_after(tensor.storage())?;
        stream.read(from, host.bytes_mut(), Instant::now() + PATIENCE)?;
        Ok(host)
    }
}
