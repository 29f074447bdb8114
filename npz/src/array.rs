//! One array: `.npy`.

use std::io::{Read, Write};

use streampool_core::op::{DType, HostTensor};
use streampool_core::{Error, Result};

use crate::header;

/// Reads one `.npy` array of at most `limit` bytes to the end of `from`.
///
/// # Errors
/// `is_invalid_model` for damaged, truncated or too large arrays, `is_unsupported` for dtypes that streampool has not and for
/// pickles, `is_io` if the reader fails.
pub fn read_npy(from: &mut impl Read, limit: usize) -> Result<HostTensor> {
    let header = header::read(from)?;
    let bytes = header.ty.bytes();
    if bytes > limit {
        return Err(Error::invalid_model(format!(
            "array of {} bytes ({}) exceeds the limit of {limit} bytes that is left",
            bytes, header.ty
        )));
    }
    // Memory grows with what is really there: a short file that declares much costs nothing.
    let mut data = Vec::with_capacity(bytes.min(1 << 20));
    from.by_ref().take(bytes as u64).read_to_end(&mut data).map_err(header::damaged)?;
    if data.len() < bytes {
        return Err(Error::invalid_model(format!(
            "truncated: {} says {bytes} bytes of data, the file has {}",
            header.ty,
            data.len()
        )));
    }
    // Reading on to the end also makes the ZIP reader check the CRC.
    if from.read(&mut [0]).map_err(header::damaged)? != 0 {
        return Err(Error::invalid_model(format!(
            "{} needs {bytes} bytes of data, the file has more",
            header.ty
        )));
    }
    let size = header.ty.dtype.size();
    if header.big_endian && size > 1 {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if header.fortran_order && header.ty.shape.rank() > 1 {
        data = row_major(&data, &header.ty.shape, size);
    }
    if header.ty.dtype == DType::Bool {
        // NumPy counts any other byte as true; a Rust bool must be 0 or 1.
        data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    HostTensor::from_bytes(header.ty, &data)
}

/// Writes one array, row-major and little-endian.
///
/// # Errors
/// `is_io` if the writer fails.
pub fn write_npy(to: &mut impl Write, array: &HostTensor) -> Result<()> {
    to.write_all(&header::write(array.ty()))
        .and_then(|()| to.write_all(array.bytes()))
        .map_err(|e| Error::io(format!("cannot write: {e}")).caused_by(e))
}

/// Elements whose first axis varies fastest, put so that the last does.
fn row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    if data.is_empty() {
        return out;
    }
    let rank = shape.len();
    // How far the next element of each axis lies, in elements.
    let mut strides = vec![1; rank];
    for i in 1..rank {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut index = vec![0; rank];
    let mut at = 0;
    loop {
        out.extend_from_slice(&data[at * size..][..size]);
        let mut axis = rank;
        loop {
            if axis == 0 {
                return out;
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streampool_core::op::{Shape, TensorType};

    #[test]
    fn fortran_order_becomes_row_major() {
        // Value of element (i, j, k) is 100 i + 10 j + k; stored with i fastest.
        let (a, b, c) = (2, 3, 4);
        let mut fortran = Vec::new();
        for k in 0..c {
            for j in 0..b {
                for i in 0..a {
                    fortran.push((100 * i + 10 * j + k) as u8);
                }
            }
        }
        let mut rows = Vec::new();
        for i in 0..a {
            for j in 0..b {
                for k in 0..c {
                    rows.push((100 * i + 10 * j + k) as u8);
                }
            }
        }
        assert_eq!(row_major(&fortran, &[a, b, c], 1), rows);
        assert_eq!(row_major(&[], &[0, 3], 4), Vec::<u8>::new());
    }

    #[test]
    fn a_huge_claim_in_a_short_file_is_truncation_not_memory() {
        let ty = TensorType { dtype: DType::F32, shape: Shape::new(&[1 << 40]) };
        let mut file = header::write(&ty);
        file.extend_from_slice(&[0; 100]);
        let e = read_npy(&mut &file[..], usize::MAX).unwrap_err();
        assert!(e.is_invalid_model() && e.to_string().contains("truncated"), "{e}");
        let e = read_npy(&mut &file[..], 1 << 20).unwrap_err();
        assert!(e.is_invalid_model() && e.to_string().contains("limit"), "{e}");
    }

    #[test]
    fn bools_are_zero_or_one() {
        let ty = TensorType { dtype: DType::Bool, shape: Shape::new(&[4]) };
        let mut file = header::write(&ty);
        file.extend_from_slice(&[0, 1, 2, 255]);
        assert_eq!(read_npy(&mut &file[..], 100).unwrap().bytes(), [0, 1, 1, 1]);
    }

    #[test]
    fn bytes_after_the_data_are_refused() {
        let ty = TensorType { dtype: DType::U8, shape: Shape::new(&[2]) };
        let mut file = header::write(&ty);
        file.extend_from_slice(&[1, 2, 3]);
        assert!(read_npy(&mut &file[..], 100).unwrap_err().to_string().contains("has more"));
    }
}
