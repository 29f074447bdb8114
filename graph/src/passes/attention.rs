//! Attention from its parts: product, scale, mask, softmax, product; and the transpose of heads that follows.

use streampool_core::op::{Attention, Binary, DType, F32, Instr, Op, Unary};

use super::code::{Arg, as_binary};
use crate::lower::{LNode, Lir, Uses, View};

/// Rewrites every decomposed attention; gives one line for each.
pub(super) fn run(lir: &mut Lir) -> Vec<String> {
    let mut report = Vec::new();
    // Each rewrite takes away nodes that nothing else reads, so what is known of the others stays true.
    let uses = Uses::of(lir);
    for at in 0..lir.nodes.len() {
        if !matches!(lir.nodes[at].as_ref().map(|n| &n.op), Some(Op::Softmax(_))) {
            continue;
        }
        if let Some(line) = one(lir, &uses, at) {
            report.push(line);
        }
    }
    report
}

/// A product that does nothing else.
fn plain(node: &LNode) -> Option<f32> {
    match &node.op {
        Op::MatMul(m) if !m.bias && !m.residual && m.activation.is_none() => Some(m.alpha.get()),
        _ => None,
    }
}

/// The scores before scale and mask, the scale, and the mask.
fn scores(lir: &Lir, uses: &Uses, v: &View, reader: usize) -> Option<(usize, f32, Option<View>, Vec<usize>)> {
    if uses.only_reader(v.buf) != Some(reader) || !lir.is_whole(v) {
        return None;
    }
    let from = uses.writer[v.buf as usize]?;
    let node = lir.nodes[from].as_ref()?;
    if plain(node).is_some() {
        return (node.outputs[0].shape() == v.shape()).then_some((from, 1.0, None, Vec::new()));
    }
    let Op::Map(map) = &node.op else { return None };
    // The operand that a product makes for this map alone.
    let (slot, product) = node.inputs.iter().enumerate().find_map(|(i, x)| {
        let p = uses.writer[x.buf as usize]?;
        let n = lir.nodes[p].as_ref()?;
        let fits = plain(n).is_some()
            && uses.only_reader(x.buf) == Some(from)
            && x == &n.outputs[0]
            && x.shape() == v.shape();
        fits.then_some((i, p))
    })?;
    let mut r = map.code.iter().position(|c| *c == Instr::Input(slot as u8))?;
    let (mut scale, mut mask) = (1.0f64, None);
    while r + 1 < map.code.len() {
        let mut readers =
            map.code.iter().enumerate().filter(|(_, c)| super::code::reads(c).contains(&(r as u16)));
        let (at, instr) = readers.next()?;
        if readers.next().is_some() {
            return None;
        }
        let Instr::Binary(f, a, b) = *instr else { return None };
        let other = &map.code[usize::from(if usize::from(a) == r { b } else { a })];
        match (f, other) {
            (Binary::Mul, Instr::Const(c)) if mask.is_none() => scale *= c.to_f64(),
            (Binary::Div, Instr::Const(c)) if mask.is_none() && usize::from(a) == r => scale /= c.to_f64(),
            (Binary::Add, Instr::Input(n)) if mask.is_none() && a != b => {
                mask = Some(node.inputs[*n as usize].clone())
            }
            _ => return None,
        }
        r = at;
    }
    Some((product, scale as f32, mask, vec![from]))
}

/// Takes off a scale that an operand was multiplied with.
fn peel(lir: &Lir, uses: &Uses, v: &View, reader: usize) -> (View, f32, Option<usize>) {
    let plain = (v.clone(), 1.0, None);
    if uses.only_reader(v.buf) != Some(reader) || !lir.is_whole(v) {
        return plain;
    }
    let Some(from) = uses.writer[v.buf as usize] else { return plain };
    let Some(node) = lir.nodes[from].as_ref() else { return plain };
    if node.outputs[0] != *v {
        return plain;
    }
    match as_binary(node) {
        Some((Binary::Mul, Arg::View(x), c)) | Some((Binary::Mul, c, Arg::View(x)))
            if c.number().is_some() && x.shape() == v.shape() =>
        {
            (x, c.number().unwrap_or(1.0) as f32, Some(from))
        }
        Some((Binary::Div, Arg::View(x), c)) if c.number().is_some() && x.shape() == v.shape() => {
            (x, (1.0 / c.number().unwrap_or(1.0)) as f32, Some(from))
        }
        _ => plain,
    }
}

/// (heads, s, d) as (1, heads, s, d); four axes stay.
fn four(v: &View) -> Option<View> {
    match v.rank() {
        4 => Some(v.clone()),
        3 => {
            let mut layout = v.layout.clone();
            layout.shape = std::iter::once(1).chain(v.shape().iter().copied()).collect();
            layout.strides.insert(0, 0);
            Some(v.with(layout))
        }
        _ => None,
    }
}

fn unit_last(v: &View) -> bool {
    v.layout.strides.last() == Some(&1) || v.shape().last() == Some(&1)
}

fn one(lir: &mut Lir, uses: &Uses, at: usize) -> Option<String> {
    let softmax = lir.nodes[at].as_ref()?;
    let Op::Softmax(s) = &softmax.op else { return None };
    let x = &softmax.inputs[0];
    if s.log || s.axes != 1 || s.axis + 1 != x.rank() {
        return None;
    }
    if !matches!(x.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    let (product, scale, mask, mut gone) = scores(lir, uses, x, at)?;
    // The second product, perhaps behind a guard against rows without any key.
    let mut p = softmax.outputs[0].clone();
    let mut reader = uses.only_reader(p.buf)?;
    if is_guard(lir.nodes[reader].as_ref()?, &p) {
        gone.push(reader);
        p = lir.nodes[reader].as_ref()?.outputs[0].clone();
        reader = uses.only_reader(p.buf)?;
    }
    let second = lir.nodes[reader].as_ref()?;
    let alpha = plain(second)?;
    if second.inputs[0] != p || second.inputs[1].buf == p.buf || alpha != 1.0 {
        return None;
    }
    let first = lir.nodes[product].as_ref()?;
    let mut scale = scale * plain(first)?;
    let (q, sq, dq) = peel(lir, uses, &first.inputs[0], product);
    let (kt, sk, dk) = peel(lir, uses, &first.inputs[1], product);
    scale *= sq * sk;
    let (q, kt, v) = (four(&q)?, four(&kt)?, four(&second.inputs[1])?);
    let k = kt.with(kt.layout.permute(&[0, 1, 3, 2]));
    if ![&q, &k, &v].into_iter().all(unit_last) {
        return None;
    }
    let mask = match mask {
        Some(m) if m.dtype != q.dtype => return None,
        Some(m) if m.rank() == 3 => Some(four(&m)?),
        other => other,
    };
    let op = Attention { scale: F32::new(scale), causal: false, mask: mask.is_some(), merge_heads: false };
    let inputs: Vec<View> = [Some(q), Some(k), Some(v), mask].into_iter().flatten().collect();
    let types: Vec<_> = inputs.iter().map(View::ty).collect();
    let result = Op::Attention(op.clone()).infer(&types).ok()?.pop()?;
    if result.shape.len() != second.outputs[0].shape().len() {
        return None;
    }
    gone.extend([dq, dk].into_iter().flatten());
    gone.extend([product, at]);
    let name = second.name.clone();
    let out = second.outputs[0].clone();
    let out = out.with(out.layout.reshape(&result.shape)?);
    lir.nodes[reader] = Some(LNode { name: name.clone(), op: Op::Attention(op), inputs, outputs: vec![out] });
    for g in gone {
        lir.nodes[g] = None;
    }
    merge_heads(lir, uses, reader);
    Some(format!("{name}: Attention from its parts"))
}

/// `where(isnan(p), 0, p)`.
fn is_guard(node: &LNode, p: &View) -> bool {
    let Op::Map(map) = &node.op else { return false };
    let [input] = node.inputs.as_slice() else { return false };
    let Some(Instr::Select(c, a, b)) = map.code.last() else { return false };
    input == p
        && node.outputs[0].shape() == p.shape()
        && matches!(map.code[*c as usize], Instr::Unary(Unary::IsNan, r) if matches!(map.code[r as usize], Instr::Input(0)))
        && matches!(map.code[*a as usize], Instr::Const(s) if s.to_f64() == 0.0)
        && matches!(map.code[*b as usize], Instr::Input(0))
}

/// A copy that puts the heads beside each other becomes the attention's own order of writing.
fn merge_heads(lir: &mut Lir, uses: &Uses, at: usize) {
    let Some(node) = lir.nodes[at].as_ref() else { return };
    let out = &node.outputs[0];
    let Some(next) = uses.only_reader(out.buf) else { return };
    let Some(copy) = lir.nodes[next].as_ref() else { return };
    if !matches!(copy.op, Op::Copy(_)) || !lir.is_whole(&copy.outputs[0]) || out.rank() != 4 {
        return;
    }
    // The copy reads (b, s, h, e); with one batch, three axes (s, h, e) are the same.
    let merged = out.layout.permute(&[0, 2, 1, 3]);
    let read = &copy.inputs[0].layout;
    let drop_first = || {
        let mut l = merged.clone();
        l.shape = l.shape[1..].iter().copied().collect();
        l.strides.remove(0);
        l
    };
    if *read != merged && !(merged.shape[0] == 1 && *read == drop_first()) {
        return;
    }
    let target = copy.outputs[0].clone();
    let Some(layout) = target.layout.reshape(&merged.shape) else { return };
    let mut node = lir.nodes[at].take().expect("it is there");
    if let Op::Attention(a) = &mut node.op {
        a.merge_heads = true;
    }
    node.outputs = vec![target.with(layout)];
    lir.nodes[next] = Some(node);
}
