//! Which steps one kernel does together: a small product and what is done to its result next.

use streampool_core::op::{Op, Operand, Place, Program};
use streampool_kernels::{Kernel, Product, product, vectors};

use super::place::{INPUT_ALIGNMENT, alignment, dead, overlap, same};

/// A kernel for one or two steps.
pub(super) struct Fused {
    pub(super) kernel: Kernel,
    /// What its input bindings count through.
    pub(super) inputs: Vec<Operand>,
    pub(super) output: Operand,
    /// Steps that it does.
    pub(super) steps: usize,
}

/// The kernel for step `i` and, if possible, the step after it. `clusters` tells whether the device's blocks form them.
pub(super) fn find(program: &Program, i: usize, clusters: bool) -> Option<Fused> {
    let step = &program.steps[i];
    let Op::MatMul(op) = &step.op else { return None };
    let y = &step.outputs[0];
    if y.layout.shape.is_empty() || vectors(op, &step.inputs, y).is_some() {
        return None;
    }
    let constant = |o: &Operand| matches!(o.place, Place::Constant(_));
    let aligned = |o: &Operand| alignment(o) >= INPUT_ALIGNMENT as u32;
    let weights = &step.inputs[1..step.inputs.len() - usize::from(op.residual)];
    let alone = Product {
        op,
        inputs: &step.inputs,
        output: y,
        constant: weights.iter().all(constant),
        clusters,
        siblings: None,
        then: None,
        norm: None,
    };
    // Blocks read the factors while others write results. The residual is read and written by the same threads.
    let apart = |output: &Operand| {
        let (factors, more) = step.inputs.split_at(step.inputs.len() - usize::from(op.residual));
        factors.iter().all(|f| !overlap(f, output))
            && more.iter().all(|r| same(r, output) || !overlap(r, output))
    };
    let with_next = || {
        let next = program.steps.get(i + 1)?;
        let (seen, output) = (next.inputs.first()?, next.outputs.first()?);
        let replaced = same(seen, y)
            && output.layout.is_contiguous()
            && output.dtype == y.dtype
            && output.layout.shape.len() == y.layout.shape.len()
            && aligned(output)
            && apart(output)
            && (same(output, y) || dead(program, i + 2, y));
        if !replaced {
            return None;
        }
        let (asked, more) = match &next.op {
            Op::Map(map) if next.inputs.len() == 1 => (Product { then: Some(map), ..alone }, &[][..]),
            Op::LayerNorm(norm) => {
                let more = &next.inputs[1..];
                let constant = alone.constant && more.iter().all(constant);
                // Rows are of the product's columns in both shapes, or the kernel refuses.
                (Product { norm: Some((norm, &next.inputs)), constant, ..alone }, more)
            }
            _ => return None,
        };
        if !more.iter().all(|o| !overlap(o, output)) {
            return None;
        }
        let kernel = product(&asked, aligned)?;
        let inputs = step.inputs.iter().chain(more).cloned().collect();
        Some(Fused { kernel, inputs, output: output.clone(), steps: 2 })
    };
    with_next().or_else(|| {
        if !apart(y) {
            return None;
        }
        let kernel = product(&alone, aligned)?;
        Some(Fused { kernel, inputs: step.inputs.to_vec(), output: y.clone(), steps: 1 })
    })
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{
        DType, F32, LayerNorm, Layout, Map, MatMul, Op, Operand, Place, Program, Step, Unary,
    };

    use super::find;

    fn dense(place: Place, shape: &[usize]) -> Operand {
        Operand { place, dtype: DType::F16, layout: Layout::contiguous(shape) }
    }

    fn step(op: Op, inputs: Vec<Operand>, output: Operand) -> Step {
        Step { name: String::new(), op, inputs, outputs: vec![output] }
    }

    /// A product of arena bytes 0.. (24 rows of 64) to 4096.. (24 rows of 128), then `next` from there to `to`.
    fn program(next: Op, more: Vec<Operand>, to: Operand) -> Program {
        let product = step(
            Op::MatMul(MatMul::default()),
            vec![dense(Place::Arena(0), &[24, 64]), dense(Place::Constant(0), &[64, 128])],
            dense(Place::Arena(4096), &[24, 128]),
        );
        let mut inputs = vec![dense(Place::Arena(4096), &[1, 24, 128])];
        inputs.extend(more);
        Program { steps: vec![product, step(next, inputs, to)], arena_bytes: 1 << 20, ..Program::default() }
    }

    fn gelu() -> Op {
        Op::Map(Map::unary(Unary::Gelu))
    }

    fn steps(program: &Program) -> usize {
        find(program, 0, true).map_or(0, |f| f.steps)
    }

    #[test]
    fn what_follows_in_place_or_elsewhere_is_done_together() {
        for to in [Place::Arena(4096), Place::Arena(65536), Place::Output(0)] {
            assert_eq!(steps(&program(gelu(), vec![], dense(to, &[1, 24, 128]))), 2, "{to:?}");
        }
        let norm = LayerNorm {
            axis: 2,
            epsilon: F32::new(1e-5),
            rms: false,
            scale: true,
            bias: false,
            residual: false,
        };
        let scale = dense(Place::Constant(1), &[128]);
        let with_norm = program(Op::LayerNorm(norm), vec![scale], dense(Place::Output(0), &[1, 24, 128]));
        assert_eq!(steps(&with_norm), 2);
        // Without clusters no block has whole rows of a long sum, but of a short one it has.
        assert!(find(&with_norm, 0, false).is_some());
    }

    #[test]
    fn a_result_over_a_factor_is_not_written_while_blocks_read_it() {
        for at in [0, 3072 - 16] {
            assert_eq!(steps(&program(gelu(), vec![], dense(Place::Arena(at), &[1, 24, 128]))), 1, "{at}");
        }
    }

    #[test]
    fn a_product_that_is_looked_at_again_is_kept() {
        let mut read_again = program(gelu(), vec![], dense(Place::Arena(65536), &[1, 24, 128]));
        let late = dense(Place::Arena(4096 + 200), &[8]);
        read_again.steps.push(step(gelu(), vec![late], dense(Place::Output(0), &[8])));
        assert_eq!(steps(&read_again), 1);
        // Written anew before it is read, it is another value.
        let mut written_before = read_again.clone();
        let zeros = dense(Place::Arena(65536), &[1, 24, 128]);
        written_before.steps.insert(2, step(gelu(), vec![zeros], dense(Place::Arena(4096), &[1, 24, 128])));
        assert_eq!(steps(&written_before), 2);
    }
}
