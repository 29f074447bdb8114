//! The innermost kernel: one small tile of the product, its sums in registers.
//!
//! One source for all instruction sets, after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication": `MR` rows of A,
//! read in place by broadcasts, times `NV` registers' width of packed B. Every sum runs over k in order, one fused multiply-add
//! per element, so its bits do not depend on the tile's shape, the blocking, the other rows, or which fused instruction set runs.

use streampool_core::op::Activation;

use super::epilogue::{self, Epilogue, Rect};
use crate::simd::{Isa, Portable, Vector};

/// What a tile kernel works on.
pub(crate) struct Tile<'a> {
    /// Length of the sums.
    pub(crate) k: usize,
    /// First element of A's first row. Rows lie `a_row` elements apart, the elements of a row one.
    pub(crate) a: *const f32,
    pub(crate) a_row: isize,
    /// First element of B. Each step along k is `b_step` elements on; each panel (two registers wide) `b_panel`.
    pub(crate) b: *const f32,
    pub(crate) b_step: isize,
    pub(crate) b_panel: isize,
    /// First element of the result; rows lie `c_row` apart.
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Columns to write, at most the tile's width; B is readable over the whole width.
    pub(crate) cols: usize,
    /// Go on with the sums that lie in C, instead of from zero.
    pub(crate) resume: bool,
    /// What comes after the sums, at this tile's corner; none if they are to be resumed.
    pub(crate) end: Option<&'a Epilogue>,
}

/// A kernel for one tile shape.
///
/// # Safety
/// The pointers of the tile are valid for its shape, and the processor has the kernel's instructions.
pub(crate) type TileFn = unsafe fn(&Tile<'_>);

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub(crate) isa: Isa,
    /// Lanes of a register.
    pub(crate) lanes: usize,
    /// By width in registers 1, 2, 4, 8, then by rows - 1.
    tiles: [&'static [TileFn]; 4],
    /// [`epilogue::finish`].
    pub(crate) finish: unsafe fn(Rect, Rect, usize, usize, &Epilogue),
}

impl Kernels {
    /// Those of `isa`.
    pub(crate) fn of(isa: Isa) -> &'static Kernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon::KERNELS,
            Isa::Portable => &portable::KERNELS,
        }
    }

    /// Columns of a panel of B: two registers.
    #[inline]
    pub(crate) fn panel(&self) -> usize {
        2 * self.lanes
    }

    /// The most rows a tile can have.
    #[inline]
    pub(crate) fn max_rows(&self) -> usize {
        self.tiles[1].len()
    }

    /// The widest tile of `rows` rows, as the binary logarithm of its width in registers.
    #[inline]
    pub(crate) fn widest(&self, rows: usize) -> usize {
        if rows <= self.tiles[3].len() {
            3
        } else if rows <= self.tiles[2].len() {
            2
        } else {
            1
        }
    }

    /// The kernel for `rows` rows and `2^log_width` registers.
    #[inline]
    pub(crate) fn tile(&self, rows: usize, log_width: usize) -> TileFn {
        self.tiles[log_width][rows - 1]
    }
}

/// Steps along k that B is asked for ahead.
const AHEAD: isize = 16;

/// The sums of a tile, then its epilogue, then the store.
///
/// # Safety
/// As [`TileFn`]; the processor has the instructions of `V`, and the caller is compiled for them.
// Plain counting loops alone: the compiler unrolls them completely, which is what keeps the sums in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NV: usize>(t: &Tile<'_>) {
    // SAFETY: the caller vouches for the pointers over the tile's shape; B's width is NV registers whatever `cols` is, C is
    // touched in its first `cols` columns only.
    unsafe {
        let width = NV * V::LANES;
        let full = t.cols == width;
        let mut acc = [[V::splat(0.0); NV]; MR];
        if t.resume {
            // A partial tile takes the way over a buffer, so that the sums stay in registers.
            let mut buffer = Buffer::new();
            let (mut from, mut row) = (t.c.cast_const(), t.c_row);
            if !full {
                let whole = Rect { data: buffer.data(), row: width };
                epilogue::finish::<V>(Rect { data: t.c, row: t.c_row }, whole, MR, t.cols, &Epilogue::NONE);
                (from, row) = (whole.data.cast_const(), width);
            }
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v] = V::load(from.add(i * row + v * V::LANES));
                }
            }
        }

        let mut b = t.b;
        for p in 0..t.k {
            if NV == 2 && MR > 4 {
                // Some sixteen steps ahead, of the panels that stream by; with few rows the processor does better alone.
                V::prefetch(b.wrapping_offset(AHEAD * t.b_step));
                V::prefetch(b.wrapping_offset(AHEAD * t.b_step).wrapping_add(V::LANES));
            }
            if MR >= NV {
                let mut bs = [V::splat(0.0); NV];
                for v in 0..NV {
                    bs[v] = V::load(b.offset((v / 2) as isize * t.b_panel + ((v % 2) * V::LANES) as isize));
                }
                for i in 0..MR {
                    let a = V::splat(*t.a.offset(i as isize * t.a_row + p as isize));
                    for v in 0..NV {
                        acc[i][v] = a.fma(bs[v], acc[i][v]);
                    }
                }
            } else {
                let mut as_ = [V::splat(0.0); MR];
                for i in 0..MR {
                    as_[i] = V::splat(*t.a.offset(i as isize * t.a_row + p as isize));
                }
                for v in 0..NV {
                    let b = V::load(b.offset((v / 2) as isize * t.b_panel + ((v % 2) * V::LANES) as isize));
                    for i in 0..MR {
                        acc[i][v] = as_[i].fma(b, acc[i][v]);
                    }
                }
            }
            b = b.offset(t.b_step);
        }

        // The common endings of a full tile are done in registers, all others over memory that is in the first-level cache.
        let simple = full
            && t.end.is_none_or(|e| e.alpha == 1.0 && matches!(e.activation, None | Some(Activation::Relu)));
        if simple {
            if let Some(end) = t.end {
                for add in end.addends.iter().flatten() {
                    for i in 0..MR {
                        let row = add.data.offset(i as isize * add.row);
                        if add.col == 0 {
                            let x = V::splat(*row);
                            for v in 0..NV {
                                acc[i][v] = acc[i][v].add(x);
                            }
                        } else {
                            for v in 0..NV {
                                acc[i][v] = acc[i][v].add(V::load(row.add(v * V::LANES)));
                            }
                        }
                    }
                }
                if end.activation.is_some() {
                    let zero = V::splat(0.0);
                    for i in 0..MR {
                        for v in 0..NV {
                            acc[i][v] = zero.max(acc[i][v]);
                        }
                    }
                }
            }
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v].store(t.c.add(i * t.c_row + v * V::LANES));
                }
            }
            return;
        }
        let mut buffer = Buffer::new();
        let c = Rect { data: t.c, row: t.c_row };
        let sums = if full { c } else { Rect { data: buffer.data(), row: width } };
        for i in 0..MR {
            for v in 0..NV {
                acc[i][v].store(sums.data.add(i * sums.row + v * V::LANES));
            }
        }
        let finish = Kernels::of(V::ISA).finish;
        finish(sums, c, MR, t.cols, t.end.unwrap_or(&Epilogue::NONE));
    }
}

/// Room for the greatest tile: 14 rows of 32 or 3 of 128.
#[repr(align(64))]
struct Buffer([std::mem::MaybeUninit<f32>; 448]);

impl Buffer {
    #[inline(always)]
    fn new() -> Self {
        Buffer([std::mem::MaybeUninit::uninit(); 448])
    }
    #[inline(always)]
    fn data(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// The tables of one instruction set.
macro_rules! kernels {
    (
        $(#[$cfg:meta])* mod $name:ident = $isa:ident, $vector:ty, [$($features:literal)?],
        [$($one:literal)*], [$($two:literal)*], [$($four:literal)*], [$($eight:literal)*]
    ) => {
        $(#[$cfg])*
        mod $name {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn tile<const MR: usize, const NV: usize>(t: &Tile<'_>) {
                const { assert!(MR * NV * <$vector>::LANES <= 448) };
                // SAFETY: passed on from the caller.
                unsafe { super::tile::<$vector, MR, NV>(t) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn finish(src: Rect, dst: Rect, rows: usize, cols: usize, end: &Epilogue) {
                // SAFETY: passed on from the caller.
                unsafe { epilogue::finish::<$vector>(src, dst, rows, cols, end) }
            }

            pub(super) static KERNELS: Kernels = Kernels {
                isa: Isa::$isa,
                lanes: <$vector>::LANES,
                tiles: [&[$(tile::<$one, 1>),*], &[$(tile::<$two, 2>),*], &[$(tile::<$four, 4>),*], &[$(tile::<$eight, 8>),*]],
                finish,
            };
        }
    };
}

// As many sums as the registers hold beside the factors, and at least twice the multiply-add's latency of them where one
// row is all there is.
kernels! {
    #[cfg(target_arch = "x86_64")]
    mod avx512 = Avx512, crate::simd::F32x16, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"],
    [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2 3 4 5 6 7 8 9 10 11 12 13 14], [1 2 3 4 5 6], [1 2 3]
}
kernels! {
    #[cfg(target_arch = "x86_64")]
    mod avx2 = Avx2, crate::simd::F32x8, ["avx2,fma,f16c"],
    [1 2 3 4 5 6], [1 2 3 4 5 6], [1 2 3], [1]
}
kernels! {
    #[cfg(target_arch = "aarch64")]
    mod neon = Neon, crate::simd::F32x4, [],
    [1 2 3 4 5 6 7 8 9 10 11 12], [1 2 3 4 5 6 7 8 9 10 11 12], [1 2 3 4 5 6], [1 2 3]
}
kernels! {
    mod portable = Portable, Portable, [],
    [1 2 3 4], [1 2 3 4], [1 2], [1]
}
