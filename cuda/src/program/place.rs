//! Where operands lie, and what may be said of them before addresses are known.

use streampool_core::op::{Operand, Place, Program, Step};
use streampool_core::{Error, Result};

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

pub(super) fn located(program: &Program, operand: &Operand) -> Located {
    let offset = (operand.layout.offset * operand.dtype.size()) as u64;
    match operand.place {
        Place::Input(n) => Located { base: BOUND + n, offset },
        Place::Output(n) => Located { base: BOUND + program.inputs.len() as u32 + n, offset },
        Place::Arena(at) => Located { base: ARENA, offset: at as u64 + offset },
        Place::Constant(_) => Located { base: ABSOLUTE, offset },
    }
}

/// Checks that the step's operands fit the operation and lie within their places.
pub(super) fn check_step(program: &Program, step: &Step) -> Result<()> {
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
pub(super) fn alignment(operand: &Operand) -> u32 {
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

/// The bytes that an operand reaches, within its place.
fn reach(operand: &Operand) -> (u8, usize, std::ops::Range<usize>) {
    let size = operand.dtype.size();
    let (kind, which, base) = match operand.place {
        Place::Input(n) => (0, n as usize, 0),
        Place::Output(n) => (1, n as usize, 0),
        Place::Arena(at) => (2, 0, at),
        Place::Constant(n) => (3, n as usize, 0),
    };
    let layout = &operand.layout;
    let (mut low, mut high) = (layout.offset as isize, layout.offset as isize);
    for (&d, &s) in layout.shape.iter().zip(&layout.strides) {
        let span = d.saturating_sub(1) as isize * s;
        (low, high) = (low + span.min(0), high + span.max(0));
    }
    let end = if layout.shape.is_empty() { low } else { high + 1 };
    (kind, which, base + low.max(0) as usize * size..base + end.max(0) as usize * size)
}

/// Whether two operands may share a byte.
pub(super) fn overlap(a: &Operand, b: &Operand) -> bool {
    let ((ka, na, a), (kb, nb, b)) = (reach(a), reach(b));
    ka == kb && na == nb && a.start < b.end && b.start < a.end
}

/// Whether two dense operands are the very same bytes.
pub(super) fn same(a: &Operand, b: &Operand) -> bool {
    reach(a) == reach(b) && a.dtype == b.dtype && a.layout.is_contiguous() && b.layout.is_contiguous()
}

/// Whether nothing from step `from` on reads what `operand` holds: it is written again before, part by part perhaps, or never looked at.
pub(super) fn dead(program: &Program, from: usize, operand: &Operand) -> bool {
    if !matches!(operand.place, Place::Arena(_)) {
        return false;
    }
    let (_, _, bytes) = reach(operand);
    // What of it is as it was.
    let mut left = vec![bytes];
    for step in &program.steps[from..] {
        let reads = |o: &Operand| {
            let (kind, _, at) = reach(o);
            kind == 2 && left.iter().any(|part| at.start < part.end && part.start < at.end)
        };
        if step.inputs.iter().any(reads) {
            return false;
        }
        for output in step.outputs.iter().filter(|o| o.layout.is_contiguous()) {
            let (kind, _, over) = reach(output);
            if kind == 2 {
                left = left
                    .into_iter()
                    .flat_map(|part| {
                        [part.start..part.end.min(over.start), part.start.max(over.end)..part.end]
                    })
                    .filter(|part| part.start < part.end)
                    .collect();
            }
        }
        if left.is_empty() {
            return true;
        }
    }
    true
}
