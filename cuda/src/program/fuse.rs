//! Which steps one kernel does together: a small product and what is done to its result next, attention and the product that joins its heads, two
//! products with an activation between them.

use streampool_core::op::{Op, Operand, Place, Program};
use streampool_kernels::{Kernel, Product, attended, feed_forward, product, vectors};

use super::place::{INPUT_ALIGNMENT, alignment, dead, overlap, same};

/// A kernel for some steps.
pub(super) struct Fused {
    pub(super) kernel: Kernel,
    /// What its input bindings count through.
    pub(super) inputs: Vec<Operand>,
    pub(super) output: Operand,
    /// Steps that it does.
    pub(super) steps: usize,
}

/// The kernel for step `i` and, if possible, steps after it. `clusters` tells whether the device's blocks form them.
pub(super) fn find(program: &Program, i: usize, clusters: bool) -> Option<Fused> {
    let attention = || {
        let step = &program.steps[i];
        let Op::Attention(op) = &step.op else { return None };
        let y = step.outputs.first()?;
        Part::both(program, i + 1, clusters).find_map(|part| {
            let read = step.inputs.iter().chain(part.read());
            (part.takes(y) && part.sound(program, read, &[y]))
                .then(|| attended(op, &step.inputs, &part.product, aligned))?
                .map(|kernel| part.fused(kernel, &step.inputs, 1))
        })
    };
    let forward = || {
        Part::both(program, i, clusters).find_map(|first| {
            let (hidden, before) = (first.output, first.product.inputs);
            Part::both(program, i + first.steps, clusters).find_map(|second| {
                let read = first.read().chain(&before[..1]).chain(second.read());
                let passed = [first.product.output, hidden];
                (first.product.norm.is_none() && second.takes(hidden) && second.sound(program, read, &passed))
                    .then(|| feed_forward(&first.product, &second.product, aligned))?
                    .map(|kernel| second.fused(kernel, before, first.steps))
            })
        })
    };
    let single = || {
        Part::both(program, i, clusters).find_map(|part| {
            let inputs = part.product.inputs;
            part.sound(program, part.read().chain(&inputs[..1]), &[])
                .then(|| product(&part.product, aligned))?
                .map(|kernel| part.fused(kernel, &inputs[..1], 0))
        })
    };
    attention().or_else(forward).or_else(single)
}

fn aligned(o: &Operand) -> bool {
    alignment(o) >= INPUT_ALIGNMENT as u32
}

/// A product and perhaps the step after it.
struct Part<'a> {
    product: Product<'a>,
    /// What is written in the end, and the steps of the product and after it.
    output: &'a Operand,
    steps: usize,
    first: usize,
    /// What the step after it reads beside the result.
    more: &'a [Operand],
}

impl<'a> Part<'a> {
    /// The product of step `i` with the step after it, and alone.
    fn both(program: &'a Program, i: usize, clusters: bool) -> impl Iterator<Item = Self> {
        let alone = move || {
            let step = program.steps.get(i)?;
            let Op::MatMul(op) = &step.op else { return None };
            let y = step.outputs.first()?;
            if y.layout.shape.is_empty() || vectors(op, &step.inputs, y).is_some() {
                return None;
            }
            let weights = &step.inputs[1..step.inputs.len() - usize::from(op.residual)];
            let product = Product {
                op,
                inputs: &step.inputs,
                output: y,
                constant: weights.iter().all(constant),
                clusters,
                siblings: None,
                then: None,
                norm: None,
            };
            Some(Self { product, output: y, steps: 1, first: i, more: &[] })
        };
        let with_next = move || {
            let alone = alone()?;
            let next = program.steps.get(i + 1)?;
            let (seen, output, y) = (next.inputs.first()?, next.outputs.first()?, alone.output);
            let replaced = same(seen, y)
                && output.layout.is_contiguous()
                && output.dtype == y.dtype
                && output.layout.shape.len() == y.layout.shape.len()
                && aligned(output);
            let product = match &next.op {
                _ if !replaced => return None,
                Op::Map(map) if next.inputs.len() == 1 => Product { then: Some(map), ..alone.product },
                Op::LayerNorm(norm) => {
                    let constant = alone.product.constant && next.inputs[1..].iter().all(constant);
                    // Rows are of the product's columns in both shapes, or the kernel refuses.
                    Product { norm: Some((norm, &next.inputs)), constant, ..alone.product }
                }
                _ => return None,
            };
            Some(Self { product, output, steps: 2, first: i, more: &next.inputs[1..] })
        };
        with_next().into_iter().chain(alone())
    }

    /// What blocks read while others may write results, but the left factor.
    fn read(&self) -> impl Iterator<Item = &'a Operand> {
        let inputs = self.product.inputs;
        inputs[1..inputs.len() - usize::from(self.product.op.residual)].iter().chain(self.more)
    }

    /// Whether `y` is the left factor.
    fn takes(&self, y: &Operand) -> bool {
        same(&self.product.inputs[0], y)
    }

    /// Whether nobody misses what is not written, that is the product's result and those of steps before it, `passed`; and whether writing the
    /// output disturbs no block that reads. The residual is read and written by the same threads.
    fn sound<'b>(
        &self,
        program: &Program,
        mut read: impl Iterator<Item = &'b Operand>,
        passed: &[&Operand],
    ) -> bool {
        let residual = self.product.op.residual.then(|| self.product.inputs.last()).flatten();
        let (end, own) = (self.first + self.steps, self.product.output);
        let gone = |o: &Operand| same(o, self.output) || dead(program, end, o);
        let unread = |o: &Operand, by: &[Operand]| by.iter().all(|i| !overlap(i, o));
        read.all(|o| !overlap(o, self.output))
            && residual.is_none_or(|r| same(r, self.output) || !overlap(r, self.output))
            && passed.iter().chain(&[own]).all(|o| gone(o) && unread(o, self.more))
            && passed.iter().all(|o| unread(o, &self.product.inputs[1..]))
    }

    /// What `kernel` does, which is `before` steps more and reads `inputs` before the weight.
    fn fused(&self, kernel: Kernel, inputs: &[Operand], before: usize) -> Fused {
        let inputs = inputs.iter().chain(&self.product.inputs[1..]).chain(self.more).cloned().collect();
        Fused { kernel, inputs, output: self.output.clone(), steps: before + self.steps }
    }
}

fn constant(o: &Operand) -> bool {
    matches!(o.place, Place::Constant(_))
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{
        Attention, DType, F32, LayerNorm, Layout, Map, MatMul, Op, Operand, Place, Program, Step, Unary,
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

    /// 64 rows through weights of 64 by 1024 and of 1024 by 64, with `residual` added and a norm: arena 0.., 16384.., 262144.. and 524288...
    fn feed_forward(residual: Place) -> Program {
        let norm = LayerNorm {
            axis: 1,
            epsilon: F32::new(1e-5),
            rms: true,
            scale: true,
            bias: false,
            residual: false,
        };
        let [x, hidden] = [dense(Place::Arena(0), &[64, 64]), dense(Place::Arena(16384), &[64, 1024])];
        let [sum, y] = [dense(Place::Arena(262_144), &[64, 64]), dense(Place::Arena(524_288), &[64, 64])];
        let weights = [dense(Place::Constant(0), &[64, 1024]), dense(Place::Constant(1), &[1024, 64])];
        let [first, second] = weights;
        let more = dense(residual, &[64, 64]);
        let residual = MatMul { residual: true, ..MatMul::default() };
        let steps = vec![
            step(Op::MatMul(MatMul::default()), vec![x, first], hidden.clone()),
            step(gelu(), vec![hidden.clone()], hidden.clone()),
            step(Op::MatMul(residual), vec![hidden, second, more], sum.clone()),
            step(Op::LayerNorm(norm), vec![sum, dense(Place::Constant(2), &[64])], y),
        ];
        Program { steps, arena_bytes: 1 << 20, ..Program::default() }
    }

    #[test]
    fn two_products_with_all_between_and_behind_them_are_one_kernel() {
        let whole = feed_forward(Place::Arena(0));
        assert_eq!(steps(&whole), 4);
        // Somebody else reads what lies between: then it is written.
        let mut read_again = whole.clone();
        let hidden = dense(Place::Arena(16384 + 64), &[8]);
        read_again.steps.push(step(gelu(), vec![hidden], dense(Place::Output(0), &[8])));
        assert_eq!(steps(&read_again), 2);
        // A later result over part of it is no look at it.
        let mut over = whole.clone();
        let [part, copy] = [dense(Place::Arena(16384), &[64, 64]), dense(Place::Output(0), &[64, 64])];
        let y = dense(Place::Arena(524_288), &[64, 64]);
        over.steps.push(step(gelu(), vec![y], part.clone()));
        over.steps.push(step(gelu(), vec![part], copy));
        assert_eq!(steps(&over), 4);
        // The residual is what lies between, or part of it.
        assert_eq!(steps(&feed_forward(Place::Arena(16384))), 2);
        // The norm is left out if the sum is looked at again.
        let mut sum_again = whole;
        let sum = dense(Place::Arena(262_144), &[8]);
        sum_again.steps.push(step(gelu(), vec![sum], dense(Place::Output(0), &[8])));
        assert_eq!(steps(&sum_again), 3);
    }

    #[test]
    fn attention_is_done_with_the_product_of_its_heads_unless_somebody_looks_at_it() {
        let heads = |at: usize| {
            let mut o = dense(Place::Arena(at), &[1, 40, 4, 32]);
            o.layout = o.layout.permute(&[0, 2, 1, 3]);
            o
        };
        let op = Attention { scale: F32::new(0.2), causal: false, mask: false, merge_heads: true };
        let between = dense(Place::Arena(65536), &[1, 40, 4, 32]);
        let mut joined = between.clone();
        joined.layout = Layout::contiguous([40, 128]);
        let y = dense(Place::Arena(131_072), &[40, 128]);
        let weight = dense(Place::Constant(0), &[128, 128]);
        let program = |result: Operand| Program {
            steps: vec![
                step(Op::Attention(op.clone()), vec![heads(0), heads(16384), heads(32768)], between.clone()),
                step(Op::MatMul(MatMul::default()), vec![joined.clone(), weight.clone()], result),
            ],
            arena_bytes: 1 << 20,
            ..Program::default()
        };
        let whole = program(y);
        assert_eq!(steps(&whole), 2);
        let mut read_again = whole;
        read_again.steps.push(step(gelu(), vec![joined.clone()], dense(Place::Output(0), &[40, 128])));
        assert_eq!(steps(&read_again), 0);
        // Other blocks still read the keys where this one would write.
        assert_eq!(steps(&program(dense(Place::Arena(16384 + 64), &[40, 128]))), 0);
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
