//! `TensorProto` to [`Constant`], in every encoding, sizes checked before anything is allocated.

use std::sync::Arc;

use bytes::Bytes;
use streampool_core::op::{Constant, DType, Shape, TensorType};
use streampool_core::{Error, Result};

use super::DataFolder;
use crate::onnx::{TensorProto, data_type};

/// Our type for ONNX's data type code; an error that names it if there is none.
pub(crate) fn dtype_of(code: i32) -> Result<DType> {
    Ok(match code {
        data_type::FLOAT => DType::F32,
        data_type::DOUBLE => DType::F64,
        data_type::FLOAT16 => DType::F16,
        data_type::BFLOAT16 => DType::BF16,
        data_type::INT8 => DType::I8,
        data_type::UINT8 => DType::U8,
        data_type::INT32 => DType::I32,
        data_type::INT64 => DType::I64,
        data_type::BOOL => DType::Bool,
        0 => return Err(Error::invalid_model("the element type is not given (UNDEFINED)")),
        4 | 5 | 8 | 12..=15 | 17..=28 => {
            return Err(Error::unsupported(format!(
                "element type {} is not supported; there are FLOAT, DOUBLE, FLOAT16, BFLOAT16, INT8, UINT8, INT32, INT64 \
                 and BOOL",
                data_type::name(code)
            )));
        }
        _ => return Err(Error::invalid_model(format!("there is no element type with the code {code}"))),
    })
}

/// Dims to a shape, refused when negative or absurd.
pub(crate) fn shape_of(dims: &[i64]) -> Result<Shape> {
    let shape = dims
        .iter()
        .map(|&d| {
            usize::try_from(d)
                .map_err(|_| Error::invalid_model(format!("dims {dims:?} contain the negative {d}")))
        })
        .collect::<Result<Shape>>()?;
    shape.checked_len().map_err(|e| Error::invalid_model(e.to_string()))?;
    Ok(shape)
}

/// Decodes a tensor. Raw and external data are not copied.
pub(crate) fn constant(t: &TensorProto, folder: &DataFolder) -> Result<Arc<Constant>> {
    decode(t, folder).map_err(|e| e.context(format!("tensor '{}'", t.name)))
}

fn decode(t: &TensorProto, folder: &DataFolder) -> Result<Arc<Constant>> {
    let dtype = dtype_of(t.data_type)?;
    let ty = TensorType::new(dtype, shape_of(&t.dims)?);
    if t.segment.is_some() {
        return Err(Error::unsupported("a tensor in segments is not supported"));
    }
    let wanted = ty.bytes();
    let data = match (t.data_location, &t.raw_data) {
        (1, _) => folder.read(&t.external_data, wanted)?,
        (0, Some(raw)) => {
            // protobuf may write an empty raw_data beside typed data.
            if raw.is_empty() && wanted > 0 && has_typed_data(t) { typed(t, dtype)? } else { raw.clone() }
        }
        (0, None) => typed(t, dtype)?,
        (other, _) => return Err(Error::invalid_model(format!("data_location {other} does not exist"))),
    };
    if data.len() != wanted {
        return Err(Error::invalid_model(format!(
            "type {ty} needs {wanted} bytes of data, the file has {}",
            data.len()
        )));
    }
    let data = if dtype == DType::Bool { booleans(data) } else { data };
    Ok(Constant::mapped(ty, data, folder.pages()))
}

/// Bools are 0 or 1 everywhere behind the import.
fn booleans(data: Bytes) -> Bytes {
    if data.iter().all(|&b| b <= 1) {
        data
    } else {
        data.iter().map(|&b| u8::from(b != 0)).collect::<Vec<_>>().into()
    }
}

fn has_typed_data(t: &TensorProto) -> bool {
    !(t.float_data.is_empty()
        && t.int32_data.is_empty()
        && t.int64_data.is_empty()
        && t.double_data.is_empty())
}

/// The typed repeated fields. Their length is bounded by the file, so is what is allocated here.
fn typed(t: &TensorProto, dtype: DType) -> Result<Bytes> {
    fn bytes<T: Copy, const N: usize>(v: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        v.iter().flat_map(|&x| f(x)).collect()
    }
    Ok(match dtype {
        DType::F32 => bytes(&t.float_data, f32::to_le_bytes),
        DType::F64 => bytes(&t.double_data, f64::to_le_bytes),
        DType::I64 => bytes(&t.int64_data, i64::to_le_bytes),
        DType::I32 => bytes(&t.int32_data, i32::to_le_bytes),
        // 16 bit floats are stored as their bits.
        DType::F16 | DType::BF16 => bytes(&t.int32_data, |x| (x as u16).to_le_bytes()),
        DType::I8 | DType::U8 => bytes(&t.int32_data, |x| [x as u8]),
        DType::Bool => bytes(&t.int32_data, |x| [u8::from(x != 0)]),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(code: i32, dims: &[i64]) -> TensorProto {
        TensorProto { data_type: code, dims: dims.to_vec(), name: "w".into(), ..Default::default() }
    }

    #[test]
    fn every_encoding_gives_the_same_bytes() {
        let none = DataFolder::none();
        let raw = TensorProto { raw_data: Some(Bytes::from_static(&[0, 0, 128, 63])), ..tensor(1, &[1]) };
        let typed = TensorProto { float_data: vec![1.0], ..tensor(1, &[1]) };
        assert_eq!(constant(&raw, &none).unwrap().data(), constant(&typed, &none).unwrap().data());
        let half = TensorProto { int32_data: vec![0x3c00, 0xc000], ..tensor(10, &[2]) };
        assert_eq!(constant(&half, &none).unwrap().data().as_ref(), &[0, 0x3c, 0, 0xc0]);
        let i8s = TensorProto { int32_data: vec![-1, 5], ..tensor(3, &[2]) };
        assert_eq!(constant(&i8s, &none).unwrap().data().as_ref(), &[255, 5]);
        let bools = TensorProto { raw_data: Some(Bytes::from_static(&[7, 0])), ..tensor(9, &[2]) };
        assert_eq!(constant(&bools, &none).unwrap().data().as_ref(), &[1, 0]);
    }

    #[test]
    fn sizes_that_contradict_are_refused_by_name() {
        let none = DataFolder::none();
        let short = TensorProto { raw_data: Some(Bytes::from_static(&[0; 7])), ..tensor(1, &[2]) };
        let e = constant(&short, &none).unwrap_err();
        assert!(
            e.is_invalid_model() && e.to_string().contains("'w'") && e.to_string().contains("8 bytes"),
            "{e}"
        );
        assert!(constant(&tensor(1, &[1 << 40, 1 << 40]), &none).unwrap_err().is_invalid_model());
        assert!(constant(&tensor(1, &[-1]), &none).unwrap_err().is_invalid_model());
        assert!(constant(&tensor(8, &[1]), &none).unwrap_err().is_unsupported());
        assert!(constant(&tensor(99, &[1]), &none).unwrap_err().is_invalid_model());
    }
}
