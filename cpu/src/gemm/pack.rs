//! Operands brought into the form that the tile kernels read: A as rows of `f32` that do not collide in the cache, B as
//! panels two registers wide, zero beyond the last column.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use streampool_core::op::DType;
use streampool_core::{Error, Result};

use crate::simd::multiversion;

/// An array of `f32` aligned to a cache line; a large one to huge pages, of which a product walks through hundreds fewer.
pub(crate) struct Aligned {
    first: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its elements as a `Box<[f32]>` does; who accesses them through the pointer answers for the order of access.
unsafe impl Send for Aligned {}
// SAFETY: a shared reference only gives out the address for reading.
unsafe impl Sync for Aligned {}

/// The size of a huge page on the processors at hand.
const HUGE: usize = 2 * 1024 * 1024;

impl Aligned {
    /// `len` zeros.
    ///
    /// # Errors
    /// `is_out_of_memory` if the system refuses.
    pub(crate) fn zeros(len: usize) -> Result<Self> {
        let bytes = len.max(1).saturating_mul(4);
        let refused = || {
            Error::out_of_memory(format!(
                "cpu: asked {bytes} bytes for packed weights, the system has no room for them; \
                 release other models or use a smaller one"
            ))
        };
        let align = if bytes >= 2 * HUGE { HUGE } else { 64 };
        let layout = Layout::from_size_align(bytes, align).map_err(|_| refused())?;
        // SAFETY: the size is not 0.
        let first = NonNull::new(unsafe { alloc(layout) }).ok_or_else(refused)?;
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: whole pages of the allocation, whose contents nobody has yet. It is a wish: if the system does not grant it, nothing is lost.
            unsafe { libc::madvise(first.as_ptr().cast(), bytes / HUGE * HUGE, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the allocation has that many bytes.
        unsafe { first.as_ptr().write_bytes(0, bytes) };
        Ok(Self { first, layout })
    }
    /// Memory that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.layout.size()
    }
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.first.as_ptr().cast()
    }
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.first.as_ptr().cast()
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with this layout, freed once.
        unsafe { dealloc(self.first.as_ptr(), self.layout) }
    }
}

/// A matrix of floats in memory: element `(i, j)` is at `data + i * row + j * col` elements of `dtype`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) data: *const u8,
    /// F32, F16 or BF16.
    pub(crate) dtype: DType,
    pub(crate) row: isize,
    pub(crate) col: isize,
}

// SAFETY: a `Source` is only an address and strides; whoever reads through it answers for the memory.
unsafe impl Sync for Source {}

impl Source {
    /// The matrix from (`row`, `col`) on.
    ///
    /// # Safety
    /// The position is inside the matrix.
    pub(crate) unsafe fn at(self, row: usize, col: usize) -> Self {
        let bytes = (row as isize * self.row + col as isize * self.col) * self.dtype.size() as isize;
        // SAFETY: the position is inside the matrix.
        Self { data: unsafe { self.data.offset(bytes) }, ..self }
    }
}

/// A float that converts to `f32`.
pub(crate) trait Narrow: Copy + 'static {
    /// As `f32`, exactly.
    fn wide(self) -> f32;
    /// A whole slice as `f32`.
    fn widen(from: &[Self], to: &mut [f32]);
}

impl Narrow for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

multiversion! {
    fn widen_bf16(from: &[bf16], to: &mut [f32]) {
        for (f, t) in from.iter().zip(to) {
            *t = f.wide();
        }
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        // A shift; unlike `to_f32` it has no branch for NaN, whose payload may stay as it is.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        widen_bf16(from, to);
    }
}

/// The number of elements from one packed row of A to the next: an odd number of cache lines, so that the rows of a tile lie in
/// different sets of the cache.
pub(crate) fn row_stride(k: usize) -> usize {
    (k.div_ceil(16) | 1) * 16
}

/// Whether up to 14 rows `row` elements of `f32` apart can be read side by side: the first-level cache has 64 sets of 8 (or more)
/// lines, and rows whose distance is a multiple of 4 KiB all fall into the same.
pub(crate) fn rows_collide(rows: usize, row: isize) -> bool {
    let mut sets = [0u8; 64];
    for i in 0..rows.min(14) {
        let line = (i as isize).wrapping_mul(row).wrapping_mul(4).div_euclid(64);
        sets[line.rem_euclid(64) as usize] += 1;
    }
    sets.iter().any(|&n| n > 5)
}

/// Copies `rows` rows of `k` elements to `to` as `f32`, `to_row` apart.
///
/// # Safety
/// The source is valid for `rows` by `k` reads (aligned), the destination for writes.
pub(crate) unsafe fn pack_rows(from: Source, rows: usize, k: usize, to: *mut f32, to_row: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match from.dtype {
            DType::F16 => rows_of::<f16>(from, rows, k, to, to_row),
            DType::BF16 => rows_of::<bf16>(from, rows, k, to, to_row),
            _ => rows_of::<f32>(from, rows, k, to, to_row),
        }
    }
}

/// # Safety
/// As [`pack_rows`].
unsafe fn rows_of<T: Narrow>(from: Source, rows: usize, k: usize, to: *mut f32, to_row: usize) {
    let data = from.data.cast::<T>();
    // SAFETY: the caller vouches for `rows` by `k` elements on both sides.
    unsafe {
        if from.col == 1 {
            for i in 0..rows {
                let src = std::slice::from_raw_parts(data.offset(i as isize * from.row), k);
                T::widen(src, std::slice::from_raw_parts_mut(to.add(i * to_row), k));
            }
        } else {
            // Blocks, so that neither side walks through memory by far steps only.
            for k0 in (0..k).step_by(16) {
                for i0 in (0..rows).step_by(16) {
                    for p in k0..(k0 + 16).min(k) {
                        for i in i0..(i0 + 16).min(rows) {
                            let x = *data.offset(i as isize * from.row + p as isize * from.col);
                            *to.add(i * to_row + p) = x.wide();
                        }
                    }
                }
            }
        }
    }
}

/// Packs `cols` (at most `width`) columns of `from`, `k` rows, into the panel `to` of `k * width` elements.
///
/// # Safety
/// The source is valid for `k` by `cols` reads (aligned), the destination for `k * width` writes.
pub(crate) unsafe fn pack_panel(from: Source, k: usize, cols: usize, width: usize, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match from.dtype {
            DType::F16 => panel_of::<f16>(from, k, cols, width, to),
            DType::BF16 => panel_of::<bf16>(from, k, cols, width, to),
            _ => panel_of::<f32>(from, k, cols, width, to),
        }
    }
}

/// # Safety
/// As [`pack_panel`].
unsafe fn panel_of<T: Narrow>(from: Source, k: usize, cols: usize, width: usize, to: *mut f32) {
    let data = from.data.cast::<T>();
    // SAFETY: the caller vouches for `k` by `cols` reads and `k * width` writes.
    unsafe {
        if cols < width {
            for p in 0..k {
                std::slice::from_raw_parts_mut(to.add(p * width + cols), width - cols).fill(0.0);
            }
        }
        if from.col == 1 {
            for p in 0..k {
                let src = std::slice::from_raw_parts(data.offset(p as isize * from.row), cols);
                T::widen(src, std::slice::from_raw_parts_mut(to.add(p * width), cols));
            }
        } else {
            // Sixteen steps along k of one column after the other: reads go along a cache line if k is the near axis,
            // writes stay within a few lines.
            for k0 in (0..k).step_by(16) {
                let end = (k0 + 16).min(k);
                for j in 0..cols {
                    let col = data.offset(j as isize * from.col);
                    for p in k0..end {
                        *to.add(p * width + j) = (*col.offset(p as isize * from.row)).wide();
                    }
                }
            }
        }
    }
}

/// A matrix B in packed form: panels of `width` columns, each `k` steps of `width` elements. One form for every number of rows of
/// A, down to a single one.
pub(crate) struct PackedB {
    data: Aligned,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) width: usize,
}

impl PackedB {
    /// Packs `items` matrices, `k` by `n`, with panels of `width` columns.
    ///
    /// # Errors
    /// `is_out_of_memory` if the system refuses the memory.
    ///
    /// # Safety
    /// Each source is valid for `k` by `n` reads, aligned.
    pub(crate) unsafe fn new(items: &[Source], k: usize, n: usize, width: usize) -> Result<Self> {
        let panels = n.div_ceil(width);
        let mut data = Aligned::zeros(items.len() * panels * k * width)?;
        for (g, from) in items.iter().enumerate() {
            for q in 0..panels {
                let cols = (n - q * width).min(width);
                // SAFETY: panel `q` of item `g` lies inside `data`; the caller vouches for the source.
                unsafe {
                    let to = data.as_mut_ptr().add((g * panels + q) * k * width);
                    pack_panel(from.at(0, q * width), k, cols, width, to);
                }
            }
        }
        Ok(Self { data, k, n, width })
    }

    /// Memory that it keeps.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// The first panel of item `g`.
    pub(crate) fn item(&self, g: usize) -> *const f32 {
        let step = self.n.div_ceil(self.width) * self.k * self.width;
        self.data.as_ptr().wrapping_add(g * step)
    }
}
