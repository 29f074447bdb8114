//! Scale, bias, residual and activation into the product or convolution before them.

use std::collections::HashMap;

use streampool_core::Result;
use streampool_core::op::{Activation, Binary, F32, Instr, Op, Reg, Shape, Unary};

use super::code;
use crate::lower::{LNode, Lower, Source, Stop, Uses, View};

/// What one product takes in.
struct Absorbed {
    node: LNode,
    /// Register of the map whose value the product now gives.
    result: Reg,
    parts: Vec<&'static str>,
}

/// Absorbs what follows each product and convolution; gives one line for each.
pub(super) fn run(lower: &mut Lower<'_>) -> Result<Vec<String>> {
    let mut report = Vec::new();
    let uses = Uses::of(&lower.lir);
    let old = std::mem::take(&mut lower.lir.nodes);
    let mut out: Vec<Option<LNode>> = Vec::with_capacity(old.len() + 16);
    let mut writer: HashMap<u32, usize> = HashMap::new();
    for (at, node) in old.into_iter().enumerate() {
        let Some(mut node) = node else { continue };
        if matches!(node.op, Op::Map(_)) {
            let source = node.inputs.iter().enumerate().find_map(|(slot, v)| {
                let from = *writer.get(&v.buf)?;
                let known = uses.readers.get(v.buf as usize).is_some() && uses.only_reader(v.buf) == Some(at);
                let product = matches!(out[from].as_ref()?.op, Op::MatMul(_) | Op::Conv(_));
                (known && product).then_some((slot, from))
            });
            if let Some((slot, from)) = source
                && let Some(a) = absorb(lower, &node, slot, out[from].as_ref().expect("checked above"))?
            {
                report.push(format!("{}: {} into {}", a.node.name, a.parts.join(", "), a.node.op.name()));
                out[from] = None;
                node = match rest(lower, node, a, &mut out, &mut writer) {
                    Some(rest) => rest,
                    None => continue,
                };
            }
        }
        for o in &node.outputs {
            writer.insert(o.buf, out.len());
        }
        out.push(Some(node));
    }
    lower.lir.nodes = out;
    Ok(report)
}

/// Puts the product that took something in where the map was; gives what is left of the map.
fn rest(
    lower: &mut Lower<'_>,
    map: LNode,
    a: Absorbed,
    out: &mut Vec<Option<LNode>>,
    writer: &mut HashMap<u32, usize>,
) -> Option<LNode> {
    let Op::Map(code) = &map.op else { return Some(map) };
    let mut product = a.node;
    let shape = product.outputs[0].shape().clone();
    let whole = a.result as usize + 1 == code.code.len();
    let target = if whole {
        map.outputs[0].clone()
    } else {
        let mut ty = map.outputs[0].ty();
        ty.dtype = product.outputs[0].dtype;
        lower.lir.add_buf(ty, Source::Nodes)
    };
    let layout = target.layout.reshape(&shape).expect("a whole buffer takes any shape of its length");
    product.outputs = vec![target.with(layout)];
    writer.insert(target.buf, out.len());
    out.push(Some(product));
    if whole {
        return None;
    }
    let mut inputs = map.inputs.clone();
    inputs.push(target);
    let mut instrs = code.code.clone();
    instrs[a.result as usize] = Instr::Input((inputs.len() - 1) as u8);
    let (instrs, inputs) = code::clean(&instrs, &inputs);
    Some(LNode { op: Op::Map(streampool_core::op::Map { code: instrs }), inputs, ..map })
}

/// The one instruction that reads a register.
fn reader(code: &[Instr], r: Reg) -> Option<usize> {
    let mut readers = code.iter().enumerate().filter(|(_, c)| code::reads(c).contains(&r));
    let first = readers.next()?.0;
    readers.next().is_none().then_some(first)
}

fn absorb(lower: &mut Lower<'_>, map: &LNode, slot: usize, product: &LNode) -> Result<Option<Absorbed>> {
    let Op::Map(m) = &map.op else { return Ok(None) };
    let v = &map.inputs[slot];
    let shape = map.outputs[0].shape();
    // The map goes element for element over all of the product.
    if !lower.lir.is_whole(v)
        || v.shape() != shape
        || v.dtype != product.outputs[0].dtype
        || !v.dtype.is_float()
    {
        return Ok(None);
    }
    let activated = match &product.op {
        Op::MatMul(p) => p.activation.is_some(),
        Op::Conv(p) => p.activation.is_some(),
        _ => true,
    };
    let Some(start) = m.code.iter().position(|c| *c == Instr::Input(slot as u8)) else { return Ok(None) };
    if activated {
        return Ok(None);
    }
    let mut node = LNode {
        name: product.name.clone(),
        op: product.op.clone(),
        inputs: product.inputs.clone(),
        outputs: product.outputs.clone(),
    };
    let mut r = start as Reg;
    let mut parts = Vec::new();
    loop {
        if let Some((activation, at)) = activation(&m.code, r) {
            match &mut node.op {
                Op::MatMul(p) => p.activation = Some(activation),
                Op::Conv(p) => p.activation = Some(activation),
                _ => {}
            }
            parts.push("activation");
            r = at;
            break;
        }
        let Some(at) = reader(&m.code, r) else { break };
        let Instr::Binary(f, a, b) = m.code[at] else { break };
        if a == b {
            break;
        }
        let (other, left) = if a == r { (&m.code[b as usize], true) } else { (&m.code[a as usize], false) };
        let part = match (f, other) {
            (Binary::Mul, Instr::Const(c)) => scale(&mut node, c.to_f64()),
            (Binary::Div, Instr::Const(c)) if left => scale(&mut node, 1.0 / c.to_f64()),
            (Binary::Mul, Instr::Input(n)) => scale_channels(lower, &mut node, &map.inputs[*n as usize])?,
            (Binary::Add, Instr::Input(n)) => add(lower, &mut node, &map.inputs[*n as usize], shape)?,
            _ => None,
        };
        let Some(part) = part else { break };
        parts.push(part);
        r = at as Reg;
    }
    Ok((!parts.is_empty()).then_some(Absorbed { node, result: r, parts }))
}

/// A number times the product.
fn scale(node: &mut LNode, c: f64) -> Option<&'static str> {
    match &mut node.op {
        Op::MatMul(p) if !p.bias && !p.residual && c.is_finite() => {
            p.alpha = F32::new((f64::from(p.alpha.get()) * c) as f32);
            Some("scale")
        }
        _ => None,
    }
}

/// A factor per output channel of a convolution with constant weights goes into the weights: a batch norm's scale.
fn scale_channels(lower: &mut Lower<'_>, node: &mut LNode, factor: &View) -> Result<Option<&'static str>> {
    let Op::Conv(conv) = &node.op else { return Ok(None) };
    let weight = node.inputs[1].clone();
    let known = |v: &View| lower.is_known(v);
    if conv.residual || !known(&weight) || !known(factor) || (conv.bias && !known(&node.inputs[2])) {
        return Ok(None);
    }
    let (bias, channels) = (conv.bias, weight.shape()[0]);
    let Some(per_channel) = channel_vector(factor, node.outputs[0].rank(), channels) else { return Ok(None) };
    let mut column = vec![1; weight.rank()];
    column[0] = channels;
    let folded = (|| {
        let column = lower.reshape(&per_channel, column)?;
        let scaled = lower.binary(Binary::Mul, &weight, &column)?;
        let bias = if bias { Some(lower.binary(Binary::Mul, &node.inputs[2], &per_channel)?) } else { None };
        Ok::<_, Stop>((scaled, bias))
    })();
    match folded {
        Ok((scaled, bias)) => {
            node.inputs[1] = scaled;
            if let Some(b) = bias {
                node.inputs[2] = b;
            }
            Ok(Some("scale per channel"))
        }
        Err(Stop::Error(e)) => Err(e),
        Err(Stop::Need(_)) => Ok(None),
    }
}

/// A view that varies along the channel axis only, as a vector.
fn channel_vector(v: &View, rank: usize, channels: usize) -> Option<View> {
    let axis = (v.rank() + 1).checked_sub(rank)?;
    let only = v.shape().iter().enumerate().all(|(i, &d)| if i == axis { d == channels } else { d == 1 });
    (axis < v.rank() && only && v.layout.is_contiguous())
        .then(|| v.layout.reshape(&Shape::new(&[channels])).map(|l| v.with(l)))?
}

/// A tensor added to the product: a bias if it is one (a second constant one joins the first), else a residual if it has the product's
/// shape.
fn add(lower: &mut Lower<'_>, node: &mut LNode, v: &View, shape: &Shape) -> Result<Option<&'static str>> {
    let out = node.outputs[0].clone();
    if v.dtype != out.dtype || !v.layout.is_contiguous() || v.buf == out.buf {
        return Ok(None);
    }
    let last = shape.last().copied().unwrap_or(1);
    let (vector, biased, residual) = match &node.op {
        Op::MatMul(p) => {
            let row = v.shape().len() == last
                && v.shape().last() == Some(&last)
                && out.shape().last() == Some(&last);
            let vector = if row { v.layout.reshape(&Shape::new(&[last])).map(|l| v.with(l)) } else { None };
            (vector, p.bias, p.residual)
        }
        Op::Conv(p) => (channel_vector(v, out.rank(), out.shape()[1]), p.bias, p.residual),
        _ => return Ok(None),
    };
    if let Some(vector) = vector {
        if !biased {
            match &mut node.op {
                Op::MatMul(p) => p.bias = true,
                Op::Conv(p) => p.bias = true,
                _ => {}
            }
            node.inputs.insert(2, vector);
            return Ok(Some("bias"));
        }
        if lower.is_known(&vector)
            && lower.is_known(&node.inputs[2])
            && node.inputs[2].shape() == vector.shape()
        {
            return match lower.binary(Binary::Add, &node.inputs[2], &vector) {
                Ok(sum) => {
                    node.inputs[2] = sum;
                    Ok(Some("bias"))
                }
                Err(Stop::Error(e)) => Err(e),
                Err(Stop::Need(_)) => Ok(None),
            };
        }
    }
    if residual || v.shape() != shape {
        return Ok(None);
    }
    let Some(layout) = v.layout.reshape(out.shape()) else { return Ok(None) };
    match &mut node.op {
        Op::MatMul(p) => p.residual = true,
        Op::Conv(p) => p.residual = true,
        _ => {}
    }
    node.inputs.push(v.with(layout));
    Ok(Some("residual"))
}

/// The activation applied to register `r`, and the register that holds its result, if nothing else reads `r`.
fn activation(code: &[Instr], r: Reg) -> Option<(Activation, Reg)> {
    if let Some(at) = reader(code, r) {
        let constant = |x: Reg| match code[x as usize] {
            Instr::Const(s) => Some(s.to_f64() as f32),
            _ => None,
        };
        match code[at] {
            Instr::Unary(f, _) => {
                let activation = match f {
                    Unary::Relu => Activation::Relu,
                    Unary::Sigmoid => Activation::Sigmoid,
                    Unary::Tanh => Activation::Tanh,
                    Unary::Gelu => Activation::Gelu,
                    Unary::GeluTanh => Activation::GeluTanh,
                    Unary::Silu => Activation::Silu,
                    _ => return None,
                };
                // A relu below a minimum is a clip.
                if activation == Activation::Relu
                    && let Some(next) = reader(code, at as Reg)
                    && let Instr::Binary(Binary::Min, a, b) = code[next]
                    && let Some(high) = constant(if usize::from(a) == at { b } else { a })
                {
                    return Some((Activation::Clip(F32::new(0.0), F32::new(high)), next as Reg));
                }
                return Some((activation, at as Reg));
            }
            Instr::Binary(Binary::Max, a, b) => {
                let low = constant(if a == r { b } else { a })?;
                let next = reader(code, at as Reg)?;
                let Instr::Binary(Binary::Min, a, b) = code[next] else { return None };
                let high = constant(if usize::from(a) == at { b } else { a })?;
                return (low <= high)
                    .then_some((Activation::Clip(F32::new(low), F32::new(high)), next as Reg));
            }
            _ => return None,
        }
    }
    // `select(x < 0, x * slope, x)`: the operand is read three times.
    let reads: Vec<usize> = (0..code.len()).filter(|&i| code::reads(&code[i]).contains(&r)).collect();
    let [.., end] = reads[..] else { return None };
    let Instr::Select(c, s, x) = code[end] else { return None };
    if x != r || reads.len() != 3 {
        return None;
    }
    let constant = |x: Reg| match code[x as usize] {
        Instr::Const(s) => Some(s.to_f64() as f32),
        _ => None,
    };
    let Instr::Binary(Binary::Lt, a, zero) = code[c as usize] else { return None };
    let Instr::Binary(Binary::Mul, b, slope) = code[s as usize] else { return None };
    (a == r && b == r && constant(zero) == Some(0.0))
        .then(|| constant(slope).map(|k| (Activation::LeakyRelu(F32::new(k)), end as Reg)))?
}
