//! What happens to a product's elements between the last multiply-add and the store.

use streampool_core::op::Activation;

use crate::simd::{Vector, math};

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
            None => each::<V>(src, dst, rows, cols, end, |x| x),
            Some(Activation::Relu) => each::<V>(src, dst, rows, cols, end, |x| x.like(0.0).max(x)),
            Some(Activation::Sigmoid) => each::<V>(src, dst, rows, cols, end, math::sigmoid),
            Some(Activation::Tanh) => each::<V>(src, dst, rows, cols, end, math::tanh),
            Some(Activation::Gelu) => each::<V>(src, dst, rows, cols, end, math::gelu),
            Some(Activation::GeluTanh) => each::<V>(src, dst, rows, cols, end, math::gelu_tanh),
            Some(Activation::Silu) => each::<V>(src, dst, rows, cols, end, math::silu),
            Some(Activation::LeakyRelu(slope)) => {
                let slope = slope.get();
                each::<V>(src, dst, rows, cols, end, |x| x.select_lt(x.like(0.0), x.mul(x.like(slope)), x))
            }
            Some(Activation::Clip(lo, hi)) => {
                let (lo, hi) = (lo.get(), hi.get());
                // In this order NaN stays.
                each::<V>(src, dst, rows, cols, end, |x| x.like(hi).min(x.like(lo).max(x)))
            }
        }
    }
}

/// # Safety
/// As [`finish`].
#[inline(always)]
unsafe fn each<V: Vector>(
    src: Rect,
    dst: Rect,
    rows: usize,
    cols: usize,
    end: &Epilogue,
    f: impl Fn(V) -> V,
) {
    // SAFETY: `j + LANES <= cols` or the first `cols - j` lanes keep accesses inside the row; rows are the caller's.
    unsafe {
        let scale = V::splat(end.alpha);
        for i in 0..rows {
            let (from, to) = (src.data.add(i * src.row), dst.data.add(i * dst.row));
            let mut j = 0;
            while j < cols {
                let n = cols - j;
                let whole = n >= V::LANES;
                let load = |p: *const f32| if whole { V::load(p) } else { V::load_first(p, n) };
                let mut x = load(from.add(j));
                if end.alpha != 1.0 {
                    x = x.mul(scale);
                }
                for a in end.addends.iter().flatten() {
                    let p = a.data.offset(i as isize * a.row);
                    x = x.add(if a.col == 0 { V::splat(*p) } else { load(p.add(j)) });
                }
                let y = f(x);
                if whole {
                    y.store(to.add(j));
                } else {
                    y.store_first(to.add(j), n);
                }
                j += V::LANES;
            }
        }
    }
}
