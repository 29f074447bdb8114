//! Sliding windows: convolution, pooling, resizing. Layout is ONNX's: (batch, channels, spatial...), any number of spatial axes.

use super::matmul::names;
use super::{Activation, DType, F32, Operation, TensorType, check};
use crate::error::Result;

/// Convolution. Inputs: x (n, c, spatial...), weight (m, c / groups, kernel...), then if `bias`: (m,), then if `residual`: the output's shape. f32, f64, f16,
/// bf16. Output: (n, m, spatial...) after the activation. Zero padding. A constant weight is packed at compile time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Zeros before each spatial axis.
    pub pads_before: Vec<usize>,
    /// Zeros after each spatial axis.
    pub pads_after: Vec<usize>,
    /// Divides the channels.
    pub groups: usize,
    /// Whether a bias is given.
    pub bias: bool,
    /// Whether a tensor of the output's shape is added before the activation.
    pub residual: bool,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Transposed convolution. Inputs: x (n, c, spatial...), weight (c, m / groups, kernel...), then if `bias`: (m,). Floats. Output spatial length:
/// `stride * (in - 1) + output_padding + (kernel - 1) * dilation + 1 - before - after`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvTranspose {
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Taken off before (may be negative: adds).
    pub pads_before: Vec<isize>,
    /// Taken off after (may be negative: adds).
    pub pads_after: Vec<isize>,
    /// Extra length after.
    pub output_padding: Vec<usize>,
    /// Divides the channels.
    pub groups: usize,
    /// Whether a bias is given.
    pub bias: bool,
}

/// What a pooling window computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Greatest. With `indices`, a second output (i64): flat index of it into the whole input (row-major, or column-major over the spatial axes).
    Max {
        /// Whether indices are wanted.
        indices: bool,
        /// Column-major spatial order of the indices (ONNX `storage_order` = 1).
        column_major: bool,
    },
    /// Mean; of the window's elements inside the input, or inside the input plus its padding if `count_pad`.
    Average {
        /// Count padding in the divisor.
        count_pad: bool,
    },
    /// `(sum |x|^p)^(1/p)`.
    Lp {
        /// The exponent.
        p: u32,
    },
}

/// Pooling. Input: x (n, c, spatial...); Max takes floats, i8 and u8, the others floats. Output: (n, c, spatial...). Padding never wins and is not summed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// What.
    pub kind: PoolKind,
    /// Window per spatial axis.
    pub kernel: Vec<usize>,
    /// Per spatial axis.
    pub strides: Vec<usize>,
    /// Per spatial axis.
    pub dilations: Vec<usize>,
    /// Before each spatial axis.
    pub pads_before: Vec<usize>,
    /// After each spatial axis.
    pub pads_after: Vec<usize>,
    /// Round the output length up; a window that would start in the right padding is dropped (as PyTorch and ONNX Runtime do).
    pub ceil: bool,
}

/// How a resize samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResizeMode {
    /// One element.
    Nearest(NearestMode),
    /// Multilinear.
    Linear {
        /// Filter wider when shrinking.
        antialias: bool,
    },
    /// Keys' cubic kernel.
    Cubic {
        /// The kernel's coefficient (-0.75 as a rule).
        a: F32,
        /// Samples outside the input weigh nothing.
        exclude_outside: bool,
        /// Filter wider when shrinking.
        antialias: bool,
    },
}

/// ONNX's `nearest_mode`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NearestMode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// ONNX's `coordinate_transformation_mode`.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoordinateMode {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// With the region of interest per axis, and the value for samples outside.
    TfCropAndResize {
        extrapolation: F32,
    },
}

/// ONNX's Resize over all axes. Input: floats, i8, u8, i32. Output: same dtype, shape `sizes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resize {
    /// Output lengths, one per axis.
    pub sizes: Vec<usize>,
    /// Scale per axis, as given or derived (output / input).
    pub scales: Vec<F32>,
    /// How coordinates map.
    pub coordinates: CoordinateMode,
    /// How samples are taken.
    pub mode: ResizeMode,
    /// Start and end of the region per axis, only for `TfCropAndResize` (else empty).
    pub roi: Vec<(F32, F32)>,
}

/// Checks that every per-axis attribute has one entry per spatial axis of `x`, and that strides, dilations and kernel lengths
/// are not 0. Gives the number of spatial axes.
fn spatial(
    op: &str,
    x: &TensorType,
    lengths: &[(&str, usize)],
    positive: &[(&str, &[usize])],
) -> Result<usize> {
    check::rank_at_least(op, "x", x, 2)?;
    let axes = x.shape.rank() - 2;
    for &(what, len) in lengths.iter().chain(&positive.iter().map(|p| (p.0, p.1.len())).collect::<Vec<_>>()) {
        if len != axes {
            return Err(check::invalid(
                op,
                format_args!("x is {x} with {axes} spatial axes, but {what} has {len} entries"),
            ));
        }
    }
    for (what, values) in positive {
        if let Some(i) = values.iter().position(|&v| v == 0) {
            return Err(check::invalid(op, format_args!("{what} of spatial axis {i} is 0, needs 1 or more")));
        }
    }
    Ok(axes)
}

/// Positions of a window along one axis, rounded down: `(len + before + after - extent) / stride + 1`, with what is left over.
/// `None` if the window does not fit or a length overflows.
fn positions(
    len: usize,
    (before, after): (usize, usize),
    kernel: usize,
    dilation: usize,
    stride: usize,
) -> Option<(usize, usize)> {
    let extent = (kernel - 1).checked_mul(dilation)?.checked_add(1)?;
    let padded = len.checked_add(before)?.checked_add(after)?;
    // Kernels compute positions in signed arithmetic.
    let room = padded.checked_sub(extent).filter(|_| padded <= isize::MAX as usize / 4)?;
    Some((room / stride + 1, room % stride))
}

/// Checks the channels of a convolution.
fn grouped(op: &str, groups: usize, what: &str, channels: usize) -> Result<()> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(check::invalid(
            op,
            format_args!("{channels} {what} cannot be divided into {groups} groups"),
        ));
    }
    Ok(())
}

impl Operation for Conv {
    fn name(&self) -> &'static str {
        "Conv"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(&["x", "weight"], &[("bias", self.bias), ("residual", self.residual)]);
        check::operands(op, inputs, &names)?;
        let (x, w) = (&inputs[0], &inputs[1]);
        check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?;
        for (name, ty) in names.iter().zip(inputs).skip(1) {
            check::same_dtype(op, name, ty, "x", x)?;
        }
        check::rank_at_least(op, "x", x, 2)?;
        check::rank_is(op, "weight", w, x.shape.rank())?;
        let axes = spatial(
            op,
            x,
            &[("pads_before", self.pads_before.len()), ("pads_after", self.pads_after.len())],
            &[("strides", &self.strides), ("dilations", &self.dilations), ("the kernel", &w.shape[2..])],
        )?;
        let (n, c, m) = (x.shape[0], x.shape[1], w.shape[0]);
        grouped(op, self.groups, "input channels", c)?;
        grouped(op, self.groups, "output channels", m)?;
        if w.shape[1] != c / self.groups {
            return Err(check::invalid(
                op,
                format_args!(
                    "weight is {w}, its second axis must be {} (x {x} has {c} channels in {} groups)",
                    c / self.groups,
                    self.groups
                ),
            ));
        }
        let mut shape = vec![n, m];
        for i in 0..axes {
            let pads = (self.pads_before[i], self.pads_after[i]);
            let (len, _) =
                positions(x.shape[2 + i], pads, w.shape[2 + i], self.dilations[i], self.strides[i])
                    .ok_or_else(|| {
                        check::invalid(
                            op,
                            format_args!(
                                "on spatial axis {i} a kernel of {} with dilation {} does not fit x {x} padded by {} and {}",
                                w.shape[2 + i],
                                self.dilations[i],
                                pads.0,
                                pads.1
                            ),
                        )
                    })?;
            shape.push(len);
        }
        if self.bias {
            check::shape_is(op, "bias", &inputs[2], &[m])?;
        }
        if self.residual {
            check::shape_is(op, "residual", &inputs[inputs.len() - 1], &shape)?;
        }
        Ok(vec![TensorType::new(x.dtype, shape)])
    }
}

impl Operation for ConvTranspose {
    fn name(&self) -> &'static str {
        "ConvTranspose"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        let names = names(&["x", "weight"], &[("bias", self.bias)]);
        check::operands(op, inputs, &names)?;
        let (x, w) = (&inputs[0], &inputs[1]);
        check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?;
        for (name, ty) in names.iter().zip(inputs).skip(1) {
            check::same_dtype(op, name, ty, "x", x)?;
        }
        check::rank_at_least(op, "x", x, 2)?;
        check::rank_is(op, "weight", w, x.shape.rank())?;
        let axes = spatial(
            op,
            x,
            &[
                ("pads_before", self.pads_before.len()),
                ("pads_after", self.pads_after.len()),
                ("output_padding", self.output_padding.len()),
            ],
            &[("strides", &self.strides), ("dilations", &self.dilations), ("the kernel", &w.shape[2..])],
        )?;
        let c = x.shape[1];
        grouped(op, self.groups, "input channels", c)?;
        if w.shape[0] != c {
            return Err(check::invalid(
                op,
                format_args!("weight is {w}, its first axis must be the {c} channels of x {x}"),
            ));
        }
        let m = w.shape[1].checked_mul(self.groups).ok_or_else(|| {
            check::invalid(op, format_args!("{} groups of weight {w} overflow", self.groups))
        })?;
        let mut shape = vec![x.shape[0], m];
        for i in 0..axes {
            let wrong = |why: &str| {
                check::invalid(
                    op,
                    format_args!(
                        "spatial axis {i} of x {x} with kernel {}, stride {}, dilation {}, pads {} and {}, output padding {} {why}",
                        w.shape[2 + i],
                        self.strides[i],
                        self.dilations[i],
                        self.pads_before[i],
                        self.pads_after[i],
                        self.output_padding[i]
                    ),
                )
            };
            // Every factor is below 2^63, so products of two fit in i128.
            let wide = |v: usize| v as i128;
            let grown = match x.shape[2 + i] {
                0 => 0,
                len => {
                    wide(self.strides[i]) * (wide(len) - 1)
                        + (wide(w.shape[2 + i]) - 1) * wide(self.dilations[i])
                        + 1
                }
            };
            let limit = isize::MAX as i128 / 4;
            if grown > limit {
                return Err(wrong("is too long"));
            }
            let len = grown + wide(self.output_padding[i])
                - self.pads_before[i] as i128
                - self.pads_after[i] as i128;
            if len < 0 {
                return Err(wrong("would have a negative length"));
            }
            if len > limit || self.pads_before[i].unsigned_abs() as i128 > limit {
                return Err(wrong("is too long"));
            }
            shape.push(len as usize);
        }
        if self.bias {
            check::shape_is(op, "bias", &inputs[2], &[m])?;
        }
        Ok(vec![TensorType::new(x.dtype, shape)])
    }
}

impl Operation for Pool {
    fn name(&self) -> &'static str {
        "Pool"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        match self.kind {
            PoolKind::Max { .. } => check::dtype(
                op,
                "x",
                x,
                |d| d.is_float() || matches!(d, DType::I8 | DType::U8),
                "a float dtype, int8 or uint8",
            )?,
            _ => check::dtype(op, "x", x, |d| d.is_float(), check::FLOATS)?,
        }
        if self.kind == (PoolKind::Lp { p: 0 }) {
            return Err(check::invalid(op, "p is 0, needs 1 or more"));
        }
        let axes = spatial(
            op,
            x,
            &[("pads_before", self.pads_before.len()), ("pads_after", self.pads_after.len())],
            &[("kernel", &self.kernel), ("strides", &self.strides), ("dilations", &self.dilations)],
        )?;
        let mut shape = x.shape[..2].to_vec();
        for i in 0..axes {
            let (len, pads) = (x.shape[2 + i], (self.pads_before[i], self.pads_after[i]));
            let stride = self.strides[i];
            let (mut out, left) = positions(len, pads, self.kernel[i], self.dilations[i], stride)
                .ok_or_else(|| {
                    check::invalid(
                        op,
                        format_args!(
                            "on spatial axis {i} a window of {} with dilation {} does not fit x {x} padded by {} and {}",
                            self.kernel[i], self.dilations[i], pads.0, pads.1
                        ),
                    )
                })?;
            // The further window starts at `out * stride`; in the right padding it would see nothing.
            if self.ceil && left > 0 && out.checked_mul(stride).is_some_and(|start| start < len + pads.0) {
                out += 1;
            }
            shape.push(out);
        }
        let mut out = vec![TensorType::new(x.dtype, shape.clone())];
        if let PoolKind::Max { indices: true, .. } = self.kind {
            out.push(TensorType::new(DType::I64, shape));
        }
        Ok(out)
    }
}

impl Operation for Resize {
    fn name(&self) -> &'static str {
        "Resize"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>> {
        let op = self.name();
        check::operands(op, inputs, &["x"])?;
        let x = &inputs[0];
        if !matches!(self.mode, ResizeMode::Nearest(_)) {
            check::dtype(
                op,
                "x",
                x,
                |d| d.is_float() || matches!(d, DType::I8 | DType::U8 | DType::I32),
                "a float dtype, int8, uint8 or int32",
            )?;
        }
        let rank = x.shape.rank();
        let roi = matches!(self.coordinates, CoordinateMode::TfCropAndResize { .. });
        let roi_needed = if roi { rank } else { 0 };
        if self.sizes.len() != rank || self.scales.len() != rank || self.roi.len() != roi_needed {
            return Err(check::invalid(
                op,
                format_args!(
                    "x is {x}: needs {rank} sizes, {rank} scales and {roi_needed} regions, got {}, {} and {}",
                    self.sizes.len(),
                    self.scales.len(),
                    self.roi.len()
                ),
            ));
        }
        for i in 0..rank {
            let scale = self.scales[i].get();
            if !(scale > 0.0 && scale.is_finite()) {
                return Err(check::invalid(op, format_args!("the scale of axis {i} is {scale}, needs > 0")));
            }
            if x.shape[i] == 0 && self.sizes[i] > 0 {
                return Err(check::invalid(
                    op,
                    format_args!("axis {i} of x {x} is empty and cannot grow to {}", self.sizes[i]),
                ));
            }
        }
        if self.roi.iter().any(|r| !r.0.get().is_finite() || !r.1.get().is_finite()) {
            return Err(check::invalid(op, format_args!("the region {:?} must be finite", self.roi)));
        }
        Ok(vec![TensorType::new(x.dtype, self.sizes.clone())])
    }
}
