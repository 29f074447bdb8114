//! Attention without the score matrix in memory.
//!
//! Online softmax over blocks of keys, after Milakov and Gimelshein, "Online normalizer calculation for softmax", in the block order of
//! Dao et al., "FlashAttention": for each block of keys, a small tile of scores is computed, turned into weights, and multiplied into
//! the sums, which are rescaled whenever a greater score is found. Blocks depend on shapes alone, never on the number of cores.
//!
//! A query that sees no key (all masked by -inf, or none there) gives 0, as ONNX's Attention does.

use streampool_core::op::{Attention, DType, Op};
use streampool_core::{Error, Result};

use super::matmul::Nothing;
use crate::gemm::half::Half;
use crate::gemm::pack::{pack_panel, pack_rows, row_stride};
use crate::gemm::product::Block;
use crate::gemm::tile::Kernels;
use crate::gemm::{Addend, Epilogue, Source};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::{Isa, slice};
use crate::team::LARGE_WORK;

/// Keys of a block.
const KEYS: usize = 512;
/// The most queries whose sums a task keeps.
const QUERIES: usize = 512;
/// Elements of the tile of scores: fits the first-level cache beside the operands.
const SCORES: usize = 5 * 1024;
/// The most cores that take part: each needs scratch memory of its own.
const MAX_MEMBERS: usize = 16;

/// The kernel of an [`Op::Attention`].
pub(crate) fn make(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    make_with(Isa::detect(), p)
}

/// [`make`] with the instructions `isa`.
fn make_with(isa: Isa, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let Op::Attention(op) = p.op else {
        return Err(Error::internal(format!("{} given to the Attention kernel", p.op.name())));
    };
    if p.outputs[0].layout.shape.is_empty() {
        return Ok(Box::new(Nothing));
    }
    match p.outputs[0].dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(Box::new(AttentionKernel::new(isa, op, p)?)),
        dtype => Err(Error::unsupported(format!("Attention of {dtype} on cpu: cast to float32"))),
    }
}

/// An attention of fixed shape.
struct AttentionKernel {
    kernels: &'static Kernels,
    op: Attention,
    dtype: DType,
    /// Batch, query heads, key heads, queries, keys, length of queries and keys, length of values.
    b: usize,
    h: usize,
    g: usize,
    s: usize,
    t: usize,
    d: usize,
    e: usize,
    /// Steps over (batch, head, position, element).
    q: [isize; 4],
    k: [isize; 4],
    v: [isize; 4],
    /// Steps over the output's (batch, head, query); an element is one.
    out: [isize; 3],
    mask: Option<[isize; 4]>,
    /// Queries of a task, queries of a tile of scores, keys of a block.
    task_rows: usize,
    tile_rows: usize,
    keys: usize,
    /// Whether V is read where it lies.
    v_in_place: bool,
    scratch: Scratch,
    members: usize,
}

/// Where the parts of a member's scratch memory begin, in elements.
#[derive(Default)]
struct Scratch {
    q: usize,
    k: usize,
    v: usize,
    scores: usize,
    mask: usize,
    sums: usize,
    /// Greatest score and sum of weights per query.
    stats: usize,
    len: usize,
}

impl AttentionKernel {
    fn new(isa: Isa, op: &Attention, p: &Prepare<'_>) -> Result<Self> {
        let kernels = Kernels::of(isa);
        let dtype = p.outputs[0].dtype;
        let steps = |i: usize| -> [isize; 4] {
            let l = &p.inputs[i].layout;
            // An axis of one element may have any step.
            std::array::from_fn(|axis| if l.shape[axis] > 1 { l.strides[axis] } else { 1 })
        };
        let shape = |i: usize, axis: usize| p.inputs[i].layout.shape[axis];
        let (b, h, s, d) = (shape(0, 0), shape(0, 1), shape(0, 2), shape(0, 3));
        let (g, t, e) = (shape(1, 1), shape(1, 2), shape(2, 3));
        let v = steps(2);
        let out = if op.merge_heads {
            [s * h * e, e, h * e].map(|x| x as isize)
        } else {
            [h * s * e, s * e, e].map(|x| x as isize)
        };
        let mask = if op.mask {
            let full = p.inputs[3].layout.broadcast_to(&[b, h, s, t].into())?;
            Some(std::array::from_fn(|axis| full.strides[axis]))
        } else {
            None
        };
        let keys = t.min(KEYS);
        let width = kernels.panel();
        let (max, padded_keys) = (kernels.max_rows(), keys.next_multiple_of(width).max(1));
        let tile_rows = (SCORES / padded_keys / max).max(1) * max;
        // All queries of a head share the packed keys; only few heads of many queries are cut further.
        let task_rows = if b * h >= 16 { QUERIES } else { 128 }.min(s);
        let v_in_place = dtype == DType::F32 && v[3] == 1;
        let mut at = 0;
        let mut part = |len: usize| {
            let begin = at;
            at += len.next_multiple_of(16);
            begin
        };
        let tile = tile_rows.min(task_rows);
        let mut scratch = Scratch {
            q: part(task_rows * row_stride(d)),
            k: part(padded_keys * d),
            v: part(if v_in_place { keys * width } else { keys * e.next_multiple_of(width) }),
            scores: part(tile * row_stride(padded_keys)),
            mask: part(if mask.is_some() { tile * padded_keys } else { 0 }),
            sums: part(task_rows * row_stride(e)),
            stats: part(2 * task_rows),
            len: 0,
        };
        scratch.len = at;
        let mut kernel = Self {
            kernels,
            op: op.clone(),
            dtype,
            b,
            h,
            g,
            s,
            t,
            d,
            e,
            q: steps(0),
            k: steps(1),
            v,
            out,
            mask,
            task_rows,
            tile_rows,
            keys,
            v_in_place,
            scratch,
            members: 1,
        };
        if kernel.work() >= LARGE_WORK {
            kernel.members =
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_MEMBERS);
        }
        Ok(kernel)
    }

    fn source(&self, data: *const u8, at: isize, row: isize, col: isize) -> Source {
        let data = data.wrapping_offset(at * self.dtype.size() as isize);
        Source { data, dtype: self.dtype, row, col }
    }

    /// Queries `first..first + rows` of one head.
    ///
    /// # Safety
    /// As [`Kernel::run`]; nobody else uses the rows or `own`.
    unsafe fn task(
        &self,
        args: &Pointers<'_>,
        batch: usize,
        head: usize,
        first: usize,
        rows: usize,
        own: *mut f32,
    ) {
        let (d, e, at) = (self.d, self.e, &self.scratch);
        let (batch_at, group) = (batch as isize, (head / (self.h / self.g)) as isize);
        let (q_row, sums_row) = (row_stride(d), row_stride(e));
        // SAFETY: positions are inside the operands, for which the caller vouches, and inside the parts of the scratch memory,
        // which were laid out for these sizes.
        unsafe {
            let q_at = batch_at * self.q[0] + head as isize * self.q[1] + first as isize * self.q[2];
            let q = own.add(at.q);
            pack_rows(self.source(args.inputs[0], q_at, self.q[2], self.q[3]), rows, d, q, q_row);
            let scale = self.op.scale.get();
            for i in 0..rows {
                std::slice::from_raw_parts_mut(q.add(i * q_row), d).iter_mut().for_each(|x| *x *= scale);
            }
            let (max, sum) = (own.add(at.stats), own.add(at.stats + self.task_rows));
            std::slice::from_raw_parts_mut(max, rows).fill(f32::NEG_INFINITY);
            std::slice::from_raw_parts_mut(sum, rows).fill(0.0);
            let sums = own.add(at.sums);
            std::slice::from_raw_parts_mut(sums, rows * sums_row).fill(0.0);

            // Beyond these no query of the task sees a key.
            let seen = if self.op.causal {
                (first + rows + self.t).saturating_sub(self.s).min(self.t)
            } else {
                self.t
            };
            let mut key = 0;
            while key < seen {
                let keys = self.keys.min(seen - key);
                self.pack_keys(args, batch_at, group, key, keys, own);
                let mut row = 0;
                while row < rows {
                    let n = self.tile_rows.min(rows - row);
                    self.block(args, [batch, head, first, row], n, key, keys, own);
                    row += n;
                }
                key += keys;
            }

            let size = self.dtype.size() as isize;
            let out_at = batch_at * self.out[0] + head as isize * self.out[1] + first as isize * self.out[2];
            let out = args.outputs[0].offset(out_at * size);
            for i in 0..rows {
                let row = std::slice::from_raw_parts_mut(sums.add(i * sums_row), e);
                match *sum.add(i) {
                    0.0 => row.fill(0.0),
                    total => row.iter_mut().for_each(|x| *x /= total),
                }
                let to = out.offset(i as isize * self.out[2] * size);
                match self.dtype {
                    DType::F16 => narrow_row::<half::f16>(row, to),
                    DType::BF16 => narrow_row::<half::bf16>(row, to),
                    _ => std::ptr::copy_nonoverlapping(row.as_ptr(), to.cast::<f32>(), e),
                }
            }
        }
    }

    /// Packs keys `key..key + keys`, and what of the values is not read in place.
    ///
    /// # Safety
    /// As [`AttentionKernel::task`].
    unsafe fn pack_keys(
        &self,
        args: &Pointers<'_>,
        batch: isize,
        group: isize,
        key: usize,
        keys: usize,
        own: *mut f32,
    ) {
        let (d, e, width) = (self.d, self.e, self.kernels.panel());
        // SAFETY: as the caller's.
        unsafe {
            let k_at = batch * self.k[0] + group * self.k[1] + key as isize * self.k[2];
            // The transpose: (d, keys).
            let k = self.source(args.inputs[1], k_at, self.k[3], self.k[2]);
            for (panel, j) in (0..keys).step_by(width).enumerate() {
                let to = own.add(self.scratch.k + panel * d * width);
                pack_panel(k.at(0, j), d, width.min(keys - j), width, to);
            }
            let v_at = batch * self.v[0] + group * self.v[1] + key as isize * self.v[2];
            let v = self.source(args.inputs[2], v_at, self.v[2], self.v[3]);
            let first = if self.v_in_place { e - e % width } else { 0 };
            for (panel, j) in (first..e).step_by(width).enumerate() {
                let to = own.add(self.scratch.v + panel * keys * width);
                pack_panel(v.at(0, j), keys, width.min(e - j), width, to);
            }
        }
    }

    /// One tile of scores: `rows` queries from `row` of the task on, against the packed keys.
    ///
    /// # Safety
    /// As [`AttentionKernel::task`].
    unsafe fn block(
        &self,
        args: &Pointers<'_>,
        [batch, head, first, row]: [usize; 4],
        rows: usize,
        key: usize,
        keys: usize,
        own: *mut f32,
    ) {
        let (d, e, width, at) = (self.d, self.e, self.kernels.panel(), &self.scratch);
        let (q_row, sums_row) = (row_stride(d), row_stride(e));
        let padded = keys.next_multiple_of(width);
        let scores_row = row_stride(padded);
        // SAFETY: as the caller's.
        unsafe {
            let scores = own.add(at.scores);
            let mut end = Epilogue::NONE;
            if let Some(mask) = self.mask {
                end.addends[0] =
                    Some(self.mask_tile(args, mask, [batch, head, first + row, key], rows, keys, own));
            }
            let product = Block {
                m: rows,
                n: keys,
                k: d,
                a: own.add(at.q + row * q_row),
                a_row: q_row as isize,
                b: own.add(at.k),
                b_step: width as isize,
                b_panel: (d * width) as isize,
                c: scores,
                c_row: scores_row,
                end,
            };
            product.run(self.kernels);

            let (max, sum) = (own.add(at.stats + row), own.add(at.stats + self.task_rows + row));
            let sums = own.add(at.sums + row * sums_row);
            for i in 0..rows {
                let line = std::slice::from_raw_parts_mut(scores.add(i * scores_row), padded);
                let mut visible = keys;
                if self.op.causal {
                    // Query `q` sees keys up to q + t - s.
                    visible = (first + row + i + 1 + self.t).saturating_sub(self.s + key).min(keys);
                }
                line[visible..].fill(f32::NEG_INFINITY);
                let old = *max.add(i);
                let (new, part) = slice::softmax_part(self.kernels.isa, line, old);
                if new != old {
                    *max.add(i) = new;
                    if old != f32::NEG_INFINITY {
                        let factor = (old - new).exp();
                        *sum.add(i) *= factor;
                        let row = std::slice::from_raw_parts_mut(sums.add(i * sums_row), e);
                        row.iter_mut().for_each(|x| *x *= factor);
                    }
                }
                *sum.add(i) += part;
            }

            let in_place = if self.v_in_place { e - e % width } else { 0 };
            let weights = Block {
                m: rows,
                n: in_place,
                k: keys,
                a: scores,
                a_row: scores_row as isize,
                b: scores,
                b_step: 0,
                b_panel: 0,
                c: sums,
                c_row: sums_row,
                end: Epilogue::NONE,
            };
            if in_place > 0 {
                let v_at = batch as isize * self.v[0]
                    + (head / (self.h / self.g)) as isize * self.v[1]
                    + key as isize * self.v[2];
                let v = self.source(args.inputs[2], v_at, self.v[2], 1);
                Block { b: v.data.cast(), b_step: self.v[2], b_panel: width as isize, ..weights }
                    .resume(self.kernels);
            }
            if e > in_place {
                Block {
                    n: e - in_place,
                    b: own.add(at.v),
                    b_step: width as isize,
                    b_panel: (keys * width) as isize,
                    c: sums.add(in_place),
                    ..weights
                }
                .resume(self.kernels);
            }
        }
    }

    /// The mask of a tile, in a form that can be added: where it lies, or converted.
    ///
    /// # Safety
    /// As [`AttentionKernel::task`].
    unsafe fn mask_tile(
        &self,
        args: &Pointers<'_>,
        steps: [isize; 4],
        [batch, head, query, key]: [usize; 4],
        rows: usize,
        keys: usize,
        own: *mut f32,
    ) -> Addend {
        let at = [batch, head, query, key].iter().zip(steps).map(|(&i, s)| i as isize * s).sum();
        let mask = self.source(args.inputs[3], at, steps[2], steps[3]);
        if self.dtype == DType::F32 && (steps[3] == 1 || steps[3] == 0) {
            return Addend { data: mask.data.cast(), row: mask.row, col: mask.col };
        }
        // One row is enough if all are the same.
        let rows = if steps[2] == 0 { 1 } else { rows };
        // SAFETY: as the caller's.
        unsafe {
            let to = own.add(self.scratch.mask);
            pack_rows(mask, rows, keys, to, keys);
            Addend { data: to, row: if rows > 1 { keys as isize } else { 0 }, col: 1 }
        }
    }
}

/// Rounds a row.
///
/// # Safety
/// `to` is valid for as many elements.
unsafe fn narrow_row<T: Half>(row: &[f32], to: *mut u8) {
    // SAFETY: passed on from the caller.
    T::narrow(row, unsafe { std::slice::from_raw_parts_mut(to.cast(), row.len()) });
}

/// Operand pointers that tasks share.
struct Pointers<'a> {
    inputs: &'a [*const u8],
    outputs: &'a [*mut u8],
    scratch: *mut f32,
}

// SAFETY: the contract of `Kernel::run`: inputs are only read, tasks write disjoint rows of the output and their own members'
// scratch memory.
unsafe impl Sync for Pointers<'_> {}

impl Kernel for AttentionKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let pointers = Pointers { inputs: args.inputs, outputs: args.outputs, scratch: args.scratch.cast() };
        let per_head = self.s.div_ceil(self.task_rows);
        let tasks = self.b * self.h * per_head;
        let work = if self.members > 1 { self.work() } else { 0 };
        let pointers = &pointers;
        args.team.run_members(tasks, work, self.members, &|i, member| {
            let first = i % per_head * self.task_rows;
            let (batch, head) = (i / per_head / self.h, i / per_head % self.h);
            // SAFETY: the caller's contract; these rows are this task's alone, as is the member's part of the scratch memory.
            unsafe {
                let own = pointers.scratch.add(member * self.scratch.len);
                self.task(pointers, batch, head, first, self.task_rows.min(self.s - first), own);
            }
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.members * self.scratch.len * 4
    }

    fn describe(&self) -> String {
        format!(
            "attention {} {}x{} heads, {} queries, {} keys, length {}, {}",
            self.dtype,
            self.b,
            self.h,
            self.s,
            self.t,
            self.d,
            self.kernels.isa.name()
        )
    }

    fn work(&self) -> usize {
        // The exponential of a score weighs about as much as 32 multiply-adds.
        [self.b, self.h, self.s, self.t, self.d + self.e + 32]
            .iter()
            .fold(1usize, |a, &x| a.saturating_mul(x))
    }
}

#[cfg(test)]
mod tests;
