//! What is measured.

use streampool::{DType, Error, HostTensor, Result};

/// One call of a thread's own, inputs bound.
pub(crate) type Call<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// A runtime with a model, shared by all threads.
pub(crate) trait Engine: Sync {
    fn name(&self) -> &'static str;
    /// What a thread repeats: from input arrays in host memory to outputs that can be read.
    fn caller<'a>(&'a self, inputs: &'a [(String, HostTensor)]) -> Result<Call<'a>>;
    /// The elements of the first output, which is float32.
    fn first_output(&self, inputs: &[(String, HostTensor)]) -> Result<Vec<f32>>;
}

/// `NAME=AxB:KIND`, KIND one of `f32` (normal numbers), `ids` (i64, 0 to 29,999), `ones` and `zeros` (i64).
pub(crate) fn input(text: &str, seed: usize) -> Result<(String, HostTensor)> {
    let wrong =
        || Error::invalid_argument(format!("'{text}' is no NAME=AxB:KIND with KIND f32, ids, ones or zeros"));
    let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (dims, kind) = rest.split_once(':').ok_or_else(wrong)?;
    let dims: Vec<usize> = dims.split('x').map(|d| d.parse().map_err(|_| wrong())).collect::<Result<_>>()?;
    let n: usize = dims.iter().product();
    let mut state = seed as u64 + 1;
    // Knuth's MMIX generator; its high bits are random enough for inputs.
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let tensor = match kind {
        // The sum of twelve uniform numbers, less six, is normal enough.
        "f32" => HostTensor::from_vec(
            dims,
            (0..n).map(|_| (0..12).map(|_| next() as f32 / (1u64 << 31) as f32).sum::<f32>() - 6.0).collect(),
        )?,
        "ids" => HostTensor::from_vec(dims, (0..n).map(|_| (next() % 30_000) as i64).collect())?,
        "ones" => HostTensor::from_vec(dims, vec![1_i64; n])?,
        "zeros" => HostTensor::from_vec(dims, vec![0_i64; n])?,
        _ => return Err(wrong()),
    };
    debug_assert!(matches!(tensor.ty().dtype, DType::F32 | DType::I64));
    Ok((name.to_owned(), tensor))
}
