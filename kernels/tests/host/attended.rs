//! Attention and the product behind it in one kernel: against the CPU device's steps one by one.

use streampool_core::op::{Attention, DType, F32, Layout, MatMul, Op, Operand, Place, Scalar};
use streampool_kernels::{Aim, Product, Target, attended};

use crate::chain::Chain;
use crate::products::{Case, on_each_target};
use crate::targets::HOPPER;

/// A product as kernels are asked for it.
fn asked<'a>(op: &'a MatMul, inputs: &'a [Operand], output: &'a Operand, target: Target) -> Product<'a> {
    Product {
        op,
        inputs,
        output,
        constant: true,
        target,
        siblings: None,
        then: None,
        norm: None,
        aim: Aim::Throughput,
    }
}

#[derive(Clone, Copy)]
struct Attended {
    dtype: DType,
    b: usize,
    /// Heads of queries, and of keys and values.
    heads: [usize; 2],
    s: usize,
    t: usize,
    d: usize,
    e: usize,
    n: usize,
    causal: bool,
    /// The mask's shape, which broadcasts.
    mask: Option<[usize; 4]>,
    across: bool,
    residual: bool,
    norm: bool,
}

fn attend(w: Attended, target: Target) -> Option<Case> {
    let mut chain = Chain::new(w.dtype);
    let (m, k) = (w.b * w.s, w.heads[0] * w.e);
    // (b, s, h, d) in memory, read as (b, h, s, d).
    let heads = |chain: &mut Chain, s: usize, h: usize, d: usize| {
        let mut o = chain.input(&[w.b, s, h, d]);
        o.layout = o.layout.permute(&[0, 2, 1, 3]);
        o
    };
    let mut inputs = vec![
        heads(&mut chain, w.s, w.heads[0], w.d),
        heads(&mut chain, w.t, w.heads[1], w.d),
        heads(&mut chain, w.t, w.heads[1], w.e),
    ];
    if let Some(shape) = w.mask {
        let mask = chain.input(&shape);
        let last = chain.data.last_mut().expect("the mask");
        let infinity = Scalar::from_f64(w.dtype, f64::NEG_INFINITY).bits().to_le_bytes();
        for i in (0..last.ty().shape.len()).filter(|i| i % 5 == 2) {
            last.bytes_mut()[i * 2..i * 2 + 2].copy_from_slice(&infinity[..2]);
        }
        inputs.push(mask);
    }
    let op = Attention { scale: F32::new(0.4), causal: w.causal, mask: w.mask.is_some(), merge_heads: true };
    let mut joined = chain.between(&[w.b, w.s, w.heads[0], w.e]);
    chain.step(Op::Attention(op.clone()), &inputs, &joined);
    joined.layout = Layout::contiguous([m, k]);
    let product = MatMul { bias: true, residual: w.residual, ..MatMul::default() };
    let mut two = vec![joined, chain.weight(k, w.n, w.across), chain.input(&[w.n])];
    if w.residual {
        two.push(chain.input(&[m, w.n]));
    }
    let result = chain.at(Place::Output(0), &[m, w.n]);
    let sum = if w.norm { chain.between(&[m, w.n]) } else { result.clone() };
    chain.step(Op::MatMul(product.clone()), &two, &sum);
    let norm = w.norm.then(|| chain.norm(&sum, &result, false));
    let asked =
        Product { norm: norm.as_ref().map(|(n, i)| (n, &i[..])), ..asked(&product, &two, &result, target) };
    let kernel = attended(&op, &inputs, &asked, |_| true)?;
    let quick = attended(&op, &inputs, &Product { aim: Aim::Latency, ..asked }, |_| true);
    let mut bound = inputs;
    bound.extend(two[1..].iter().cloned());
    bound.extend(norm.iter().flat_map(|(_, i)| i[1..].iter().cloned()));
    Some(chain.case((kernel, quick), bound, &result))
}

fn wishes() -> Vec<Attended> {
    let mini = Attended {
        dtype: DType::F16,
        b: 1,
        heads: [12, 12],
        s: 40,
        t: 128,
        d: 32,
        e: 32,
        n: 384,
        causal: false,
        mask: Some([1, 1, 40, 128]),
        across: false,
        residual: true,
        norm: true,
    };
    vec![
        mini,
        Attended { s: 16, t: 16, mask: Some([1, 1, 16, 16]), ..mini },
        // Several sequences, groups of heads, keys that nothing divides, a mask of single elements.
        Attended { b: 2, heads: [4, 2], s: 32, t: 33, mask: Some([2, 1, 1, 33]), n: 72, ..mini },
        Attended { dtype: DType::BF16, heads: [2, 1], t: 70, d: 64, e: 24, causal: true, mask: None, ..mini },
        Attended { heads: [1, 1], s: 19, t: 50, d: 16, e: 128, mask: None, n: 376, across: true, ..mini },
        Attended { heads: [8, 8], s: 35, t: 34, mask: Some([1, 8, 35, 34]), norm: false, ..mini },
        Attended {
            b: 3,
            heads: [4, 4],
            s: 64,
            mask: Some([3, 1, 1, 128]),
            norm: false,
            residual: false,
            ..mini
        },
    ]
}

/// Attention of all kinds, as the newest device has it.
pub(crate) fn cases() -> Vec<Case> {
    wishes().into_iter().filter_map(|w| attend(w, HOPPER.0)).collect()
}

#[test]
fn attention_and_the_product_behind_it_agree_with_the_steps_that_they_replace() {
    on_each_target(&wishes(), 2, |&w, target| attend(w, target));
}
