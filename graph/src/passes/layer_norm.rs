//! Layer and RMS normalisation from their parts, as exporters write them: mean, difference, mean of squares, root, quotient, scale, bias.

use streampool_core::op::{Binary, F32, LayerNorm, Op, ReduceKind, Unary};

use super::code::{Arg, as_binary, as_unary};
use crate::lower::{LNode, Lir, Uses, View};

/// What was found around one quotient.
struct Found {
    x: View,
    axis: usize,
    epsilon: f64,
    rms: bool,
}

/// Rewrites every decomposed normalisation; gives one line for each.
pub(super) fn run(lir: &mut Lir) -> Vec<String> {
    let mut report = Vec::new();
    let uses = Uses::of(lir);
    for at in 0..lir.nodes.len() {
        let Some(node) = lir.nodes[at].as_ref() else { continue };
        let Some(found) = quotient(lir, &uses, node) else { continue };
        let shape = found.x.shape().clone();
        let inner = streampool_core::op::Shape::new(&shape[found.axis..]);
        // A scale and a bias that follow, as long as nothing else reads in between.
        let mut last = at;
        let mut operands = vec![found.x.clone()];
        let mut flags = [false; 2];
        for (flag, wanted) in [(0, Binary::Mul), (1, Binary::Add)] {
            let out = &lir.nodes[last].as_ref().expect("it is there").outputs[0];
            let Some(next) = uses.only_reader(out.buf) else { break };
            let Some((f, a, b)) = lir.nodes[next].as_ref().and_then(as_binary) else { break };
            let other = match (&a, &b) {
                (Arg::View(v), Arg::View(w)) if v == out => w,
                (Arg::View(w), Arg::View(v)) if v == out => w,
                _ => break,
            };
            let fits = other.shape().broadcast(&inner).is_ok_and(|s| s == inner)
                && other.layout.is_contiguous()
                && other.dtype == found.x.dtype
                && lir.nodes[next].as_ref().is_some_and(|n| n.outputs[0].shape() == &shape);
            if f != wanted || !fits {
                if flag == 0 && f == Binary::Add {
                    continue;
                }
                break;
            }
            operands.push(other.clone());
            flags[flag] = true;
            last = next;
        }
        let end = lir.nodes[last].take().expect("it is there");
        report.push(format!(
            "{}: {} from its parts",
            end.name,
            if found.rms { "RMSNorm" } else { "LayerNorm" }
        ));
        lir.nodes[last] = Some(LNode {
            op: Op::LayerNorm(LayerNorm {
                axis: found.axis,
                epsilon: F32::new(found.epsilon as f32),
                rms: found.rms,
                scale: flags[0],
                bias: flags[1],
                residual: false,
            }),
            inputs: operands,
            ..end
        });
    }
    report
}

fn producer<'a>(lir: &'a Lir, uses: &Uses, v: &View) -> Option<&'a LNode> {
    let node = lir.nodes[uses.writer[v.buf as usize]?].as_ref()?;
    (node.outputs.len() == 1 && node.outputs[0] == *v).then_some(node)
}

/// `d / sqrt(mean(d * d) + eps)`, with `d` a difference from the mean or not.
fn quotient(lir: &Lir, uses: &Uses, node: &LNode) -> Option<Found> {
    let (f, a, b) = as_binary(node)?;
    let (d, variance) = match f {
        Binary::Div => {
            let root = producer(lir, uses, b.view()?)?;
            (a.view()?.clone(), square_root(root)?)
        }
        Binary::Mul => match (inverse_root(lir, uses, &b), inverse_root(lir, uses, &a)) {
            (Some(v), _) => (a.view()?.clone(), v),
            (_, Some(v)) => (b.view()?.clone(), v),
            _ => return None,
        },
        _ => return None,
    };
    if node.outputs[0].shape() != d.shape() || !d.layout.is_contiguous() || !d.dtype.is_float() {
        return None;
    }
    let (f, a, b) = as_binary(producer(lir, uses, &variance)?)?;
    let (mean, epsilon) = match (f, &a, &b) {
        (Binary::Add, Arg::View(v), c) | (Binary::Add, c, Arg::View(v)) if c.number().is_some() => {
            (v, c.number()?)
        }
        _ => return None,
    };
    let (squares, axis) = trailing_mean(producer(lir, uses, mean)?)?;
    let square = producer(lir, uses, &squares)?;
    let (f, a, b) = as_binary(square)?;
    let of = match f {
        Binary::Mul if a == b => a.view()?.clone(),
        Binary::Pow if b.number() == Some(2.0) => a.view()?.clone(),
        _ => return None,
    };
    if of != d {
        return None;
    }
    let centred = producer(lir, uses, &d).and_then(|n| {
        let (f, a, b) = as_binary(n)?;
        let (x, m) = (a.view()?, b.view()?);
        let (mean_of, at) = trailing_mean(producer(lir, uses, m)?)?;
        (f == Binary::Sub
            && mean_of == *x
            && at == axis
            && x.layout.is_contiguous()
            && x.shape() == d.shape())
        .then(|| x.clone())
    });
    Some(match centred {
        Some(x) => Found { x, axis, epsilon, rms: false },
        None => Found { x: d, axis, epsilon, rms: true },
    })
}

fn square_root(node: &LNode) -> Option<View> {
    match as_unary(node) {
        Some((Unary::Sqrt, v)) => Some(v),
        _ => match as_binary(node)? {
            (Binary::Pow, Arg::View(v), p) if p.number() == Some(0.5) => Some(v),
            _ => None,
        },
    }
}

fn inverse_root(lir: &Lir, uses: &Uses, arg: &Arg) -> Option<View> {
    let node = producer(lir, uses, arg.view()?)?;
    match as_unary(node) {
        Some((Unary::Rsqrt, v)) => return Some(v),
        Some((Unary::Reciprocal, v)) => return square_root(producer(lir, uses, &v)?),
        _ => {}
    }
    match as_binary(node)? {
        (Binary::Div, one, Arg::View(v)) if one.number() == Some(1.0) => {
            square_root(producer(lir, uses, &v)?)
        }
        (Binary::Pow, Arg::View(v), p) if p.number() == Some(-0.5) => Some(v),
        _ => None,
    }
}

/// The operand of a mean over the last axes that keeps them, and the first of these.
fn trailing_mean(node: &LNode) -> Option<(View, usize)> {
    let Op::Reduce(r) = &node.op else { return None };
    let first = *r.axes.first()?;
    let rank = node.inputs[0].rank();
    let trailing = r.axes.iter().copied().eq(first..rank);
    (r.kind == ReduceKind::Mean && r.keep_dims && trailing).then(|| (node.inputs[0].clone(), first))
}

/// A sum that only a normalisation reads becomes its residual.
pub(super) fn residual(lir: &mut Lir) -> usize {
    let uses = Uses::of(lir);
    let mut count = 0;
    for at in 0..lir.nodes.len() {
        let Some(node) = lir.nodes[at].as_ref() else { continue };
        let Op::LayerNorm(norm) = &node.op else { continue };
        let x = &node.inputs[0];
        if norm.residual
            || uses.only_reader(x.buf) != Some(at)
            || node.inputs[1..].iter().any(|v| v.buf == x.buf)
        {
            continue;
        }
        let Some(from) = uses.writer[x.buf as usize] else { continue };
        let Some((Binary::Add, Arg::View(a), Arg::View(b))) = lir.nodes[from].as_ref().and_then(as_binary)
        else {
            continue;
        };
        let fits = |v: &View| v.layout.is_contiguous() && v.shape().len() == x.shape().len();
        if !lir.is_whole(x) || !fits(&a) || !fits(&b) || a.dtype != x.dtype {
            continue;
        }
        let shaped = |v: &View| v.layout.reshape(x.shape()).map(|l| v.with(l));
        let (Some(a), Some(b)) = (shaped(&a), shaped(&b)) else { continue };
        let mut node = lir.nodes[at].take().expect("it is there");
        if let Op::LayerNorm(norm) = &mut node.op {
            norm.residual = true;
        }
        node.inputs[0] = a;
        node.inputs.push(b);
        lir.nodes[at] = Some(node);
        lir.nodes[from] = None;
        count += 1;
    }
    count
}
