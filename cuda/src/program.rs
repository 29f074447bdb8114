//! A program prepared for the device: kernels, library calls and host steps, with the places of their operands.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use streampool_core::driver::{ALIGNMENT, Bindings, Executable};
use streampool_core::op::{Constant, DType, MatMul, Op, Operand, Place, Port, Program, Step};
use streampool_core::{Error, Result};
use streampool_kernels::{Binding, Kernel, epilogue, lower, vectors};

use crate::compiler::Function;
use crate::driver::Shared;
use crate::gemm::Gemm;
use crate::host_step::{self, HostStep};
use crate::memory::DeviceMemory;
use crate::service::STATUS_WORDS;

/// An address: so many bytes from base number `base` (see [`BOUND`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) base: u32,
    pub(crate) offset: u64,
}

/// Base 0 is address 0 (constants are at absolute addresses), 1 the arena, 2 the queue's status words; then the bound inputs, then the bound outputs.
pub(crate) const ABSOLUTE: u32 = 0;
pub(crate) const ARENA: u32 = 1;
pub(crate) const STATUS: u32 = 2;
pub(crate) const BOUND: u32 = 3;

/// Bytes that bound inputs are copied to a multiple of, if they are not: what libraries and wide loads want.
pub(crate) const INPUT_ALIGNMENT: u64 = 16;

/// One kernel launch.
pub(crate) struct Launch {
    pub(crate) function: Arc<Function>,
    pub(crate) grid: u64,
    pub(crate) threads: u32,
    pub(crate) args: Box<[Located]>,
    what: String,
}

/// What a step does.
pub(crate) enum Work {
    Kernels(Vec<Launch>),
    Gemm { gemm: Gemm, at: [Located; 3], residual: Located, tail: Option<Launch> },
    Host { step: HostStep, inputs: Vec<Located>, outputs: Vec<Located> },
}

pub(crate) struct Prepared {
    pub(crate) name: String,
    /// Which status word, if data can make the step fail.
    pub(crate) status: Option<usize>,
    pub(crate) work: Work,
    what: String,
}

/// A program compiled for a CUDA device.
pub(crate) struct CudaExecutable {
    /// Unique in this process: the key of graphs.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) inputs: Box<[Port]>,
    pub(crate) outputs: Box<[Port]>,
    pub(crate) arena_bytes: usize,
    pub(crate) workspace_bytes: usize,
    pub(crate) steps: Box<[Prepared]>,
    /// Whether one launch of a graph is quicker than the launches of a run.
    pub(crate) worth_a_graph: bool,
    /// Status words that its steps use.
    pub(crate) status_words: usize,
    /// Whether data can make it fail: then its run is waited for, so that the error is that call's own.
    pub(crate) may_fail: bool,
    /// Whether the host takes part: then it is no graph.
    pub(crate) on_host: bool,
    device: *const (),
    context: Arc<crate::context::Context>,
    _constants: Box<[Option<Arc<DeviceMemory>>]>,
    _groups: Box<[Arc<DeviceMemory>]>,
}

// SAFETY: immutable; `device` is compared, never followed.
unsafe impl Send for CudaExecutable {}
// SAFETY: as above.
unsafe impl Sync for CudaExecutable {}

fn located(program: &Program, operand: &Operand) -> Located {
    let offset = (operand.layout.offset * operand.dtype.size()) as u64;
    match operand.place {
        Place::Input(n) => Located { base: BOUND + n, offset },
        Place::Output(n) => Located { base: BOUND + program.inputs.len() as u32 + n, offset },
        Place::Arena(at) => Located { base: ARENA, offset: at as u64 + offset },
        Place::Constant(_) => Located { base: ABSOLUTE, offset },
    }
}

/// Checks that the step's operands fit the operation and lie within their places.
fn check_step(program: &Program, step: &Step) -> Result<()> {
    let types: Vec<_> = step.inputs.iter().map(Operand::ty).collect();
    let results = step.op.infer(&types)?;
    let given: Vec<_> = step.outputs.iter().map(Operand::ty).collect();
    if results != given {
        return Err(Error::invalid_argument(format!("writes {given:?}, the operation gives {results:?}")));
    }
    for (operand, read) in
        step.inputs.iter().map(|o| (o, true)).chain(step.outputs.iter().map(|o| (o, false)))
    {
        let room = match operand.place {
            Place::Input(n) if read => program.inputs.get(n as usize).map(|p| p.bytes),
            Place::Output(n) => program.outputs.get(n as usize).map(|p| p.bytes),
            Place::Constant(n) if read => program.constants.get(n as usize).map(|c| c.data().len()),
            Place::Arena(at) => program.arena_bytes.checked_sub(at),
            _ => None,
        };
        let needed = operand.layout.end() * operand.dtype.size();
        if room.is_none_or(|room| needed > room) {
            return Err(Error::invalid_argument(format!(
                "operand {} at {:?} needs {needed} bytes there, there are {room:?}",
                operand.ty(),
                operand.place
            )));
        }
    }
    for (i, input) in step.inputs.iter().enumerate() {
        if !step.op.takes_strided_input(i) && !input.layout.is_contiguous() {
            return Err(Error::invalid_argument(format!(
                "input {i} is a strided view, which the operation does not take"
            )));
        }
    }
    Ok(())
}

/// What is known of the alignment of an operand's first element.
fn alignment(operand: &Operand) -> u32 {
    let offset = (operand.layout.offset * operand.dtype.size()) as u64;
    let at = match operand.place {
        Place::Arena(at) => at as u64 + offset,
        _ => offset,
    };
    if at == 0 {
        INPUT_ALIGNMENT as u32
    } else {
        (1 << at.trailing_zeros().min(4)).min(INPUT_ALIGNMENT as u32)
    }
}

/// A step between lowering and compiling.
enum Draft {
    Kernels(Vec<Kernel>),
    Gemm(Gemm, Option<Kernel>),
    /// This product and some of the following ones at once.
    Siblings(Siblings),
    /// One of the following ones.
    Sibling,
    Host(HostStep),
}

impl CudaExecutable {
    pub(crate) fn new(program: &Program, device: &Shared) -> Result<Self> {
        let fail = |e: Error| e.context(format_args!("program '{}'", program.name));
        let mut uploaded: Vec<Option<Arc<DeviceMemory>>> = vec![None; program.constants.len()];
        let mut drafts = Vec::with_capacity(program.steps.len());
        let mut kernels: Vec<Kernel> = Vec::new();
        let mut siblings = 0;
        for (i, step) in program.steps.iter().enumerate() {
            let fail = |e: Error| fail(e.context(format_args!("step {i} '{}'", step.name)));
            check_step(program, step).map_err(fail)?;
            if siblings > 0 {
                siblings -= 1;
                drafts.push(Draft::Sibling);
                continue;
            }
            let draft = match Siblings::find(program, i, device).map_err(fail)? {
                Some(found) => {
                    siblings = found.count - 1;
                    Draft::Siblings(found)
                }
                None => draft(program, step, device, &mut uploaded).map_err(fail)?,
            };
            match &draft {
                Draft::Kernels(list) => kernels.extend(list.iter().cloned()),
                Draft::Gemm(_, tail) => kernels.extend(tail.iter().cloned()),
                Draft::Siblings(_) | Draft::Sibling | Draft::Host(_) => {}
            }
            drafts.push(draft);
        }
        let mut functions = device.compiler.functions(&kernels).map_err(fail)?.into_iter();
        let mut steps = Vec::with_capacity(drafts.len());
        let mut groups: Vec<Arc<DeviceMemory>> = Vec::new();
        let (mut workspace_bytes, mut launches, mut gemms, mut may_fail, mut on_host, mut words) =
            (0, 0, 0, false, false, 0);
        for (step, draft) in program.steps.iter().zip(drafts) {
            let status = match &draft {
                Draft::Kernels(list) if list.iter().any(Kernel::may_fail) => {
                    may_fail = true;
                    words += 1;
                    Some((words - 1).min(STATUS_WORDS - 1))
                }
                _ => None,
            };
            let place =
                |operand: &Operand, uploaded: &mut Vec<Option<Arc<DeviceMemory>>>| -> Result<Located> {
                    let mut at = located(program, operand);
                    if let Place::Constant(n) = operand.place {
                        at.offset += upload(program, n, device, uploaded)?.address();
                    }
                    Ok(at)
                };
            let mut launch = |kernel: Kernel,
                              uploaded: &mut Vec<Option<Arc<DeviceMemory>>>|
             -> Result<Launch> {
                let args = kernel
                    .params
                    .iter()
                    .map(|p| match p.binding {
                        Binding::Input(n) => place(&step.inputs[n], uploaded),
                        Binding::Output(n) => place(&step.outputs[n], uploaded),
                        Binding::Status => {
                            Ok(Located { base: STATUS, offset: status.unwrap_or(0) as u64 * 8 })
                        }
                    })
                    .collect::<Result<_>>()?;
                let function =
                    functions.next().ok_or_else(|| Error::internal("cuda: a kernel was not compiled"))?;
                if kernel.grid > i32::MAX as u64 {
                    return Err(Error::unsupported(format!(
                        "cuda: {} blocks are more than a launch takes; use smaller tensors",
                        kernel.grid
                    )));
                }
                Ok(Launch { function, grid: kernel.grid, threads: kernel.threads, args, what: kernel.what })
            };
            let name = step.name.clone();
            let prepared = match draft {
                Draft::Kernels(list) => {
                    launches += list.len();
                    let list = list
                        .into_iter()
                        .map(|k| launch(k, &mut uploaded))
                        .collect::<Result<Vec<_>>>()
                        .map_err(fail)?;
                    let what = match list.len() {
                        0 => "nothing to do".into(),
                        _ => list.iter().map(|l| l.what.as_str()).collect::<Vec<_>>().join("; "),
                    };
                    Prepared { name, status, work: Work::Kernels(list), what }
                }
                Draft::Gemm(gemm, tail) => {
                    launches += gemm.calls.len() + usize::from(tail.is_some());
                    gemms += 1;
                    workspace_bytes = workspace_bytes.max(gemm.workspace());
                    let tail = tail.map(|k| launch(k, &mut uploaded)).transpose().map_err(fail)?;
                    let at = |o: &Operand, u: &mut _| place(o, u).map_err(fail);
                    let addresses = [
                        at(&step.inputs[0], &mut uploaded)?,
                        at(&step.inputs[1], &mut uploaded)?,
                        at(&step.outputs[0], &mut uploaded)?,
                    ];
                    let residual = at(&step.inputs[step.inputs.len() - 1], &mut uploaded)?;
                    let what = format!(
                        "{}{}",
                        gemm.what,
                        tail.as_ref().map_or(String::new(), |t| format!("; {}", t.what))
                    );
                    Prepared { name, status, work: Work::Gemm { gemm, at: addresses, residual, tail }, what }
                }
                Draft::Siblings(found) => {
                    launches += 1;
                    gemms += 1;
                    workspace_bytes = workspace_bytes.max(found.gemm.workspace());
                    let weights = Located { base: ABSOLUTE, offset: found.memory[0].address() };
                    let a = place(&step.inputs[0], &mut uploaded).map_err(fail)?;
                    let out = Located { base: ARENA, offset: found.first };
                    groups.extend(found.memory);
                    let what = found.gemm.what.clone();
                    let work =
                        Work::Gemm { gemm: found.gemm, at: [a, weights, out], residual: out, tail: None };
                    Prepared { name, status, work, what }
                }
                Draft::Sibling => {
                    let what = "with the product before".into();
                    Prepared { name, status, work: Work::Kernels(Vec::new()), what }
                }
                Draft::Host(host) => {
                    on_host = true;
                    let start = |o: &Operand| Located {
                        offset: located(program, o).offset - (o.layout.offset * o.dtype.size()) as u64,
                        ..located(program, o)
                    };
                    let inputs = host.inputs.iter().map(|&(i, _)| start(&step.inputs[i])).collect();
                    let outputs = step.outputs.iter().map(start).collect();
                    let what = host_step::describe(&step.op);
                    Prepared { name, status, work: Work::Host { step: host, inputs, outputs }, what }
                }
            };
            steps.push(prepared);
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: program.name.clone(),
            inputs: program.inputs.clone().into(),
            outputs: program.outputs.clone().into(),
            arena_bytes: program.arena_bytes,
            workspace_bytes,
            steps: steps.into(),
            worth_a_graph: !on_host && (launches > 1 || gemms > 0),
            status_words: usize::min(words, STATUS_WORDS),
            may_fail,
            on_host,
            device: std::ptr::from_ref(device).cast(),
            context: device.context.clone(),
            _constants: uploaded.into(),
            _groups: groups.into(),
        })
    }

    /// Whether it was compiled for this device.
    pub(crate) fn belongs_to(&self, device: &Shared) -> bool {
        std::ptr::eq(self.device, std::ptr::from_ref(device).cast())
    }

    /// Checks what is bound: cheap, as it is done for every launch.
    pub(crate) fn check_bindings(&self, bindings: &Bindings<'_>) -> Result<()> {
        let fail = |why: String| Err(Error::invalid_argument(format!("program '{}': {why}", self.name)));
        for (kind, ports, slices) in
            [("input", &self.inputs, bindings.inputs), ("output", &self.outputs, bindings.outputs)]
        {
            if ports.len() != slices.len() {
                return fail(format!("needs {} {kind}(s), got {}", ports.len(), slices.len()));
            }
            for (i, (port, slice)) in ports.iter().zip(slices).enumerate() {
                if slice.bytes() < port.bytes {
                    return fail(format!("{kind} {i} has {} bytes, needs {}", slice.bytes(), port.bytes));
                }
                let needed = if kind == "output" { INPUT_ALIGNMENT } else { port.dtype.size() as u64 };
                if port.bytes > 0 && !slice.address().is_multiple_of(needed) {
                    return fail(format!(
                        "{kind} {i} is at address {:#x}, needs a multiple of {needed}",
                        slice.address()
                    ));
                }
            }
        }
        let arena = bindings.arena;
        if arena.bytes() < self.arena_bytes || !arena.address().is_multiple_of(ALIGNMENT as u64) {
            return fail(format!(
                "the arena has {} bytes at {:#x}, needs {} aligned to {ALIGNMENT}",
                arena.bytes(),
                arena.address(),
                self.arena_bytes
            ));
        }
        Ok(())
    }
}

/// Consecutive products of one left factor with constant weights of one shape.
struct Siblings {
    count: usize,
    gemm: Gemm,
    /// The weights, then the biases.
    memory: Vec<Arc<DeviceMemory>>,
    /// Where in the arena the lowest result lies.
    first: u64,
}

impl Siblings {
    /// The run of siblings that begins with step `i`, if it is two or more and its results are equally far apart.
    fn find(program: &Program, i: usize, device: &Shared) -> Result<Option<Self>> {
        let first = &program.steps[i];
        let Op::MatMul(op) = &first.op else { return Ok(None) };
        let (a, b, y) = (&first.inputs[0], &first.inputs[1], &first.outputs[0]);
        let constant = |o: &Operand| match o.place {
            Place::Constant(n) if o.layout.offset == 0 => program.constants.get(n as usize),
            _ => None,
        };
        let k = a.layout.shape.last().copied().unwrap_or(0);
        if op.residual
            || op.activation.is_some()
            || op.alpha.get() != 1.0
            || !y.dtype.is_float()
            || y.dtype == DType::F64
            || y.layout.shape.is_empty()
            || k == 0
            || b.layout.shape.rank() != 2
            || !a.layout.is_contiguous()
            || alignment(a) < INPUT_ALIGNMENT as u32
            || vectors(op, &first.inputs, y).is_some()
        {
            return Ok(None);
        }
        let bytes = y.ty().bytes();
        // Weights and biases must stay aligned behind one another.
        let size = y.dtype.size();
        if !(b.layout.shape.len() * size).is_multiple_of(16) || !(b.layout.shape[1] * size).is_multiple_of(16)
        {
            return Ok(None);
        }
        let alike = |step: &Step| {
            step.op == first.op
                && step.inputs[0] == *a
                && step.inputs[1].layout == b.layout
                && constant(&step.inputs[1]).is_some_and(|c| c.ty().shape.len() == b.layout.shape.len())
                && step.inputs.get(2).is_none_or(|o| {
                    o.layout.shape[..] == b.layout.shape[1..]
                        && o.layout.is_contiguous()
                        && constant(o).is_some_and(|c| c.ty().bytes() == o.ty().bytes())
                })
                && step.outputs[0].layout == y.layout
                && y.layout.offset == 0
        };
        let mut group: Vec<(usize, &Step)> = Vec::new();
        for step in program.steps[i..].iter().take_while(|s| alike(s)) {
            let Place::Arena(at) = step.outputs[0].place else { break };
            group.push((at, step));
        }
        // A longer run may be equally spaced only in its beginning: two or three cover what models have.
        for count in (2..=group.len().min(8)).rev() {
            let mut part = group[..count].to_vec();
            part.sort_by_key(|(at, _)| *at);
            let step = part[1].0 - part[0].0;
            let even = part.windows(2).all(|w| w[1].0 - w[0].0 == step);
            if !even || step < bytes || !step.is_multiple_of(16) {
                continue;
            }
            let weights: Vec<&Constant> =
                part.iter().filter_map(|(_, s)| constant(&s.inputs[1]).map(|c| &**c)).collect();
            let mut memory = vec![device.constants.upload_all(&device.context, &weights)?];
            let mut bias = None;
            if op.bias {
                let biases: Vec<&Constant> =
                    part.iter().filter_map(|(_, s)| constant(&s.inputs[2]).map(|c| &**c)).collect();
                let uploaded = device.constants.upload_all(&device.context, &biases)?;
                bias = Some(uploaded.address());
                memory.push(uploaded);
            }
            let rows = a.layout.shape.len() / k;
            let gemm =
                device.blas.siblings(count, rows, (&b.layout, y.dtype), device.tf32, bias, step / size)?;
            return Ok(gemm.map(|gemm| Self { count, gemm, memory, first: part[0].0 as u64 }));
        }
        Ok(None)
    }
}

fn upload<'a>(
    program: &Program,
    n: u32,
    device: &Shared,
    uploaded: &'a mut [Option<Arc<DeviceMemory>>],
) -> Result<&'a Arc<DeviceMemory>> {
    let slot = &mut uploaded[n as usize];
    if slot.is_none() {
        *slot = Some(device.constants.upload(&device.context, &program.constants[n as usize])?);
    }
    slot.as_ref().ok_or_else(|| Error::internal("cuda: a constant was not uploaded"))
}

fn draft(
    program: &Program,
    step: &Step,
    device: &Shared,
    uploaded: &mut [Option<Arc<DeviceMemory>>],
) -> Result<Draft> {
    let (inputs, outputs) = (&step.inputs, &step.outputs);
    if let Op::MatMul(op) = &step.op
        && !outputs[0].layout.shape.is_empty()
        && vectors(op, inputs, &outputs[0]).is_none()
    {
        let bias = match inputs.get(2) {
            Some(o) if op.bias => match o.place {
                Place::Constant(n) => {
                    let first = upload(program, n, device, uploaded)?.address();
                    Some(first + (o.layout.offset * o.dtype.size()) as u64)
                }
                _ => None,
            },
            _ => None,
        };
        if let Some((gemm, fused)) =
            device.blas.plan(op, inputs, &outputs[0], device.tf32, bias, alignment)?
        {
            let rest = MatMul {
                bias: op.bias && !fused.bias,
                residual: op.residual && !fused.residual,
                activation: if fused.activation { None } else { op.activation },
                ..MatMul::default()
            };
            let tail = (rest.bias || rest.residual || rest.activation.is_some()).then(|| {
                // The kernel reads its operands by their numbers in the step.
                epilogue(
                    inputs,
                    &outputs[0],
                    [op.bias, op.residual],
                    [rest.bias, rest.residual],
                    rest.activation,
                )
            });
            return Ok(Draft::Gemm(gemm, tail));
        }
    }
    match lower(&step.op, inputs, outputs) {
        Some(kernels) => Ok(Draft::Kernels(kernels)),
        None => Ok(Draft::Host(HostStep::new(&device.cpu, program, step)?)),
    }
}

impl Drop for CudaExecutable {
    fn drop(&mut self) {
        // Machine code and weights go with the last program that uses them; work under way may still read them. Rare, so all is waited for.
        if self.context.enter().is_ok() {
            // SAFETY: takes nothing.
            let _ = unsafe { cudarc::driver::sys::cuCtxSynchronize() };
        }
    }
}

impl Executable for CudaExecutable {
    fn bytes(&self) -> usize {
        // Machine code is shared by programs; a few KiB a step is what is this one's own.
        size_of::<Self>() + self.steps.len() * 2048
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn describe(&self) -> Vec<String> {
        self.steps.iter().map(|s| format!("{}: {}", s.name, s.what)).collect()
    }
}
