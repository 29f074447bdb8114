//! Fused elementwise work.
//!
//! The expression is interpreted a block of elements at a time: each instruction is one vectorised loop over a block, and what passes from one
//! to the next stays in the first-level cache. Operands that lie one element after the other are read where they are, single values are kept
//! as one chunk of copies, all others are gathered into a register first.

mod cast;
mod function;
pub(crate) mod number;
mod table;

use smallvec::SmallVec;
use streampool_core::op::{Binary, DType, Instr, Map, Scalar};
use streampool_core::{Error, Result};

pub(crate) use cast::{fill, narrow_bf16, widen_bf16};
use cast::{load, register_type, splat, store};
use function::{Block, CHUNK, Loop, Source};

use super::nest::{Axes, broadcast_strides, merge, offset_of};
use super::{Shared, SharedMut, split};
use crate::kernel::{Args, Kernel, Prepare};

/// Elements of a block whose intermediate results go through registers.
const BLOCK: usize = 512;

/// Rows at least this long are walked one by one; shorter ones are gathered into whole blocks.
const LONG_ROW: usize = 128;

/// Where a register's elements come from in a run.
enum Node {
    /// An operand, by number.
    Input(usize),
    /// A value that was known when the kernel was prepared.
    Constant(Box<Chunk>),
    /// Computed by `f` of earlier nodes into register `slot`; `in_output` for the last one if it can write the result itself.
    Computed { f: Loop, sources: [usize; 3], arity: usize, slot: usize, in_output: bool },
}

/// [`CHUNK`] copies of a value.
#[repr(C, align(64))]
struct Chunk([u8; CHUNK * 8]);

/// How an operand is walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    /// One element after the other, as registers hold them: read in place.
    Direct,
    /// One value everywhere.
    Single,
    /// Gathered along the rows of the nest with this stride.
    Row,
    /// As [`Walk::Row`] with stride 1, and as registers hold them: read in place row by row.
    DirectRow,
    /// As [`Walk::Row`] with stride 0: one value a row.
    SingleRow,
    /// Gathered by walking all axes.
    General,
}

struct MapKernel {
    nodes: Vec<Node>,
    inputs: Vec<DType>,
    /// Merged axes of the output and each operand's strides along them.
    dims: Axes<usize>,
    strides: Vec<Axes<isize>>,
    walks: Vec<Walk>,
    /// Number of elements, and of one row: blocks do not cross rows.
    len: usize,
    row: usize,
    block: usize,
    /// Blocks of a row, and of all.
    per_row: usize,
    blocks: usize,
    output: DType,
    slots: usize,
    slot_bytes: usize,
    /// Scratch bytes of one task.
    task_bytes: usize,
    tasks: usize,
}

pub(crate) fn prepare(map: &Map, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let input_dtypes: Vec<DType> = p.inputs.iter().map(|o| o.dtype).collect();
    let all = map.check(&input_dtypes)?;
    let shape = &p.outputs[0].layout.shape;

    // What the result needs, in order, renumbered.
    let mut needed = vec![false; map.code.len()];
    needed[map.code.len() - 1] = true;
    for i in (0..map.code.len()).rev() {
        if needed[i] {
            for r in operands(&map.code[i]) {
                needed[usize::from(r)] = true;
            }
        }
    }
    let mut number = vec![0; map.code.len()];
    let (mut nodes, mut dtypes) = (Vec::new(), Vec::new());
    let mut input_nodes: Vec<Option<usize>> = vec![None; p.inputs.len()];
    for (i, instr) in map.code.iter().enumerate().filter(|&(i, _)| needed[i]) {
        number[i] = nodes.len();
        let held = |r: u16| register_type(all[usize::from(r)]);
        let missing =
            || Error::unsupported(format!("Map: the cpu has no loop for {instr:?} of {:?}", all[i]));
        let f: Loop = match *instr {
            Instr::Input(n) => {
                if let Some(same) = input_nodes[usize::from(n)] {
                    number[i] = same;
                    continue;
                }
                input_nodes[usize::from(n)] = Some(nodes.len());
                nodes.push(Node::Input(usize::from(n)));
                dtypes.push(all[i]);
                continue;
            }
            Instr::Const(value) => {
                nodes.push(Node::Constant(chunk_of(value)));
                dtypes.push(all[i]);
                continue;
            }
            Instr::Cast(to, a) => match cast::cast(all[usize::from(a)], to) {
                Some(f) => {
                    round_first(&mut nodes, &mut dtypes, &mut number, usize::from(a), all[usize::from(a)]);
                    f
                }
                None => {
                    // Held alike: the same register under another name.
                    if to != all[usize::from(a)] {
                        round_first(
                            &mut nodes,
                            &mut dtypes,
                            &mut number,
                            usize::from(a),
                            all[usize::from(a)],
                        );
                    }
                    number[i] = number[usize::from(a)];
                    continue;
                }
            },
            Instr::Unary(f, a) => table::unary(f, held(a)).ok_or_else(missing)?,
            Instr::Binary(Binary::Pow, a, b) if is_two(&map.code[usize::from(b)]) => {
                // x^2 is x x, rounded once as well.
                let f = table::binary(Binary::Mul, held(a)).ok_or_else(missing)?;
                let a = number[usize::from(a)];
                nodes.push(Node::Computed { f, sources: [a, a, 0], arity: 2, slot: 0, in_output: false });
                dtypes.push(all[i]);
                continue;
            }
            Instr::Binary(f, a, _) => table::binary(f, held(a)).ok_or_else(missing)?,
            Instr::Select(_, a, _) => table::selection(held(a)),
        };
        let mut sources = [0; 3];
        let mut arity = 0;
        for r in operands(instr) {
            sources[arity] = number[usize::from(r)];
            arity += 1;
        }
        nodes.push(Node::Computed { f, sources, arity, slot: 0, in_output: false });
        dtypes.push(all[i]);
    }
    let last = number[map.code.len() - 1];
    let dtype = all[map.code.len() - 1];
    finish(nodes, dtypes, last, dtype, shape, p)
}

/// Before a conversion from a 16-bit float: what was computed in single precision is rounded, as it would be had it been stored.
fn round_first(
    nodes: &mut Vec<Node>,
    dtypes: &mut Vec<DType>,
    number: &mut [usize],
    register: usize,
    dtype: DType,
) {
    let node = number[register];
    if register_type(dtype) != dtype
        && matches!(nodes[node], Node::Computed { .. })
        && let Some(f) = cast::cast(DType::F32, dtype)
    {
        number[register] = nodes.len();
        nodes.push(Node::Computed { f, sources: [node, 0, 0], arity: 1, slot: 0, in_output: false });
        dtypes.push(dtype);
    }
}

/// Places registers and chooses how operands are walked.
fn finish(
    mut nodes: Vec<Node>,
    mut dtypes: Vec<DType>,
    last: usize,
    output: DType,
    shape: &[usize],
    p: &Prepare<'_>,
) -> Result<Box<dyn Kernel>> {
    nodes.truncate(last + 1);
    dtypes.truncate(last + 1);
    let direct_store = register_type(output) == output && register_type(dtypes[last]) == output;

    // Registers: a node's is free again after its last reader.
    let mut last_use: Vec<usize> = (0..nodes.len()).collect();
    for (i, node) in nodes.iter().enumerate() {
        if let Node::Computed { sources, arity, .. } = node {
            for &s in &sources[..*arity] {
                last_use[s] = i;
            }
        }
    }
    let (mut free, mut slots) = (Vec::new(), 0);
    let mut slot_of = vec![usize::MAX; nodes.len()];
    for i in 0..nodes.len() {
        if let Node::Computed { slot, in_output, .. } = &mut nodes[i] {
            *in_output = i == last && direct_store;
            *slot = free.pop().unwrap_or_else(|| {
                slots += 1;
                slots - 1
            });
            slot_of[i] = *slot;
        }
        let Node::Computed { sources, arity, .. } = nodes[i] else { continue };
        let mut done: SmallVec<[usize; 3]> = SmallVec::from_slice(&sources[..arity]);
        done.sort_unstable();
        done.dedup();
        free.extend(
            done.iter().filter(|&&s| last_use[s] == i && slot_of[s] != usize::MAX).map(|&s| slot_of[s]),
        );
    }
    // One more register for each operand that has to be gathered.
    let strides: Vec<Vec<isize>> =
        p.inputs.iter().map(|o| broadcast_strides(&o.layout.shape, &o.layout.strides, shape)).collect();
    let len: usize = shape.iter().product();
    let (dims, strides) = merge(shape, &strides.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let inner = dims.last().copied().unwrap_or(1);
    let by_row = dims.len() <= 1 || inner >= LONG_ROW;
    let natural = streampool_core::op::Shape::new(&dims).strides();
    let walks: Vec<Walk> = p
        .inputs
        .iter()
        .zip(&strides)
        .map(|(operand, strides)| {
            let plain = register_type(operand.dtype) == operand.dtype;
            if strides.iter().all(|&s| s == 0) {
                Walk::Single
            } else if strides[..] == natural[..] && plain {
                Walk::Direct
            } else if by_row {
                match strides.last() {
                    Some(1) if plain => Walk::DirectRow,
                    Some(0) => Walk::SingleRow,
                    _ => Walk::Row,
                }
            } else {
                Walk::General
            }
        })
        .collect();
    let gathered = walks.iter().filter(|w| matches!(w, Walk::Row | Walk::General)).count();
    let computed = nodes.iter().filter(|n| matches!(n, Node::Computed { .. })).count();
    let through_registers = computed > 1 || gathered > 0 || !direct_store;
    let cost = len * nodes.len().max(1);
    let tasks = split::tasks(cost);
    let row = if by_row { inner } else { len.max(1) };
    let block = if through_registers {
        BLOCK
    } else {
        // Nothing passes through registers: blocks may be as long as a task.
        row.min(len.div_ceil(tasks).next_multiple_of(64)).max(1)
    };
    let slot_bytes = (block.clamp(CHUNK, BLOCK) * 8).next_multiple_of(64);
    let registers = slots + gathered;
    let task_bytes = (registers * slot_bytes + walks.len() * size_of::<Chunk>()).next_multiple_of(64);
    Ok(Box::new(MapKernel {
        nodes,
        inputs: p.inputs.iter().map(|o| o.dtype).collect(),
        dims,
        strides,
        walks,
        len,
        row,
        block,
        per_row: row.div_ceil(block),
        blocks: if len == 0 { 0 } else { len / row * row.div_ceil(block) },
        output,
        slots,
        slot_bytes,
        task_bytes,
        tasks,
    }))
}

impl MapKernel {
    /// Runs blocks `blocks` of the output.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `scratch` is this task's own.
    unsafe fn run_blocks(
        &self,
        inputs: &[*const u8],
        output: *mut u8,
        scratch: *mut u8,
        blocks: std::ops::Range<usize>,
    ) {
        let mut places: SmallVec<[Source; 24]> =
            SmallVec::from_elem(Source { first: std::ptr::null(), step: 0 }, self.nodes.len());
        // SAFETY: the scratch memory of a task is chunks for the operands, then registers; offsets below stay in it by construction of
        // `task_bytes`. Elements of operands and output are addressed by the nest that was made from their layouts.
        unsafe {
            let chunks = scratch;
            let registers = scratch.add(self.walks.len() * size_of::<Chunk>());
            for (n, walk) in self.walks.iter().enumerate() {
                if *walk == Walk::Single && self.len > 0 {
                    self.single(n, inputs[n], chunks);
                }
            }
            for block in blocks {
                let (row, part) = match self.per_row {
                    per_row if per_row == self.blocks => (0, block),
                    1 => (block, 0),
                    per_row => (block / per_row, block % per_row),
                };
                let column = part * self.block;
                let start = row * self.row + column;
                let n = self.block.min(self.row - column);
                let out = output.add(start * self.output.size());
                let mut gathered = self.slots;
                for (i, node) in self.nodes.iter().enumerate() {
                    places[i] = match *node {
                        Node::Constant(ref chunk) => Source { first: chunk.0.as_ptr(), step: 0 },
                        Node::Input(k) => {
                            let at = Position { start, row, column, n };
                            let register = registers.add(gathered * self.slot_bytes);
                            if matches!(self.walks[k], Walk::Row | Walk::General) {
                                gathered += 1;
                            }
                            self.operand(k, inputs[k], at, register, chunks)
                        }
                        Node::Computed { f, sources, arity, slot, in_output } => {
                            let from = [places[sources[0]], places[sources[1]], places[sources[2]]];
                            // A function of single values is computed once.
                            let single = from[..arity].iter().all(|s| s.step == 0);
                            let to = if in_output && !single {
                                out
                            } else {
                                registers.add(slot * self.slot_bytes)
                            };
                            f(&Block::new(to, from, if single { CHUNK } else { n }));
                            Source { first: to, step: usize::from(!single) }
                        }
                    };
                }
                let result = places[self.nodes.len() - 1];
                if result.first != out.cast_const() {
                    store(self.output, out, result, n);
                }
            }
        }
    }

    /// Fills the chunk of operand `n` with the element at `first`.
    ///
    /// # Safety
    /// `first` is readable, `chunks` holds a chunk per operand.
    unsafe fn single(&self, n: usize, first: *const u8, chunks: *mut u8) -> Source {
        let dtype = self.inputs[n];
        // SAFETY: passed on from the caller.
        unsafe {
            let chunk = chunks.add(n * size_of::<Chunk>());
            load(dtype, chunk, first, 1, 1);
            splat(dtype, chunk);
            Source { first: chunk, step: 0 }
        }
    }

    /// The elements of operand `k` for a block.
    ///
    /// # Safety
    /// As [`MapKernel::run_blocks`].
    unsafe fn operand(
        &self,
        k: usize,
        first: *const u8,
        at: Position,
        register: *mut u8,
        chunks: *mut u8,
    ) -> Source {
        let (dtype, strides) = (self.inputs[k], &self.strides[k]);
        let size = dtype.size() as isize;
        let outer = self.dims.len().saturating_sub(1);
        let row_start = || {
            let row = offset_of(&self.dims[..outer], &strides[..outer], at.row);
            row + at.column as isize * strides.last().copied().unwrap_or(0)
        };
        // SAFETY: passed on from the caller.
        unsafe {
            match self.walks[k] {
                Walk::Direct => Source { first: first.add(at.start * dtype.size()), step: 1 },
                Walk::Single => Source { first: chunks.add(k * size_of::<Chunk>()), step: 0 },
                Walk::DirectRow => Source { first: first.offset(row_start() * size), step: 1 },
                Walk::SingleRow => self.single(k, first.offset(row_start() * size), chunks),
                Walk::Row => {
                    let stride = strides.last().copied().unwrap_or(1);
                    load(dtype, register, first.offset(row_start() * size), stride, at.n);
                    Source { first: register, step: 1 }
                }
                Walk::General => {
                    self.gather(k, first, at, register);
                    Source { first: register, step: 1 }
                }
            }
        }
    }

    /// Gathers elements `at.start ..` of operand `k`, over as many rows as it takes.
    ///
    /// # Safety
    /// As [`MapKernel::run_blocks`].
    unsafe fn gather(&self, k: usize, first: *const u8, at: Position, register: *mut u8) {
        let (dtype, strides) = (self.inputs[k], &self.strides[k]);
        let (size, held) = (dtype.size() as isize, register_type(dtype).size());
        let rank = self.dims.len();
        let mut index: Axes<usize> = Axes::from_elem(0, rank);
        let mut rest = at.start;
        let mut offset = 0;
        for axis in (0..rank).rev() {
            index[axis] = rest % self.dims[axis];
            rest /= self.dims[axis];
            offset += index[axis] as isize * strides[axis];
        }
        let (inner, stride) = (self.dims[rank - 1], strides[rank - 1]);
        let mut done = 0;
        while done < at.n {
            let run = (inner - index[rank - 1]).min(at.n - done);
            // SAFETY: passed on from the caller; the odometer stays within the axes.
            unsafe { load(dtype, register.add(done * held), first.offset(offset * size), stride, run) };
            done += run;
            // To the start of the next row.
            offset -= index[rank - 1] as isize * stride;
            index[rank - 1] = 0;
            for axis in (0..rank - 1).rev() {
                index[axis] += 1;
                offset += strides[axis];
                if index[axis] < self.dims[axis] {
                    break;
                }
                offset -= index[axis] as isize * strides[axis];
                index[axis] = 0;
            }
        }
    }
}

/// Which part of the output a block is.
#[derive(Clone, Copy)]
struct Position {
    start: usize,
    row: usize,
    column: usize,
    n: usize,
}

impl Kernel for MapKernel {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let blocks = self.blocks;
        let tasks = self.tasks.min(blocks);
        if tasks <= 1 {
            // SAFETY: passed on from the caller.
            unsafe { self.run_blocks(args.inputs, args.outputs[0], args.scratch, 0..blocks) };
            return Ok(());
        }
        let inputs = Shared::all(args.inputs);
        let (output, scratch) = (SharedMut(args.outputs[0]), SharedMut(args.scratch));
        args.team.run(tasks, split::team_work(self.work()), &|i| {
            let range = split::part(blocks, tasks, i);
            // SAFETY: passed on from the caller; tasks write disjoint blocks and have their own scratch memory.
            unsafe {
                self.run_blocks(inputs.get(), output.get(), scratch.get().add(i * self.task_bytes), range);
            }
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.task_bytes * self.tasks
    }

    fn describe(&self) -> String {
        let computed = self.nodes.iter().filter(|n| matches!(n, Node::Computed { .. })).count();
        format!("map of {computed} instruction(s), blocks of {}, {} register(s)", self.block, self.slots)
    }

    fn work(&self) -> usize {
        self.len * self.nodes.len()
    }
}

fn operands(instr: &Instr) -> SmallVec<[u16; 3]> {
    match *instr {
        Instr::Input(_) | Instr::Const(_) => SmallVec::new(),
        Instr::Unary(_, a) | Instr::Cast(_, a) => SmallVec::from_slice(&[a]),
        Instr::Binary(_, a, b) => SmallVec::from_slice(&[a, b]),
        Instr::Select(c, a, b) => SmallVec::from_slice(&[c, a, b]),
    }
}

fn is_two(instr: &Instr) -> bool {
    matches!(instr, Instr::Const(s) if s.to_f64() == 2.0)
}

/// Copies of a value as a register holds it.
fn chunk_of(value: Scalar) -> Box<Chunk> {
    let held = match value.dtype() {
        DType::F16 | DType::BF16 => Scalar::from_f64(DType::F32, value.to_f64()),
        _ => value,
    };
    let size = held.dtype().size();
    let mut chunk = Box::new(Chunk([0; CHUNK * 8]));
    for copy in chunk.0.chunks_exact_mut(size).take(CHUNK) {
        copy.copy_from_slice(&held.bits().to_ne_bytes()[..size]);
    }
    chunk
}
