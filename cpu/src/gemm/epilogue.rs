//! What happens to a product's elements between the last multiply-add and the store.

use streampool_core::op::Activation;

use crate::simd::Vector;
use crate::simd::math::{self, Map};

/// A matrix added to the product: element `(i, j)` is at `data + i * row + j * col`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addend {
    /// Element (0, 0).
    pub(crate) data: *const f32,
    /// Step per row, in elements.
    pub(crate) row: isize,
    /// Step per column: 1, or 0 to repeat.
    pub(crate) col: isize,
}

/// `act(alpha * product + addends[0] + addends[1])`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue {
    /// Scales the product.
    pub(crate) alpha: f32,
    /// Bias and residual.
    pub(crate) addends: [Option<Addend>; 2],
    /// Applied last.
    pub(crate) activation: Option<Activation>,
}

impl Epilogue {
    /// The product as it is.
    pub(crate) const NONE: Self = Self { alpha: 1.0, addends: [None; 2], activation: None };

    /// Whether nothing is to be done.
    pub(crate) fn is_none(&self) -> bool {
        self.alpha == 1.0
            && self.addends[0].is_none()
            && self.addends[1].is_none()
            && self.activation.is_none()
    }

    /// The same for the part of the matrix from (`row`, `col`) on.
    ///
    /// # Safety
    /// The position is inside the matrix that the addends were given for.
    #[inline]
    pub(crate) unsafe fn at(&self, row: usize, col: usize) -> Self {
        let mut out = *self;
        for a in out.addends.iter_mut().flatten() {
            // SAFETY: the position is inside the addend's matrix.
            a.data = unsafe { a.data.offset(row as isize * a.row + col as isize * a.col) };
        }
        out
    }
}

/// A rectangle of `f32` that lies with `row` elements from one row to the next.
#[derive(Clone, Copy)]
pub(crate) struct Rect {
    pub(crate) data: *mut f32,
    pub(crate) row: usize,
}

/// Writes the epilogue of `src` to `dst` (which may be the same), `rows` by `cols`.
///
/// # Safety
/// The processor has the instructions of `V`; both rectangles and the addends (which begin at their corner) are valid.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector>(src: Rect, dst: Rect, rows: usize, cols: usize, end: &Epilogue) {
    // SAFETY: passed on from the caller.
    unsafe {
        match end.activation {
            None => each::<V>(src, dst, rows, cols, end, &math::Identity),
            Some(Activation::Relu) => each::<V>(src, dst, rows, cols, end, &math::Relu),
            Some(Activation::Sigmoid) => each::<V>(src, dst, rows, cols, end, &math::Sigmoid),
            Some(Activation::Tanh) => each::<V>(src, dst, rows, cols, end, &math::Tanh),
            Some(Activation::Gelu) => each::<V>(src, dst, rows, cols, end, &math::Gelu),
            Some(Activation::GeluTanh) => each::<V>(src, dst, rows, cols, end, &math::GeluTanh),
            Some(Activation::Silu) => each::<V>(src, dst, rows, cols, end, &math::Silu),
            Some(Activation::LeakyRelu(slope)) => {
                each::<V>(src, dst, rows, cols, end, &math::LeakyRelu(slope.get()));
            }
            Some(Activation::Clip(lo, hi)) => {
                each::<V>(src, dst, rows, cols, end, &math::Clip(lo.get(), hi.get()));
            }
        }
    }
}

/// `LANES` values, or the first `n`.
///
/// # Safety
/// As [`Vector::load`].
#[inline(always)]
unsafe fn load<V: Vector>(p: *const f32, n: usize) -> V {
    // SAFETY: passed on from the caller.
    unsafe { if n >= V::LANES { V::load(p) } else { V::load_first(p, n) } }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn each<V: Vector>(src: Rect, dst: Rect, rows: usize, cols: usize, end: &Epilogue, f: &impl Map) {
    // SAFETY: `j + LANES <= cols` or the first `cols - j` lanes keep accesses inside the row; rows are the caller's.
    unsafe {
        let scale = V::splat(end.alpha);
        for i in 0..rows {
            let (from, to) = (src.data.add(i * src.row), dst.data.add(i * dst.row));
            let mut j = 0;
            while j < cols {
                let n = cols - j;
                let mut x: V = load(from.add(j), n);
                if end.alpha != 1.0 {
                    x = x.mul(scale);
                }
                for a in end.addends.iter().flatten() {
                    let p = a.data.offset(i as isize * a.row);
                    x = x.add(if a.col == 0 { V::splat(*p) } else { load(p.add(j), n) });
                }
                let y = f.of(x);
                if n >= V::LANES {
                    y.store(to.add(j));
                } else {
                    y.store_first(to.add(j), n);
                }
                j += V::LANES;
            }
        }
    }
}
