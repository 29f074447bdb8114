//! Makes a program ready: which kernels and library calls do its steps, compiled, with their weights uploaded.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use streampool_core::op::{MatMul, Op, Operand, Place, Program, Step};
use streampool_core::{Error, Result};
use streampool_kernels::{Binding, Kernel, epilogue, lower, vectors};

use super::fuse::{self, Fused};
use super::place::{ABSOLUTE, Located, STATUS, alignment, check_step, located};
use super::siblings::{Siblings, Way};
use super::{CudaExecutable, Form, Launch, Prepared, WORKSPACE, Work};
use crate::compiler::Function;
use crate::driver::Shared;
use crate::gemm::Gemm;
use crate::host_step::{self, HostStep};
use crate::memory::DeviceMemory;
use crate::service::STATUS_WORDS;

/// A step between lowering and compiling.
enum Draft {
    Kernels(Vec<Kernel>),
    Gemm(Gemm, Option<Kernel>),
    /// This step and perhaps the next in one kernel.
    Fused(Fused),
    /// This product and some of the following ones at once.
    Siblings(Siblings),
    /// Done by the kernel of a step before.
    Covered,
    Host(HostStep),
}

impl Draft {
    /// All of its kernels, in the order in which they are made ready; those for when few streams are at work come behind those they replace.
    fn kernels(&self) -> Vec<&Kernel> {
        match self {
            Self::Kernels(list) => list.iter().collect(),
            Self::Gemm(_, tail) => tail.iter().collect(),
            Self::Fused(Fused { kernel, quick, .. })
            | Self::Siblings(Siblings { way: Way::Kernel(kernel, quick, _), .. }) => {
                std::iter::once(kernel).chain(quick).collect()
            }
            Self::Siblings(_) | Self::Covered | Self::Host(_) => Vec::new(),
        }
    }

    fn has_quick(&self) -> bool {
        match self {
            Self::Fused(Fused { quick, .. })
            | Self::Siblings(Siblings { way: Way::Kernel(_, quick, _), .. }) => quick.is_some(),
            _ => false,
        }
    }

    /// Steps that it does.
    fn steps(&self) -> usize {
        match self {
            Self::Fused(fused) => fused.steps,
            Self::Siblings(found) => found.count,
            _ => 1,
        }
    }
}

/// The constants of a program, uploaded when first asked for.
struct Uploads<'a> {
    program: &'a Program,
    device: &'a Shared,
    made: Vec<Option<Arc<DeviceMemory>>>,
}

impl Uploads<'_> {
    fn constant(&mut self, n: u32) -> Result<u64> {
        let slot = &mut self.made[n as usize];
        if slot.is_none() {
            let constant = &self.program.constants[n as usize];
            *slot = Some(self.device.constants.upload(&self.device.context, constant)?);
        }
        slot.as_ref().map(|m| m.address()).ok_or_else(|| Error::internal("cuda: a constant was not uploaded"))
    }

    /// Where an operand's first element is.
    fn place(&mut self, operand: &Operand) -> Result<Located> {
        let mut at = located(self.program, operand);
        if let Place::Constant(n) = operand.place {
            at.offset += self.constant(n)?;
        }
        Ok(at)
    }

    fn places(&mut self, operands: &[Operand]) -> Result<Vec<Located>> {
        operands.iter().map(|o| self.place(o)).collect()
    }
}

/// A compiled kernel and how it is launched.
fn form(kernel: &Kernel, function: Option<Arc<Function>>) -> Result<Form> {
    let function = function.ok_or_else(|| Error::internal("cuda: a kernel was not compiled"))?;
    if kernel.grid > i32::MAX as u64 {
        return Err(Error::unsupported(format!(
            "cuda: {} blocks are more than a launch takes; use smaller tensors",
            kernel.grid
        )));
    }
    let Kernel { grid, threads, shared, cluster, .. } = *kernel;
    Ok(Form { function, grid, threads, shared, cluster })
}

/// A kernel, and the one for when few streams are at work, with the places of what they are bound to.
fn launch(
    (kernel, quick): (Kernel, Option<Kernel>),
    functions: &mut impl Iterator<Item = Arc<Function>>,
    inputs: &[Located],
    outputs: &[Located],
    status: Option<usize>,
) -> Result<Launch> {
    let args = kernel
        .params
        .iter()
        .map(|p| match p.binding {
            Binding::Input(n) => inputs[n],
            Binding::Output(n) => outputs[n],
            Binding::Status => Located { base: STATUS, offset: status.unwrap_or(0) as u64 * 8 },
            Binding::Scratch => Located { base: WORKSPACE, offset: 0 },
        })
        .collect();
    let usual = form(&kernel, functions.next())?;
    let mut what = kernel.what;
    let quick = match quick {
        Some(quick) => {
            let _ = write!(what, " (with few streams at work: {})", quick.what);
            Some(form(&quick, functions.next())?)
        }
        None => None,
    };
    Ok(Launch { usual, quick, args, what })
}

impl CudaExecutable {
    pub(crate) fn new(program: &Program, device: &Shared) -> Result<Self> {
        let fail = |e: Error| e.context(format_args!("program '{}'", program.name));
        let mut uploads = Uploads { program, device, made: vec![None; program.constants.len()] };
        let mut drafts = Vec::with_capacity(program.steps.len());
        let mut covered = 0;
        for (i, step) in program.steps.iter().enumerate() {
            let fail = |e: Error| fail(e.context(format_args!("step {i} '{}'", step.name)));
            check_step(program, step).map_err(fail)?;
            if covered > 0 {
                covered -= 1;
                drafts.push(Draft::Covered);
                continue;
            }
            let draft = draft(program, i, device, &mut uploads).map_err(fail)?;
            covered = draft.steps() - 1;
            drafts.push(draft);
        }
        let kernels: Vec<Kernel> = drafts.iter().flat_map(Draft::kernels).cloned().collect();
        let mut functions = device.compiler.functions(&kernels).map_err(fail)?.into_iter();
        let mut steps = Vec::with_capacity(drafts.len());
        let mut groups: Vec<Arc<DeviceMemory>> = Vec::new();
        let (mut workspace_bytes, mut launches, mut gemms, mut may_fail, mut on_host, mut words) =
            (0, 0, 0, false, false, 0);
        let mut has_quick = false;
        for (step, draft) in program.steps.iter().zip(drafts) {
            let status = draft.kernels().into_iter().any(Kernel::may_fail).then(|| {
                may_fail = true;
                words += 1;
                (words - 1).min(STATUS_WORDS - 1)
            });
            has_quick |= draft.has_quick();
            launches += draft.kernels().len() - usize::from(draft.has_quick());
            // A stream does one step after the other: one workspace serves all.
            let scratch = draft.kernels().iter().map(|k| k.scratch).max().unwrap_or(0);
            workspace_bytes = workspace_bytes.max(scratch);
            let name = if let Draft::Fused(fused) = &draft { fused.name.clone() } else { None };
            let (work, what) = match draft {
                Draft::Kernels(list) => {
                    // A list may be empty, and its step's operands then need no place.
                    let (inputs, outputs) = if list.is_empty() {
                        (Vec::new(), Vec::new())
                    } else {
                        (
                            uploads.places(&step.inputs).map_err(fail)?,
                            uploads.places(&step.outputs).map_err(fail)?,
                        )
                    };
                    let list = list
                        .into_iter()
                        .map(|k| launch((k, None), &mut functions, &inputs, &outputs, status))
                        .collect::<Result<Vec<_>>>()
                        .map_err(fail)?;
                    let what = match list.len() {
                        0 => "nothing to do".into(),
                        _ => list.iter().map(|l| l.what.as_str()).collect::<Vec<_>>().join("; "),
                    };
                    (Work::Kernels(list), what)
                }
                Draft::Gemm(gemm, tail) => {
                    launches += gemm.calls.len();
                    gemms += 1;
                    workspace_bytes = workspace_bytes.max(gemm.workspace());
                    let inputs = uploads.places(&step.inputs).map_err(fail)?;
                    let outputs = uploads.places(&step.outputs).map_err(fail)?;
                    let tail = tail
                        .map(|k| launch((k, None), &mut functions, &inputs, &outputs, status))
                        .transpose()
                        .map_err(fail)?;
                    let what = format!(
                        "{}{}",
                        gemm.what,
                        tail.as_ref().map_or(String::new(), |t| format!("; {}", t.what))
                    );
                    let residual = inputs[inputs.len() - 1];
                    (Work::Gemm { gemm, at: [inputs[0], inputs[1], outputs[0]], residual, tail }, what)
                }
                Draft::Fused(Fused { kernel, quick, inputs, output, .. }) => {
                    let inputs = uploads.places(&inputs).map_err(fail)?;
                    let output = uploads.place(&output).map_err(fail)?;
                    let launch =
                        launch((kernel, quick), &mut functions, &inputs, &[output], status).map_err(fail)?;
                    let what = launch.what.clone();
                    (Work::Kernels(vec![launch]), what)
                }
                Draft::Siblings(found) => {
                    let output = found.output();
                    groups.extend(found.memory);
                    match found.way {
                        Way::Kernel(kernel, quick, inputs) => {
                            let launch = launch((kernel, quick), &mut functions, &inputs, &[output], status)
                                .map_err(fail)?;
                            let what = launch.what.clone();
                            (Work::Kernels(vec![launch]), what)
                        }
                        Way::Library(gemm) => {
                            launches += 1;
                            gemms += 1;
                            workspace_bytes = workspace_bytes.max(gemm.workspace());
                            let a = uploads.place(&step.inputs[0]).map_err(fail)?;
                            let weights =
                                groups[groups.len() - 1 - usize::from(step.inputs.len() > 2)].address();
                            let weights = Located { base: ABSOLUTE, offset: weights };
                            let what = gemm.what.clone();
                            (
                                Work::Gemm { gemm, at: [a, weights, output], residual: output, tail: None },
                                what,
                            )
                        }
                    }
                }
                Draft::Covered => (Work::Kernels(Vec::new()), "with the step before".into()),
                Draft::Host(host) => {
                    on_host = true;
                    let start = |o: &Operand| Located {
                        offset: located(program, o).offset - (o.layout.offset * o.dtype.size()) as u64,
                        ..located(program, o)
                    };
                    let inputs = host.inputs.iter().map(|&(i, _)| start(&step.inputs[i])).collect();
                    let outputs = step.outputs.iter().map(start).collect();
                    let what = host_step::describe(&step.op);
                    (Work::Host { step: host, inputs, outputs }, what)
                }
            };
            let status = status.map(|word| (word, step.op.clone()));
            steps.push(Prepared { name: name.unwrap_or_else(|| step.name.clone()), status, work, what });
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
            has_quick,
            status_words: usize::min(words, STATUS_WORDS),
            may_fail,
            on_host,
            device: std::ptr::from_ref(device).cast(),
            context: device.context.clone(),
            _constants: uploads.made.into(),
            _groups: groups.into(),
        })
    }
}

fn draft(program: &Program, i: usize, device: &Shared, uploads: &mut Uploads<'_>) -> Result<Draft> {
    let step: &Step = &program.steps[i];
    if let Some(found) = Siblings::find(program, i, device)? {
        return Ok(Draft::Siblings(found));
    }
    if let Some(found) = fuse::find(program, i, device.compiler.target()) {
        return Ok(Draft::Fused(found));
    }
    let (inputs, outputs) = (&step.inputs, &step.outputs);
    if let Op::MatMul(op) = &step.op
        && !outputs[0].layout.shape.is_empty()
        && vectors(op, inputs, &outputs[0]).is_none()
    {
        let bias = match inputs.get(2) {
            Some(o) if op.bias => match o.place {
                Place::Constant(n) => Some(uploads.constant(n)? + (o.layout.offset * o.dtype.size()) as u64),
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
    match lower(&step.op, inputs, outputs, device.compiler.target()) {
        Some(kernels) => Ok(Draft::Kernels(kernels)),
        None if device.strict => Err(host_step::refused(&step.op)),
        None => Ok(Draft::Host(HostStep::new(&device.cpu, program, step)?)),
    }
}
