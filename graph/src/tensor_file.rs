//! Tensors from `.pb` files: the inputs and outputs that ONNX's test cases come with.

use bytes::Bytes;
use prost::Message;
use streampool_core::op::HostTensor;
use streampool_core::{Error, Result};

use crate::ir::{DataFolder, constant_of};
use crate::onnx::TensorProto;

/// Decodes one serialised `TensorProto`: its name and its value.
///
/// # Errors
/// `is_invalid_model` if the bytes are damaged, `is_unsupported` for element types that do not exist here.
pub fn tensor_from_proto(bytes: impl Into<Bytes>) -> Result<(String, HostTensor)> {
    let proto = TensorProto::decode(bytes.into())
        .map_err(|e| Error::invalid_model(format!("this is no serialised tensor: {e}")).caused_by(e))?;
    let constant = constant_of(&proto, &DataFolder::none())?;
    Ok((proto.name, HostTensor::from_bytes(constant.ty().clone(), constant.data())?))
}
