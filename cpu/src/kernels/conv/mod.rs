//! Convolutions: [`Op::Conv`](streampool_core::op::Op::Conv) as implicit matrix product in [`patches`], or directly in
//! [`depthwise`] where each output channel reads one input channel; [`Op::ConvTranspose`](streampool_core::op::Op::ConvTranspose)
//! in [`transpose`]. f32, f16, bf16; double precision is left to the plain loops of `reference`.

mod collect;
mod depthwise;
mod patches;
mod transpose;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use streampool_core::op::{Activation, DType, Op};
use streampool_core::{Error, Result};

use super::matmul::{Nothing, aligned_copy};
use crate::gemm::half::{HalfEnd, finish_half};
use crate::gemm::pack::{Aligned, Source, pack_rows, row_stride};
use crate::gemm::{Addend, Epilogue, Rect};
use crate::kernel::{Kernel, Prepare};
use crate::simd::Isa;

/// The kernel of an [`Op::Conv`].
pub(crate) fn make(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    make_with(Isa::detect(), p)
}

/// [`make`] with the instructions `isa`.
fn make_with(isa: Isa, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let Op::Conv(op) = p.op else {
        return Err(Error::internal(format!("{} given to the Conv kernel", p.op.name())));
    };
    if p.outputs[0].layout.shape.is_empty() {
        return Ok(Box::new(Nothing));
    }
    if p.outputs[0].dtype == DType::F64 {
        return Ok(super::reference::prepare(p));
    }
    let window = Window::new(
        &p.inputs[0].layout.shape[2..],
        &p.outputs[0].layout.shape[2..],
        &p.inputs[1].layout.shape[2..],
        [&op.strides, &op.dilations],
        &op.pads_before.iter().map(|&x| x as isize).collect::<Vec<_>>(),
    );
    let common = Common::new(p, op.groups, op.bias, op.residual, op.activation);
    Ok(if p.inputs[1].layout.shape[1] == 1 && window.taps() > 1 {
        Box::new(depthwise::Depthwise::new(isa, p, window, common)?)
    } else {
        Box::new(patches::PatchConv::new(isa, p, window, common)?)
    })
}

/// The kernel of an [`Op::ConvTranspose`].
pub(crate) fn make_transpose(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    make_transpose_with(Isa::detect(), p)
}

/// [`make_transpose`] with the instructions `isa`.
fn make_transpose_with(isa: Isa, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let Op::ConvTranspose(op) = p.op else {
        return Err(Error::internal(format!("{} given to the ConvTranspose kernel", p.op.name())));
    };
    if p.outputs[0].layout.shape.is_empty() {
        return Ok(Box::new(Nothing));
    }
    if p.outputs[0].dtype == DType::F64 {
        return Ok(super::reference::prepare(p));
    }
    // The window goes over the output: output = input * stride + tap * dilation - before.
    let window = Window::new(
        &p.outputs[0].layout.shape[2..],
        &p.inputs[0].layout.shape[2..],
        &p.inputs[1].layout.shape[2..],
        [&op.strides, &op.dilations],
        &op.pads_before,
    );
    let common = Common::new(p, op.groups, op.bias, false, None);
    Ok(Box::new(transpose::TransposedConv::new(isa, p, window, common)?))
}

/// Where a window's taps lie in the larger array ("in") for each position of the smaller one ("out").
struct Window {
    /// Lengths of the spatial axes; at least one axis.
    input: Vec<usize>,
    output: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<isize>,
}

impl Window {
    fn new(
        input: &[usize],
        output: &[usize],
        kernel: &[usize],
        [strides, dilations]: [&[usize]; 2],
        before: &[isize],
    ) -> Self {
        let plain = input == output
            && kernel.iter().all(|&k| k == 1)
            && strides.iter().all(|&s| s == 1)
            && before.iter().all(|&b| b == 0);
        if plain {
            // Nothing slides: one long axis.
            let len = input.iter().product();
            return Self {
                input: vec![len],
                output: vec![len],
                kernel: vec![1],
                strides: vec![1],
                dilations: vec![1],
                before: vec![0],
            };
        }
        Self {
            input: input.to_vec(),
            output: output.to_vec(),
            kernel: kernel.to_vec(),
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            before: before.to_vec(),
        }
    }

    fn axes(&self) -> usize {
        self.input.len()
    }

    /// Positions of the window.
    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn in_len(&self) -> usize {
        self.input.iter().product()
    }

    fn out_len(&self) -> usize {
        self.output.iter().product()
    }

    /// For every tap, where it lies relative to the window's corner: steps along each axis, dilated.
    fn tap_steps(&self) -> Vec<Vec<isize>> {
        (0..self.taps())
            .map(|mut t| {
                let mut steps = vec![0; self.axes()];
                for axis in (0..self.axes()).rev() {
                    steps[axis] = (t % self.kernel[axis] * self.dilations[axis]) as isize;
                    t /= self.kernel[axis];
                }
                steps
            })
            .collect()
    }

    /// For output positions along the last axis, starting where the tap reads `first`: the range of positions `0..count` whose tap is inside.
    fn inside(&self, first: isize, count: usize) -> std::ops::Range<usize> {
        let axis = self.axes() - 1;
        let (stride, len) = (self.strides[axis] as isize, self.input[axis] as isize);
        // first + j * stride >= 0, and < len
        let lo = if first < 0 { (-first + stride - 1) / stride } else { 0 };
        let hi = if first < len { (len - first + stride - 1) / stride } else { 0 };
        let lo = (lo as usize).min(count);
        lo..(hi as usize).clamp(lo, count)
    }

    /// The offset of the row (all axes but the last) that a tap with `steps` reads at output row `row`, in elements; none if outside.
    fn row(&self, row: usize, steps: &[isize]) -> Option<usize> {
        let (mut rest, mut scale, mut at) = (row, self.input[self.axes() - 1], 0);
        for axis in (0..self.axes() - 1).rev() {
            let o = (rest % self.output[axis]) as isize;
            rest /= self.output[axis];
            let i = o * self.strides[axis] as isize + steps[axis] - self.before[axis];
            if i < 0 || i >= self.input[axis] as isize {
                return None;
            }
            at += i as usize * scale;
            scale *= self.input[axis];
        }
        Some(at)
    }
}

/// What all convolutions share.
struct Common {
    dtype: DType,
    groups: usize,
    images: usize,
    /// Channels in all: of x and of y.
    channels_in: usize,
    channels_out: usize,
    bias: Option<usize>,
    residual: Option<usize>,
    activation: Option<Activation>,
}

impl Common {
    fn new(
        p: &Prepare<'_>,
        groups: usize,
        bias: bool,
        residual: bool,
        activation: Option<Activation>,
    ) -> Self {
        let (x, y) = (&p.inputs[0].layout.shape, &p.outputs[0].layout.shape);
        Self {
            dtype: p.outputs[0].dtype,
            groups,
            images: x[0],
            channels_in: x[1],
            channels_out: y[1],
            bias: bias.then_some(2),
            residual: residual.then_some(2 + usize::from(bias)),
            activation,
        }
    }

    fn size(&self) -> usize {
        self.dtype.size()
    }

    /// The epilogue of the channels of image `image` from `channel` on, `plane` elements each, in f32.
    fn end(&self, inputs: &[*const u8], image: usize, channel: usize, plane: usize) -> Epilogue {
        let bias =
            self.bias.map(|i| Addend { data: inputs[i].wrapping_add(channel * 4).cast(), row: 1, col: 0 });
        let at = (image * self.channels_out + channel) * plane * 4;
        let residual = self.residual.map(|i| Addend {
            data: inputs[i].wrapping_add(at).cast(),
            row: plane as isize,
            col: 1,
        });
        Epilogue { alpha: 1.0, addends: [bias, residual], activation: self.activation }
    }

    /// The same in the narrow type `T`, for a result whose first channel is at `y`.
    fn half_end<T: crate::gemm::half::Half>(
        &self,
        inputs: &[*const u8],
        image: usize,
        channel: usize,
        plane: usize,
        y: *mut u8,
    ) -> HalfEnd<T> {
        let bias = self.bias.map(|i| (inputs[i].wrapping_add(channel * 2), 1, 0));
        let at = (image * self.channels_out + channel) * plane * 2;
        let residual = self.residual.map(|i| (inputs[i].wrapping_add(at), plane as isize, 1));
        HalfEnd::new(1.0, [bias, residual], self.activation, y, plane)
    }

    /// Ends sums of the channels `channel..` of `image` and writes them to `y`: `from` holds the rectangle at (`row`, `col`) of
    /// (channels, positions).
    ///
    /// # Safety
    /// The pointers of the run are valid, the rectangle is inside the result, and nobody else touches it.
    #[allow(clippy::too_many_arguments)]
    unsafe fn finish_narrow(
        &self,
        inputs: &[*const u8],
        image: usize,
        channel: usize,
        plane: usize,
        y: *mut u8,
        [row, col]: [usize; 2],
        from: Rect,
        [rows, cols]: [usize; 2],
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.dtype == DType::F16 {
                let end = self.half_end::<half::f16>(inputs, image, channel, plane, y);
                finish_half(&end, row, col, from, rows, cols);
            } else {
                let end = self.half_end::<half::bf16>(inputs, image, channel, plane, y);
                finish_half(&end, row, col, from, rows, cols);
            }
        }
    }
}

/// A constant weight as rows of f32 that do not collide in the cache.
struct Rows(Arc<Result<Aligned>>);

impl Rows {
    fn as_ptr(&self) -> *const f32 {
        // `packed_rows` gives it out only if it is there.
        self.0.as_ref().as_ref().map_or(std::ptr::null(), Aligned::as_ptr)
    }
}

/// Constant input 1, seen as `rows` rows of `k` elements with the given steps, packed and shared by all programs; none if
/// it is no constant.
fn packed_rows(
    p: &Prepare<'_>,
    form: &str,
    rows: usize,
    k: usize,
    steps: &[(usize, isize)],
    col: isize,
) -> Result<Option<Rows>> {
    let Some(constant) = p.constants.get(1).and_then(|c| c.as_ref()) else { return Ok(None) };
    let layout = &p.inputs[1].layout;
    let mut hash = DefaultHasher::new();
    (form, rows, k, layout).hash(&mut hash);
    let bytes = |packed: &Result<Aligned>| packed.as_ref().map_or(0, Aligned::bytes);
    let packed = p.packs.get_or_pack_sized(constant.id(), hash.finish(), bytes, || {
        let size = constant.ty().dtype.size();
        let copy;
        let mut data = constant.data().as_ptr();
        if data.align_offset(size) != 0 {
            copy = aligned_copy(constant.data());
            data = copy.as_ptr().cast();
        }
        let to_row = row_stride(k);
        let mut packed = Aligned::zeros(rows * to_row)?;
        for row in 0..rows {
            // The row number in mixed radix: (length, step) from the outermost on.
            let (mut rest, mut at) = (row, layout.offset as isize);
            for &(len, step) in steps.iter().rev() {
                at += (rest % len) as isize * step;
                rest /= len;
            }
            let from = Source {
                data: data.wrapping_offset(at * size as isize),
                dtype: constant.ty().dtype,
                row: 0,
                col,
            };
            // SAFETY: the layout lies inside the constant (the program was validated), whose bytes are now aligned.
            unsafe { pack_rows(from, 1, k, packed.as_mut_ptr().add(row * to_row), to_row) };
        }
        constant.release_pages();
        Ok(packed)
    });
    match &*packed {
        Ok(_) => Ok(Some(Rows(packed))),
        Err(e) => Err(e.clone()),
    }
}

/// Operand pointers that tasks share.
struct Pointers<'a> {
    inputs: &'a [*const u8],
    outputs: &'a [*mut u8],
}

// SAFETY: the contract of `Kernel::run`: inputs are only read, and tasks write disjoint parts of the output.
unsafe impl Sync for Pointers<'_> {}

impl<'a> Pointers<'a> {
    /// The inputs; by a call, so that closures capture the whole.
    fn inputs(&self) -> &'a [*const u8] {
        self.inputs
    }
}

#[cfg(test)]
mod tests;
