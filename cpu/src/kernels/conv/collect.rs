//! Patches brought into panels, whole registers at a time.
//!
//! Neighbouring output positions read neighbouring inputs, so a register of a panel row is one masked load for every stretch of
//! positions in one row of the output, and the same stretches serve all channels.

use smallvec::SmallVec;

use super::Window;
use crate::gemm::pack::Narrow;
use crate::simd::{Isa, Portable, Vector};

/// Output positions next to each other in one row.
pub(super) struct Run {
    /// First column of the panel, and how many.
    col: usize,
    len: usize,
    /// Position along the last axis.
    start: usize,
    /// Where a tap without steps reads, along the axes but the last.
    corner: SmallVec<[isize; 3]>,
}

/// Lanes of one register that one masked load fills.
#[derive(Clone, Copy)]
struct Load {
    /// Bits of the lanes, `stride` apart.
    lanes: u32,
    /// Where lane 0 would read, relative to the channel's first element.
    from: isize,
}

/// The runs of positions `first..first + cols`.
pub(super) fn runs(w: &Window, first: usize, cols: usize) -> SmallVec<[Run; 8]> {
    let last = w.axes() - 1;
    let row_len = w.output[last];
    let mut runs = SmallVec::new();
    let mut col = 0;
    while col < cols {
        let (mut row, start) = ((first + col) / row_len, (first + col) % row_len);
        let mut corner: SmallVec<[isize; 3]> = SmallVec::from_elem(0, last);
        for axis in (0..last).rev() {
            corner[axis] = (row % w.output[axis] * w.strides[axis]) as isize - w.before[axis];
            row /= w.output[axis];
        }
        let len = (row_len - start).min(cols - col);
        runs.push(Run { col, len, start, corner });
        col += len;
    }
    runs
}

impl Run {
    /// For a tap with `steps`: the columns of the panel whose reads are inside the input, and where the first of them reads.
    fn inside(&self, w: &Window, steps: &[isize]) -> Option<(std::ops::Range<usize>, isize)> {
        let last = w.axes() - 1;
        let mut line = 0;
        for ((corner, step), &len) in self.corner.iter().zip(steps).zip(&w.input) {
            let i = corner + step;
            if i < 0 || i >= len as isize {
                return None;
            }
            line = line * len as isize + i;
        }
        let begin = (self.start * w.strides[last]) as isize + steps[last] - w.before[last];
        let inside = w.inside(begin, self.len);
        let from = line * w.input[last] as isize + begin + (inside.start * w.strides[last]) as isize;
        (!inside.is_empty()).then(|| (self.col + inside.start..self.col + inside.end, from))
    }
}

/// Writes the panel row of one tap for `channels` channels, `plane` elements apart from `x` on, to rows `step` apart from `to` on.
///
/// # Safety
/// `x` is valid for the channels, `to` for the rows of `width` elements.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn rows<T: Narrow>(
    w: &Window,
    runs: &[Run],
    steps: &[isize],
    x: *const T,
    channels: usize,
    to: *mut f32,
    step: usize,
    width: usize,
) {
    let (plane, stride) = (w.in_len(), w.strides[w.axes() - 1]);
    for c in 0..channels {
        // SAFETY: the row is the caller's; reads are inside the channel.
        unsafe {
            let row = std::slice::from_raw_parts_mut(to.add(c * step), width);
            row.fill(0.0);
            for (cols, from) in runs.iter().filter_map(|r| r.inside(w, steps)) {
                for (j, to) in row[cols].iter_mut().enumerate() {
                    *to = (*x.add(c * plane).offset(from + (j * stride) as isize)).wide();
                }
            }
        }
    }
}

/// The most registers of a panel.
const REGISTERS: usize = 2;

/// All panel rows of `channels` channels of `f32`, channel by channel and tap by tap, with the instructions `isa`, for strides 1 and 2 along the
/// last axis.
///
/// # Safety
/// `x` is valid for the channels, `to` for a row of two registers per channel and tap.
pub(super) unsafe fn panel_by_register(
    isa: Isa,
    w: &Window,
    runs: &[Run],
    taps: &[Vec<isize>],
    x: *const f32,
    channels: usize,
    to: *mut f32,
) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(plan: &Plan, x: *const f32, channels: usize, to: *mut f32) {
        // SAFETY: passed on from the caller.
        unsafe { collect::<crate::simd::F32x16>(plan, x, channels, to) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(plan: &Plan, x: *const f32, channels: usize, to: *mut f32) {
        // SAFETY: passed on from the caller.
        unsafe { collect::<crate::simd::F32x8>(plan, x, channels, to) }
    }

    let plan = Plan::new(w, runs, taps, crate::gemm::tile::Kernels::of(isa).lanes);
    // SAFETY: `Isa` values prove that this processor has the instructions; the rest is passed on from the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(&plan, x, channels, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(&plan, x, channels, to),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => collect::<crate::simd::F32x4>(&plan, x, channels, to),
            Isa::Portable => collect::<Portable>(&plan, x, channels, to),
        }
    }
}

/// The loads of a panel, the same for every channel.
struct Plan {
    loads: SmallVec<[Load; 64]>,
    /// For each register of each tap, where its loads end in `loads`.
    ends: SmallVec<[u32; 64]>,
    even: bool,
    plane: usize,
}

impl Plan {
    fn new(w: &Window, runs: &[Run], taps: &[Vec<isize>], lanes: usize) -> Self {
        let last = w.axes() - 1;
        let stride = w.strides[last];
        debug_assert!(stride <= 2);
        let mut plan =
            Self { loads: SmallVec::new(), ends: SmallVec::new(), even: stride == 2, plane: w.in_len() };
        for steps in taps {
            let mut register = 0;
            for (cols, from) in runs.iter().filter_map(|r| r.inside(w, steps)) {
                let mut col = cols.start;
                while col < cols.end {
                    while register < col / lanes {
                        plan.ends.push(plan.loads.len() as u32);
                        register += 1;
                    }
                    let end = cols.end.min((register + 1) * lanes);
                    let count = end - col;
                    let ones = if stride == 1 { u32::MAX } else { 0x5555_5555 };
                    let ones = ones & (u64::MAX >> (64 - count * stride)) as u32;
                    let bits = ones << ((col - register * lanes) * stride);
                    // Where the register's lane 0 would read.
                    let from = from - (cols.start as isize - (register * lanes) as isize) * stride as isize;
                    let begin = plan.ends.last().map_or(0, |&e| e as usize);
                    match plan.loads[begin..].last_mut() {
                        // Rows of the output that follow each other in the input too.
                        Some(l) if l.from == from => l.lanes |= bits,
                        _ => plan.loads.push(Load { lanes: bits, from }),
                    }
                    col = end;
                }
            }
            while register < REGISTERS {
                plan.ends.push(plan.loads.len() as u32);
                register += 1;
            }
        }
        plan
    }
}

/// # Safety
/// As [`panel_by_register`]; the processor has the instructions of `V`.
#[inline(always)]
unsafe fn collect<V: Vector>(plan: &Plan, x: *const f32, channels: usize, to: *mut f32) {
    let mut to = to;
    for c in 0..channels {
        let mut begin = 0;
        for &end in &plan.ends {
            // SAFETY: chosen lanes read inside the channel; the rows are the caller's.
            unsafe {
                let x = x.add(c * plan.plane);
                let mut row = V::splat(0.0);
                for l in &plan.loads[begin..end as usize] {
                    let p = x.wrapping_offset(l.from);
                    row =
                        row.or(if plan.even { V::load_even(p, l.lanes) } else { V::load_lanes(p, l.lanes) });
                }
                row.store(to);
                to = to.add(V::LANES);
            }
            begin = end as usize;
        }
    }
}
