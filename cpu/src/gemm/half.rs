//! The end of a product whose result is f16 or bf16: its sums are f32 in scratch memory, rounded once when stored.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use streampool_core::op::Activation;

use super::epilogue::Rect;
use super::pack::Narrow;
use crate::simd::slice;

/// f16 or bf16.
pub(crate) trait Half: Narrow {
    /// Rounds a slice to nearest even.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Half for f16 {
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

impl Half for bf16 {
    fn narrow(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

/// `act(alpha * sums + addends)`, rounded to `T`.
pub(crate) struct HalfEnd<T> {
    alpha: f32,
    /// Element (0, 0), step per row, step per column (0 or 1).
    addends: [Option<(*const T, isize, isize)>; 2],
    activation: Option<Activation>,
    to: *mut T,
    to_row: usize,
}

// SAFETY: only addresses and numbers; `finish_half`'s callers answer for the memory.
unsafe impl<T> Sync for HalfEnd<T> {}

impl<T: Half> HalfEnd<T> {
    /// Addends as `(element (0, 0), step per row, step per column)`; the result at `to`, rows `to_row` apart.
    pub(crate) fn new(
        alpha: f32,
        addends: [Option<(*const u8, isize, isize)>; 2],
        activation: Option<Activation>,
        to: *mut u8,
        to_row: usize,
    ) -> Self {
        let addends = addends.map(|a| a.map(|(data, row, col)| (data.cast(), row, col)));
        Self { alpha, addends, activation, to: to.cast(), to_row }
    }
}

/// Ends the rectangle of sums `from`, whose corner is at (`row`, `col`) of the result. `from` is overwritten.
///
/// # Safety
/// The rectangle is inside the result; the pointers of `end` are valid for the whole result, `from` for the rectangle, and nobody else
/// touches the rectangle.
pub(crate) unsafe fn finish_half<T: Half>(
    end: &HalfEnd<T>,
    row: usize,
    col: usize,
    from: Rect,
    rows: usize,
    cols: usize,
) {
    let mut wide = [0f32; 64];
    for i in row..row + rows {
        // SAFETY: all positions are inside the result, see above.
        let sums = unsafe { std::slice::from_raw_parts_mut(from.data.add((i - row) * from.row), cols) };
        if end.alpha != 1.0 {
            sums.iter_mut().for_each(|x| *x *= end.alpha);
        }
        for &(data, step, across) in end.addends.iter().flatten() {
            // SAFETY: as above.
            let data = unsafe { data.offset(i as isize * step + col as isize * across) };
            if across == 0 {
                // SAFETY: as above.
                let x = unsafe { *data }.wide();
                sums.iter_mut().for_each(|s| *s += x);
                continue;
            }
            for (j, sums) in sums.chunks_mut(wide.len()).enumerate() {
                let wide = &mut wide[..sums.len()];
                // SAFETY: as above.
                T::widen(unsafe { std::slice::from_raw_parts(data.add(j * 64), sums.len()) }, wide);
                sums.iter_mut().zip(wide).for_each(|(s, x)| *s += *x);
            }
        }
        if let Some(activation) = end.activation {
            activate(activation, sums);
        }
        // SAFETY: as above.
        T::narrow(sums, unsafe { std::slice::from_raw_parts_mut(end.to.add(i * end.to_row + col), cols) });
    }
}

/// Applies `activation` to every element.
pub(crate) fn activate(activation: Activation, x: &mut [f32]) {
    use slice::Function;
    match activation {
        Activation::Relu => x.iter_mut().for_each(|x| *x = if 0.0 > *x { 0.0 } else { *x }),
        Activation::LeakyRelu(slope) => {
            x.iter_mut().for_each(|x| *x = if *x < 0.0 { *x * slope.get() } else { *x });
        }
        Activation::Clip(lo, hi) => x.iter_mut().for_each(|x| {
            let y = if lo.get() > *x { lo.get() } else { *x };
            *x = if hi.get() < y { hi.get() } else { y };
        }),
        Activation::Sigmoid => slice::apply(Function::Sigmoid, x),
        Activation::Tanh => slice::apply(Function::Tanh, x),
        Activation::Gelu => slice::apply(Function::Gelu, x),
        Activation::GeluTanh => slice::apply(Function::GeluTanh, x),
        Activation::Silu => slice::apply(Function::Silu, x),
    }
}
