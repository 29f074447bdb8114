//! A program prepared for this processor, and what runs it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::Arc;

use streampool_core::driver::{ALIGNMENT, Bindings, Executable, Slice};
use streampool_core::op::{Constant, Op, Operand, Place, Port, Program, Step};
use streampool_core::{Error, Result};

use crate::constants::Constants;
use crate::kernel::{Args, Kernel, Prepare};
use crate::memory::HostMemory;
use crate::team::Team;

/// A program compiled for the CPU: prepared kernels in order, each with the places of its operands.
pub struct CpuExecutable {
    name: String,
    inputs: Box<[Port]>,
    outputs: Box<[Port]>,
    arena_bytes: usize,
    scratch_bytes: usize,
    steps: Box<[Prepared]>,
    /// All steps' operands, in order: inputs, then outputs.
    operands: Box<[Located]>,
    /// Keeps the uploaded constants alive, whose addresses are in `operands`.
    _constants: Box<[Option<Arc<HostMemory>>]>,
}

struct Prepared {
    name: String,
    kernel: Box<dyn Kernel>,
    inputs: u32,
    outputs: u32,
}

/// Where an operand's first element lies: so many bytes from base number `base` (see [`Bases`]).
#[derive(Clone, Copy)]
struct Located {
    base: u32,
    offset: usize,
}

/// Base 0 is address 0 (constants are at absolute addresses), base 1 the arena, then the bound inputs, then the bound outputs.
const ABSOLUTE: u32 = 0;
const ARENA: u32 = 1;
const BOUND: u32 = 2;

impl CpuExecutable {
    /// Prepares every step.
    pub(crate) fn new(program: &Program, constants: &Constants) -> Result<Self> {
        let fail = |e: Error| e.context(format_args!("program '{}'", program.name));
        let mut steps = Vec::with_capacity(program.steps.len());
        let mut operands = Vec::new();
        let mut uploaded: Vec<Option<Arc<HostMemory>>> = vec![None; program.constants.len()];
        let mut scratch_bytes = 0;
        for (i, step) in program.steps.iter().enumerate() {
            let fail = |e: Error| fail(e.context(format_args!("step {i} '{}'", step.name)));
            check_step(program, step).map_err(fail)?;
            let behind: Vec<Option<Arc<Constant>>> = step
                .inputs
                .iter()
                .map(|o| match o.place {
                    Place::Constant(n) => Some(program.constants[n as usize].clone()),
                    _ => None,
                })
                .collect();
            let kernel = crate::kernels::prepare(&Prepare {
                op: &step.op,
                inputs: &step.inputs,
                outputs: &step.outputs,
                constants: &behind,
                packs: constants.packs(),
            })
            .map_err(fail)?;
            for (n, operand) in step.inputs.iter().enumerate() {
                operands.push(match operand.place {
                    Place::Constant(_) if kernel.holds_input(n) => Located { base: ABSOLUTE, offset: 0 },
                    Place::Constant(c) => {
                        let slot = &mut uploaded[c as usize];
                        if slot.is_none() {
                            *slot = Some(constants.upload(&program.constants[c as usize]).map_err(fail)?);
                        }
                        let first = slot.as_ref().map_or(0, |m| m.as_ptr().expose_provenance());
                        Located { base: ABSOLUTE, offset: first + byte_offset(operand) }
                    }
                    _ => locate(program, operand),
                });
            }
            operands.extend(step.outputs.iter().map(|o| locate(program, o)));
            scratch_bytes = scratch_bytes.max(kernel.scratch_bytes());
            steps.push(Prepared {
                name: step.name.clone(),
                kernel,
                inputs: step.inputs.len() as u32,
                outputs: step.outputs.len() as u32,
            });
        }
        Ok(Self {
            name: program.name.clone(),
            inputs: program.inputs.clone().into(),
            outputs: program.outputs.clone().into(),
            arena_bytes: program.arena_bytes,
            scratch_bytes,
            steps: steps.into(),
            operands: operands.into(),
            _constants: uploaded.into(),
        })
    }
}

impl Executable for CpuExecutable {
    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.steps) + size_of_val(&*self.operands)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn describe(&self) -> Vec<String> {
        self.steps.iter().map(|s| format!("{}: {}", s.name, s.kernel.describe())).collect()
    }
}

/// Runs programs on the calling thread, and owns what a run needs beside its bindings: scratch memory and lists of pointers, kept
/// between runs so that a run allocates nothing.
pub struct Executor {
    bases: Vec<usize>,
    inputs: Vec<*const u8>,
    outputs: Vec<*mut u8>,
    scratch: HostMemory,
    team: Arc<Team>,
}

// SAFETY: the pointers are filled in by a run and not read after it.
unsafe impl Send for Executor {}

impl Executor {
    /// With no scratch memory yet.
    pub fn new(team: Arc<Team>) -> Self {
        let scratch = HostMemory::new(0).expect("nothing is allocated");
        Self { bases: Vec::new(), inputs: Vec::new(), outputs: Vec::new(), scratch, team }
    }

    /// Runs `program` to its end. The addresses of `bindings` are host pointers whose provenance was exposed (as
    /// [`Slice::host`] does); the bytes are used by nobody else meanwhile.
    ///
    /// # Errors
    /// `is_invalid_argument` if a binding is missing, too short or misaligned (nothing was run then) or for what depends on data (an
    /// index out of range); `is_internal` if a kernel panicked. Both name the step. Outputs are then undefined.
    pub fn run(&mut self, program: &CpuExecutable, bindings: &Bindings<'_>) -> Result<()> {
        let ports = (&*program.inputs, &*program.outputs);
        bindings.check(&program.name, ports, program.arena_bytes, |_, port| port.dtype.size())?;
        if self.scratch.len() < program.scratch_bytes {
            // The first launch of a larger program than any before.
            self.scratch = HostMemory::new(0)?;
            self.scratch = HostMemory::new(program.scratch_bytes)
                .map_err(|e| e.context(format_args!("scratch memory of program '{}'", program.name)))?;
        }
        let address = |s: &Slice<'_>| s.address() as usize;
        self.bases.clear();
        self.bases.extend([0, address(&bindings.arena)]);
        self.bases.extend(bindings.inputs.iter().map(address));
        self.bases.extend(bindings.outputs.iter().map(address));

        let current = Cell::new(0);
        let run = AssertUnwindSafe(|| self.run_steps(program, &current));
        match catch_unwind(run) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(e.context(&program.steps[current.get()].name)),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                let step = &program.steps[current.get()];
                Err(Error::internal(format!(
                    "{}: kernel '{}' panicked: {text}; please report this",
                    step.name,
                    step.kernel.describe()
                )))
            }
        }
    }

    fn run_steps(&mut self, program: &CpuExecutable, current: &Cell<usize>) -> Result<()> {
        let mut operands = &*program.operands;
        for (i, step) in program.steps.iter().enumerate() {
            current.set(i);
            let (inputs, rest) = operands.split_at(step.inputs as usize);
            let (outputs, rest) = rest.split_at(step.outputs as usize);
            operands = rest;
            let bases = &self.bases;
            let at = |o: &Located| bases[o.base as usize] + o.offset;
            self.inputs.clear();
            self.inputs.extend(inputs.iter().map(|o| with_exposed_provenance::<u8>(at(o))));
            self.outputs.clear();
            self.outputs.extend(outputs.iter().map(|o| with_exposed_provenance_mut::<u8>(at(o))));
            let args = Args {
                inputs: &self.inputs,
                outputs: &self.outputs,
                scratch: self.scratch.as_ptr(),
                team: &self.team,
            };
            // SAFETY: `check_step` saw that every operand lies within its place and that outputs overlap no input but as in-place
            // allows; `Bindings::check` that each place is as long and as aligned as the program says. That nobody else uses the bytes
            // is the driver contract's (INV-5, INV-6). Scratch is this executor's own and long enough.
            unsafe { step.kernel.run(&args)? };
        }
        Ok(())
    }
}

/// Bytes from a place's first byte to element 0 of the view.
fn byte_offset(operand: &Operand) -> usize {
    // An empty view touches nothing, and its offset may be anything.
    if operand.layout.shape.is_empty() { 0 } else { operand.layout.offset * operand.dtype.size() }
}

fn locate(program: &Program, operand: &Operand) -> Located {
    let offset = byte_offset(operand);
    match operand.place {
        Place::Input(n) => Located { base: BOUND + n, offset },
        Place::Output(n) => Located { base: BOUND + program.inputs.len() as u32 + n, offset },
        Place::Arena(start) => Located { base: ARENA, offset: start + offset },
        Place::Constant(_) => Located { base: ABSOLUTE, offset: 0 },
    }
}

/// Checks one step, so that no program, however it was made, can touch bytes that are not its own.
fn check_step(program: &Program, step: &Step) -> Result<()> {
    let fail = |why: String| Err(Error::invalid_argument(why));
    let inputs: Vec<_> = step.inputs.iter().map(Operand::ty).collect();
    let outputs: Vec<_> = step.outputs.iter().map(Operand::ty).collect();
    let inferred = step.op.infer(&inputs)?;
    if inferred != outputs {
        return fail(format!("{} gives {inferred:?}, the step's outputs are {outputs:?}", step.op.name()));
    }
    let mut reads = Vec::with_capacity(step.inputs.len());
    for (i, operand) in step.inputs.iter().enumerate() {
        reads.push(extent(program, operand).map_err(|e| e.context(format_args!("input {i}")))?);
        if !step.op.takes_strided_input(i) && !operand.layout.is_contiguous() {
            return fail(format!(
                "input {i} of {} must be contiguous, it has layout {:?}",
                step.op.name(),
                operand.layout
            ));
        }
    }
    let strided_output = matches!(step.op, Op::Copy(_) | Op::Fill(_));
    let mut writes: Vec<Extent> = Vec::with_capacity(step.outputs.len());
    for (o, operand) in step.outputs.iter().enumerate() {
        let write = extent(program, operand).map_err(|e| e.context(format_args!("output {o}")))?;
        if matches!(operand.place, Place::Input(_) | Place::Constant(_)) {
            return fail(format!("output {o} lies in read-only {:?}", operand.place));
        }
        if !strided_output && !operand.layout.is_contiguous() {
            return fail(format!("output {o} of {} must be contiguous", step.op.name()));
        }
        if !is_injective(operand) {
            return fail(format!("output {o} writes an element twice: {:?}", operand.layout));
        }
        for (i, (read, input)) in reads.iter().zip(&step.inputs).enumerate() {
            // Copies between interleaved regions are told apart by no interval; they go through raw pointers element by element.
            let interleaved = matches!(step.op, Op::Copy(_))
                && !(input.layout.is_contiguous() && operand.layout.is_contiguous());
            let in_place = o == 0
                && step.op.in_place(i)
                && *read == write
                && input.dtype.size() == operand.dtype.size()
                && input.layout.is_contiguous();
            if read.overlaps(&write) && !in_place && !interleaved {
                return fail(format!("output {o} of {} overlaps input {i}", step.op.name()));
            }
        }
        if let Some(other) = writes.iter().position(|w| w.overlaps(&write)) {
            return fail(format!("outputs {other} and {o} of {} overlap", step.op.name()));
        }
        writes.push(write);
    }
    Ok(())
}

/// Which bytes an operand touches: from `start` to `end` of base `base`.
#[derive(PartialEq, Eq)]
struct Extent {
    base: (u8, u32),
    start: usize,
    end: usize,
}

impl Extent {
    fn overlaps(&self, other: &Extent) -> bool {
        self.base == other.base && self.start < other.end && other.start < self.end
    }
}

/// The bytes that `operand` touches, an error if they are not all within its place.
fn extent(program: &Program, operand: &Operand) -> Result<Extent> {
    let fail = |why: String| Err(Error::invalid_argument(why));
    let missing = || Error::invalid_argument(format!("{:?} is not there", operand.place));
    let size = operand.dtype.size();
    let (base, first, bytes) = match operand.place {
        Place::Input(n) | Place::Output(n) => {
            let (kind, ports) = match operand.place {
                Place::Input(_) => (0, &program.inputs),
                _ => (1, &program.outputs),
            };
            let port = ports.get(n as usize).ok_or_else(missing)?;
            if size > port.dtype.size() {
                return fail(format!("a {} is read from a port aligned for {}", operand.dtype, port.dtype));
            }
            ((kind, n), 0, port.bytes)
        }
        Place::Constant(n) => {
            ((2, n), 0, program.constants.get(n as usize).ok_or_else(missing)?.data().len())
        }
        Place::Arena(start) => {
            if !start.is_multiple_of(ALIGNMENT) || start > program.arena_bytes {
                return fail(format!("an arena of {} bytes has no place at {start}", program.arena_bytes));
            }
            ((3, 0), start, program.arena_bytes - start)
        }
    };
    let layout = &operand.layout;
    operand.layout.shape.checked_len()?;
    if layout.strides.len() != layout.shape.rank() {
        return fail(format!("{layout:?} has not one stride per axis"));
    }
    if layout.shape.is_empty() {
        return Ok(Extent { base, start: first, end: first });
    }
    // Lengths are below 2^60 (checked above) and strides below 2^63, so i128 holds the sums.
    let (mut low, mut high) = (layout.offset as i128, layout.offset as i128);
    for (&d, &s) in layout.shape.iter().zip(&layout.strides) {
        let reach = (d as i128 - 1) * s as i128;
        if reach < 0 { low += reach } else { high += reach }
    }
    let (low, high) = (low * size as i128, (high + 1) * size as i128);
    if low < 0 || high > bytes as i128 {
        return fail(format!(
            "{layout:?} of {} leaves the {bytes} bytes of {:?}",
            operand.dtype, operand.place
        ));
    }
    Ok(Extent { base, start: first + low as usize, end: first + high as usize })
}

/// Whether no element of a view lies where another does (a sufficient condition: axes, sorted by stride, do not reach into each other).
fn is_injective(operand: &Operand) -> bool {
    let layout = &operand.layout;
    let mut axes: Vec<(usize, usize)> = layout
        .shape
        .iter()
        .zip(&layout.strides)
        .filter(|&(&d, _)| d > 1)
        .map(|(&d, &s)| (s.unsigned_abs(), d))
        .collect();
    if layout.shape.is_empty() {
        return true;
    }
    axes.sort_unstable();
    let mut reach = 0;
    for (stride, d) in axes {
        if stride <= reach {
            return false;
        }
        reach += stride * (d - 1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what its step is called.
    struct Scripted(&'static str);

    impl Kernel for Scripted {
        unsafe fn run(&self, _args: &Args<'_>) -> Result<()> {
            match self.0 {
                "panic" => panic!("planted"),
                "fail" => Err(Error::invalid_argument("index 9")),
                _ => Ok(()),
            }
        }
        fn describe(&self) -> String {
            format!("scripted {}", self.0)
        }
    }

    fn scripted(steps: &[&'static str]) -> CpuExecutable {
        let mut e = CpuExecutable::new(&Program::default(), &Constants::default()).unwrap();
        e.steps = steps
            .iter()
            .map(|&s| Prepared { name: s.into(), kernel: Box::new(Scripted(s)), inputs: 0, outputs: 0 })
            .collect();
        e
    }

    #[test]
    fn a_panicking_kernel_is_an_error_of_its_launch_alone() {
        let mut executor = Executor::new(Arc::new(Team::default()));
        let none = Bindings { inputs: &[], outputs: &[], arena: Slice::EMPTY };
        for _ in 0..3 {
            let e = executor.run(&scripted(&["fine", "panic"]), &none).unwrap_err();
            assert!(e.is_internal(), "{e:?}");
            let text = e.to_string();
            assert!(text.starts_with("panic: ") && text.contains("planted"), "{text}");
            executor.run(&scripted(&["fine"]), &none).unwrap();
            let e = executor.run(&scripted(&["fine", "fail", "panic"]), &none).unwrap_err();
            assert_eq!((e.is_invalid_argument(), e.to_string().as_str()), (true, "fail: index 9"));
        }
    }
}
