//! Operations with weights and windows: what `streampool.nn.functional` is made of.

use pyo3::prelude::*;
use streampool::Tensor;
use streampool::ops::{Operand, apply, apply1};
use streampool_core::op::{
    Attention, Conv, ConvTranspose, F32, Gather, LayerNorm, MatMul, Op, Pool, PoolKind,
};

use crate::errors::invalid;
use crate::lock::released;
use crate::parameter::{operand, transposed};
use crate::tensor::PyTensor;

type Maybe<'a, 'py> = Option<&'a Bound<'py, PyTensor>>;

/// One number for every spatial axis, or one each.
fn per_axis(ob: &Bound<'_, PyAny>, spatial: usize, name: &str) -> PyResult<Vec<usize>> {
    let list = match ob.extract::<usize>() {
        Ok(n) => vec![n; spatial],
        Err(_) => ob
            .extract::<Vec<usize>>()
            .map_err(|_| invalid(format!("{name}: needs a number from 0 on or one an axis, got {ob}")))?,
    };
    if list.len() == 1 {
        return Ok(vec![list[0]; spatial]);
    }
    if list.len() != spatial {
        return Err(invalid(format!("{name}: {} numbers for {spatial} spatial axes", list.len())));
    }
    Ok(list)
}

fn same_device(name: &str, x: &Tensor, others: &[Maybe<'_, '_>]) -> PyResult<()> {
    for other in others.iter().flatten() {
        let other = &other.get().inner;
        if !other.is_on(&x.device()) {
            return Err(invalid(format!(
                "{name}: the input is on device '{}' and a weight on '{}' (another one); move one with to()",
                x.device().info().name,
                other.device().info().name
            )));
        }
        if other.dtype() != x.dtype() {
            return Err(invalid(format!(
                "{name}: the input is {}, the weights are {}; convert one with to()",
                x.dtype(),
                other.dtype()
            )));
        }
    }
    Ok(())
}

/// `input @ weight.T + bias`: (..., in) with (out, in) and (out,) to (..., out).
#[pyfunction]
#[pyo3(signature = (input, weight, bias=None))]
fn linear(
    input: &Bound<'_, PyTensor>,
    weight: &Bound<'_, PyTensor>,
    bias: Maybe<'_, '_>,
) -> PyResult<PyTensor> {
    let x = &input.get().inner;
    let w = &weight.get().inner;
    same_device("linear", x, &[Some(weight), bias])?;
    if w.rank() != 2 || x.rank() == 0 || x.shape()[x.rank() - 1] != w.shape()[1] {
        return Err(invalid(format!(
            "linear: input {} with a weight of shape {}: the input's last axis has to be as long as the weight's last",
            x.shape(),
            w.shape()
        )));
    }
    let frozen = transposed(weight);
    let bias = bias.map(operand);
    released(input.py(), || {
        let row = if x.rank() == 1 { x.unsqueeze(0)? } else { x.clone() };
        let turned;
        let factor = match frozen {
            Some(operand) => operand,
            None => {
                turned = w.t()?;
                Operand::Tensor(&turned)
            }
        };
        let mut operands = vec![Operand::Tensor(&row), factor];
        operands.extend(bias);
        let op = Op::MatMul(MatMul { bias: operands.len() == 3, ..MatMul::default() });
        let y = apply1("linear", op, &operands)?;
        if x.rank() == 1 { y.squeeze(0) } else { Ok(y) }
    })
    .map(PyTensor::new)
}

/// Convolution of (n, in, spatial...) with (out, in / groups, kernel...) and (out,). `padding` may be "same" or "valid".
#[pyfunction]
#[pyo3(signature = (input, weight, bias, stride, padding, dilation, groups, spatial))]
#[allow(clippy::too_many_arguments)]
fn conv(
    input: &Bound<'_, PyTensor>,
    weight: &Bound<'_, PyTensor>,
    bias: Maybe<'_, '_>,
    stride: &Bound<'_, PyAny>,
    padding: &Bound<'_, PyAny>,
    dilation: &Bound<'_, PyAny>,
    groups: usize,
    spatial: usize,
) -> PyResult<PyTensor> {
    let name = format!("conv{spatial}d");
    let x = &input.get().inner;
    let w = &weight.get().inner;
    same_device(&name, x, &[Some(weight), bias])?;
    let unbatched = x.rank() == spatial + 1;
    if (!unbatched && x.rank() != spatial + 2) || w.rank() != spatial + 2 {
        return Err(invalid(format!(
            "{name}: input {} with a weight of shape {}: needs (batch, channels, {spatial} spatial axes) and as many for the weight",
            x.shape(),
            w.shape()
        )));
    }
    let strides = per_axis(stride, spatial, &name)?;
    let dilations = per_axis(dilation, spatial, &name)?;
    let (pads_before, pads_after) = match padding.extract::<String>() {
        Ok(mode) if mode == "valid" => (vec![0; spatial], vec![0; spatial]),
        Ok(mode) if mode == "same" => {
            let whole: Vec<usize> = (0..spatial)
                .map(|i| dilations[i].saturating_mul(w.shape()[i + 2].saturating_sub(1)))
                .collect();
            (whole.iter().map(|p| p / 2).collect(), whole.iter().map(|p| p - p / 2).collect())
        }
        Ok(mode) => {
            return Err(invalid(format!("{name}: there is no padding '{mode}'; there are same and valid")));
        }
        Err(_) => {
            let pads = per_axis(padding, spatial, &name)?;
            (pads.clone(), pads)
        }
    };
    let op = Op::Conv(Conv {
        strides,
        dilations,
        pads_before,
        pads_after,
        groups,
        bias: bias.is_some(),
        residual: false,
        activation: None,
    });
    let (w, bias) = (operand(weight), bias.map(operand));
    released(input.py(), || {
        let batch = if unbatched { x.unsqueeze(0)? } else { x.clone() };
        let mut operands = vec![Operand::Tensor(&batch), w];
        operands.extend(bias);
        let y = apply1(&name, op, &operands)?;
        if unbatched { y.squeeze(0) } else { Ok(y) }
    })
    .map(PyTensor::new)
}

/// Transposed convolution of (n, in, spatial...) with (in, out / groups, kernel...) and (out,).
#[pyfunction]
#[pyo3(signature = (input, weight, bias, stride, padding, output_padding, groups, dilation, spatial))]
#[allow(clippy::too_many_arguments)]
fn conv_transpose(
    input: &Bound<'_, PyTensor>,
    weight: &Bound<'_, PyTensor>,
    bias: Maybe<'_, '_>,
    stride: &Bound<'_, PyAny>,
    padding: &Bound<'_, PyAny>,
    output_padding: &Bound<'_, PyAny>,
    groups: usize,
    dilation: &Bound<'_, PyAny>,
    spatial: usize,
) -> PyResult<PyTensor> {
    let name = format!("conv_transpose{spatial}d");
    let x = &input.get().inner;
    same_device(&name, x, &[Some(weight), bias])?;
    let pads: Vec<isize> = per_axis(padding, spatial, &name)?.into_iter().map(|p| p as isize).collect();
    let op = Op::ConvTranspose(ConvTranspose {
        strides: per_axis(stride, spatial, &name)?,
        dilations: per_axis(dilation, spatial, &name)?,
        pads_before: pads.clone(),
        pads_after: pads,
        output_padding: per_axis(output_padding, spatial, &name)?,
        groups,
        bias: bias.is_some(),
    });
    let mut operands = vec![Operand::Tensor(x), operand(weight)];
    operands.extend(bias.map(operand));
    released(input.py(), || apply1(&name, op, &operands)).map(PyTensor::new)
}

/// Pooling of (n, c, spatial...): `kind` is "max" or "avg".
#[pyfunction]
#[pyo3(signature = (input, kind, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, spatial))]
#[allow(clippy::too_many_arguments)]
fn pool(
    input: &Bound<'_, PyTensor>,
    kind: &str,
    kernel_size: &Bound<'_, PyAny>,
    stride: &Bound<'_, PyAny>,
    padding: &Bound<'_, PyAny>,
    dilation: &Bound<'_, PyAny>,
    ceil_mode: bool,
    count_include_pad: bool,
    spatial: usize,
) -> PyResult<PyTensor> {
    let name = format!("{kind}_pool{spatial}d");
    let x = &input.get().inner;
    let unbatched = x.rank() == spatial + 1;
    if !unbatched && x.rank() != spatial + 2 {
        return Err(invalid(format!(
            "{name}: needs (batch, channels, {spatial} spatial axes), got {}",
            x.shape()
        )));
    }
    let kernel = per_axis(kernel_size, spatial, &name)?;
    let strides = if stride.is_none() { kernel.clone() } else { per_axis(stride, spatial, &name)? };
    let pads = per_axis(padding, spatial, &name)?;
    let op = Op::Pool(Pool {
        kind: match kind {
            "max" => PoolKind::Max { indices: false, column_major: false },
            _ => PoolKind::Average { count_pad: count_include_pad },
        },
        kernel,
        strides,
        dilations: per_axis(dilation, spatial, &name)?,
        pads_before: pads.clone(),
        pads_after: pads,
        ceil: ceil_mode,
    });
    released(input.py(), || {
        let batch = if unbatched { x.unsqueeze(0)? } else { x.clone() };
        let y = apply1(&name, op, &[Operand::Tensor(&batch)])?;
        if unbatched { y.squeeze(0) } else { Ok(y) }
    })
    .map(PyTensor::new)
}

/// Normalises over the last axes, whose lengths are `normalized_shape`, then scales and shifts. `rms`: without taking the mean off.
#[pyfunction]
#[pyo3(signature = (input, normalized_shape, weight=None, bias=None, eps=1e-5, rms=false))]
fn layer_norm(
    input: &Bound<'_, PyTensor>,
    normalized_shape: Vec<usize>,
    weight: Maybe<'_, '_>,
    bias: Maybe<'_, '_>,
    eps: f32,
    rms: bool,
) -> PyResult<PyTensor> {
    let name = if rms { "rms_norm" } else { "layer_norm" };
    let x = &input.get().inner;
    same_device(name, x, &[weight, bias])?;
    let n = normalized_shape.len();
    if n == 0 || n > x.rank() || x.shape()[x.rank() - n..] != normalized_shape[..] {
        return Err(invalid(format!(
            "{name}: the input has shape {}, its last axes have to be {normalized_shape:?}",
            x.shape()
        )));
    }
    let op = Op::LayerNorm(LayerNorm {
        axis: x.rank() - n,
        epsilon: F32::new(eps),
        rms,
        scale: weight.is_some(),
        bias: bias.is_some(),
        residual: false,
    });
    let mut operands = vec![Operand::Tensor(x)];
    operands.extend(weight.into_iter().chain(bias).map(operand));
    released(input.py(), || apply1(name, op, &operands)).map(PyTensor::new)
}

/// Rows of a (vocabulary, width) table at int32 or int64 indices of any shape.
#[pyfunction]
fn embedding(input: &Bound<'_, PyTensor>, weight: &Bound<'_, PyTensor>) -> PyResult<PyTensor> {
    let (x, w) = (&input.get().inner, &weight.get().inner);
    if w.rank() != 2 {
        return Err(invalid(format!(
            "embedding: the table has shape {}, needs (vocabulary, width)",
            w.shape()
        )));
    }
    if !w.is_on(&x.device()) {
        return Err(invalid("embedding: the indices and the table are on two devices; move one with to()"));
    }
    let operands = [operand(weight), Operand::Tensor(x)];
    released(input.py(), || apply1("embedding", Op::Gather(Gather { axis: 0 }), &operands)).map(PyTensor::new)
}

/// `softmax(scale * q @ k.mT + mask) @ v` of (batch, heads, length, width), without the scores in memory. A bool mask says which keys are
/// seen.
#[pyfunction]
#[pyo3(signature = (query, key, value, attn_mask=None, dropout_p=0.0, is_causal=false, *, scale=None))]
fn scaled_dot_product_attention(
    query: &Bound<'_, PyTensor>,
    key: &Bound<'_, PyTensor>,
    value: &Bound<'_, PyTensor>,
    attn_mask: Maybe<'_, '_>,
    dropout_p: f64,
    is_causal: bool,
    scale: Option<f32>,
) -> PyResult<PyTensor> {
    let (q, k, v) = (&query.get().inner, &key.get().inner, &value.get().inner);
    if dropout_p != 0.0 {
        return Err(crate::errors::unsupported(
            "attention with dropout: this package only infers; use dropout_p=0.0",
        ));
    }
    if q.rank() < 2 || q.rank() > 4 || k.rank() != q.rank() || v.rank() != q.rank() {
        return Err(invalid(format!(
            "scaled_dot_product_attention: needs (batch, heads, length, width) three times, got {}, {} and {}",
            q.shape(),
            k.shape(),
            v.shape()
        )));
    }
    let width = q.shape()[q.rank() - 1].max(1);
    let scale = F32::new(scale.unwrap_or(1.0 / (width as f32).sqrt()));
    let mask = attn_mask.map(|m| m.get().inner.clone());
    released(query.py(), || {
        let missing = 4 - q.rank();
        let raise = |t: &Tensor| (0..missing).try_fold(t.clone(), |t, _| t.unsqueeze(0));
        let (q, k, v) = (raise(q)?, raise(k)?, raise(v)?);
        let mask = match mask {
            Some(m) if m.dtype() == streampool::DType::Bool => {
                let zero = Tensor::zeros(&m.device(), [], q.dtype())?;
                let hidden = Tensor::full(&m.device(), [], f64::NEG_INFINITY, q.dtype())?;
                Some(m.where_(&zero, &hidden)?)
            }
            other => other,
        };
        let op =
            Op::Attention(Attention { scale, causal: is_causal, mask: mask.is_some(), merge_heads: false });
        let operands: Vec<Operand<'_>> = [&q, &k, &v].into_iter().chain(&mask).map(Operand::Tensor).collect();
        (0..missing).try_fold(apply1("scaled_dot_product_attention", op, &operands)?, |t, _| t.squeeze(0))
    })
    .map(PyTensor::new)
}

/// Greatest elements of windows, and their flat indices within each channel.
#[pyfunction]
fn max_pool_with_indices(
    input: &Bound<'_, PyTensor>,
    kernel_size: &Bound<'_, PyAny>,
    stride: &Bound<'_, PyAny>,
    padding: &Bound<'_, PyAny>,
    spatial: usize,
) -> PyResult<(PyTensor, PyTensor)> {
    let x = &input.get().inner;
    let name = format!("max_pool{spatial}d");
    let kernel = per_axis(kernel_size, spatial, &name)?;
    let strides = if stride.is_none() { kernel.clone() } else { per_axis(stride, spatial, &name)? };
    let pads = per_axis(padding, spatial, &name)?;
    let op = Op::Pool(Pool {
        kind: PoolKind::Max { indices: true, column_major: false },
        kernel,
        strides,
        dilations: vec![1; spatial],
        pads_before: pads.clone(),
        pads_after: pads,
        ceil: false,
    });
    let (values, indices) = released(input.py(), || {
        let mut out = apply(&name, op, &[Operand::Tensor(x)])?.into_iter();
        match (out.next(), out.next()) {
            (Some(values), Some(indices)) => {
                // Ours count through the whole input, PyTorch's within each channel.
                let area: usize = x.shape()[2..].iter().product();
                Ok((values, indices.remainder_scalar(area.max(1) as f64)?))
            }
            _ => Err(streampool::Error::internal("max_pool gave fewer than two results")),
        }
    })?;
    Ok((PyTensor::new(values), PyTensor::new(indices)))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    use crate::tensor as t;
    m.add_function(wrap_pyfunction!(linear, m)?)?;
    m.add_function(wrap_pyfunction!(conv, m)?)?;
    m.add_function(wrap_pyfunction!(conv_transpose, m)?)?;
    m.add_function(wrap_pyfunction!(pool, m)?)?;
    m.add_function(wrap_pyfunction!(max_pool_with_indices, m)?)?;
    m.add_function(wrap_pyfunction!(layer_norm, m)?)?;
    m.add_function(wrap_pyfunction!(embedding, m)?)?;
    m.add_function(wrap_pyfunction!(scaled_dot_product_attention, m)?)?;
    m.add_function(wrap_pyfunction!(t::cat, m)?)?;
    m.add_function(wrap_pyfunction!(t::stack, m)?)?;
    m.add_function(wrap_pyfunction!(t::pad, m)?)?;
    m.add_function(wrap_pyfunction!(t::broadcast_tensors, m)?)?;
    m.add_function(wrap_pyfunction!(t::where_fn, m)?)
}
