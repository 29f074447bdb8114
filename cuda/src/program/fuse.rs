//! Which steps one kernel does together: a small product and what is done to its result next, attention and the product that joins its heads, a layer
//! norm and the gathers and the expression before it.

use streampool_core::op::{Op, Operand, Place, Program, Step};
use streampool_kernels::{Aim, Kernel, Product, Target, Value, attended, embedded, product, vectors};

use super::place::{INPUT_ALIGNMENT, alignment, dead, overlap, same};

/// A kernel for some steps.
pub(super) struct Fused {
    pub(super) kernel: Kernel,
    /// The same for when few streams are at work, if that differs.
    pub(super) quick: Option<Kernel>,
    /// What its input bindings count through.
    pub(super) inputs: Vec<Operand>,
    pub(super) output: Operand,
    /// Steps that it does.
    pub(super) steps: usize,
    /// What to call it if data makes it fail, unless that is its first step.
    pub(super) name: Option<String>,
}

/// The kernel for step `i` and, if possible, steps after it. `target` is the device.
pub(super) fn find(program: &Program, i: usize, target: Target) -> Option<Fused> {
    let attention = || {
        let step = &program.steps[i];
        let Op::Attention(op) = &step.op else { return None };
        let y = step.outputs.first()?;
        Part::both(program, i + 1, target).find_map(|part| {
            let read = step.inputs.iter().chain(part.read());
            (part.takes(y) && part.sound(program, read, &[y]))
                .then(|| part.fused(&step.inputs, 1, |p| attended(op, &step.inputs, p, aligned)))
                .flatten()
        })
    };
    let single = || {
        Part::both(program, i, target).find_map(|part| {
            let inputs = part.product.inputs;
            part.sound(program, part.read().chain(&inputs[..1]), &[])
                .then(|| part.fused(&inputs[..1], 0, |p| product(p, aligned)))
                .flatten()
        })
    };
    attention().or_else(single).or_else(|| norm(program, i))
}

/// The kernel for gathers from step `i` on, an expression of what they give, and the layer norm of that.
fn norm(program: &Program, i: usize) -> Option<Fused> {
    let steps = &program.steps[i..];
    let count = steps.iter().take_while(|s| matches!(s.op, Op::Gather(_))).count();
    let ([gathers @ .., middle], last) = (steps.get(..=count)?, steps.get(count + 1)?) else { return None };
    let (Op::Map(map), Op::LayerNorm(op)) = (&middle.op, &last.op) else { return None };
    let (sum, output) = (&middle.outputs[0], &last.outputs[0]);
    if !same(&last.inputs[0], sum) {
        return None;
    }
    let made = |o: &Operand| gathers.iter().find(|g| same(&g.outputs[0], o));
    let values: Vec<Value<'_>> = middle
        .inputs
        .iter()
        .map(|o| match made(o) {
            Some(Step { op: Op::Gather(op), inputs, .. }) => Value::Gathered(op, [&inputs[0], &inputs[1]]),
            _ => Value::Stored(o),
        })
        .collect();
    // Nobody misses what is not written, and nothing that is read is what it would have been written over.
    let passed: Vec<&Operand> = gathers.iter().map(|g| &g.outputs[0]).chain([sum]).collect();
    let gone = |o: &&Operand| same(o, output) || dead(program, i + count + 2, o);
    let in_place = |o: &Operand| same(o, output) && o.layout.shape.len() == output.layout.shape.len();
    let stored = |o: &&Operand| values.iter().any(|v| matches!(v, Value::Stored(s) if s == o));
    let read: Vec<&Operand> = values.iter().flat_map(Value::operands).chain(&last.inputs[1..]).collect();
    let sound = gathers.iter().all(|g| middle.inputs.iter().filter(|o| same(o, &g.outputs[0])).count() == 1)
        && passed.iter().all(gone)
        && read.iter().all(|o| !overlap(o, output) || stored(o) && in_place(o))
        && read.iter().all(|o| gathers.iter().all(|g| !overlap(o, &g.outputs[0])))
        && last.inputs[1..].iter().all(|o| !overlap(o, sum));
    let kernel = sound.then(|| embedded(op, &last.inputs, map, &values)).flatten()?;
    let inputs = read.into_iter().cloned().collect();
    let names: Vec<&str> = gathers.iter().map(|g| g.name.as_str()).collect();
    let name = (count > 1).then(|| names.join(" or "));
    Some(Fused { kernel, quick: None, inputs, output: output.clone(), steps: count + 2, name })
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
    fn both(program: &'a Program, i: usize, target: Target) -> impl Iterator<Item = Self> {
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
                target,
                siblings: None,
                then: None,
                norm: None,
                aim: Aim::Throughput,
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

    /// By the kernels that `make` makes, which do `before` steps more and read `inputs` before the weight.
    fn fused(
        &self,
        inputs: &[Operand],
        before: usize,
        make: impl Fn(&Product<'_>) -> Option<Kernel>,
    ) -> Option<Fused> {
        let kernel = make(&self.product)?;
        let quick = make(&Product { aim: Aim::Latency, ..self.product });
        let inputs = inputs.iter().chain(&self.product.inputs[1..]).chain(self.more).cloned().collect();
        Some(Fused {
            kernel,
            quick,
            inputs,
            output: self.output.clone(),
            steps: before + self.steps,
            name: None,
        })
    }
}

fn constant(o: &Operand) -> bool {
    matches!(o.place, Place::Constant(_))
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{
        Attention, Binary, DType, F32, Gather, LayerNorm, Layout, Map, MatMul, Op, Operand, Place, Program,
        Step, Unary,
    };

    use super::{Target, find};

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

    fn norm() -> Op {
        Op::LayerNorm(LayerNorm {
            axis: 2,
            epsilon: F32::new(1e-5),
            rms: false,
            scale: true,
            bias: false,
            residual: false,
        })
    }

    const HOPPER: Target = Target { shared: 227 << 10, clusters: true };

    fn steps(program: &Program) -> usize {
        find(program, 0, HOPPER).map_or(0, |f| f.steps)
    }

    #[test]
    fn what_follows_in_place_or_elsewhere_is_done_together() {
        for to in [Place::Arena(4096), Place::Arena(65536), Place::Output(0)] {
            assert_eq!(steps(&program(gelu(), vec![], dense(to, &[1, 24, 128]))), 2, "{to:?}");
        }
        let scale = dense(Place::Constant(1), &[128]);
        let with_norm = program(norm(), vec![scale], dense(Place::Output(0), &[1, 24, 128]));
        assert_eq!(steps(&with_norm), 2);
        // Without clusters no block has whole rows of a long sum, but of a short one it has.
        assert!(find(&with_norm, 0, Target::LEAST).is_some());
    }

    #[test]
    fn a_result_over_a_factor_is_not_written_while_blocks_read_it() {
        for at in [0, 3072 - 16] {
            assert_eq!(steps(&program(gelu(), vec![], dense(Place::Arena(at), &[1, 24, 128]))), 1, "{at}");
        }
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
    fn gathers_an_expression_and_their_norm_are_done_together_unless_one_is_looked_at() {
        let indices = Operand { dtype: DType::I64, ..dense(Place::Input(0), &[1, 24]) };
        let gather = |to: usize| {
            let inputs = vec![dense(Place::Constant(0), &[50, 128]), indices.clone()];
            step(Op::Gather(Gather { axis: 0 }), inputs, dense(Place::Arena(to), &[1, 24, 128]))
        };
        let at = |at: usize| dense(Place::Arena(at), &[1, 24, 128]);
        let program = |sum: usize, to: usize| Program {
            steps: vec![
                gather(0),
                gather(8192),
                step(Op::Map(Map::binary(Binary::Add)), vec![at(0), at(8192)], at(sum)),
                step(norm(), vec![at(sum), dense(Place::Constant(1), &[128])], at(to)),
            ],
            arena_bytes: 1 << 20,
            ..Program::default()
        };
        assert_eq!(steps(&program(0, 0)), 4, "in place");
        assert_eq!(steps(&program(16384, 32768)), 4, "each elsewhere");
        assert_eq!(find(&program(0, 0), 2, HOPPER).map(|f| f.steps), Some(2), "the expression and the norm");
        let mut read_again = program(16384, 32768);
        read_again.steps.push(step(gelu(), vec![at(8192)], dense(Place::Output(0), &[1, 24, 128])));
        assert_eq!(steps(&read_again), 0);
        let mut squared = program(0, 0);
        squared.steps[2].inputs[1] = at(0);
        assert_eq!(steps(&squared), 0, "one gather is read twice, the other not at all");
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
