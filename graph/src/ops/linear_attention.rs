//! LinearAttention: a recurrence over time on a (key, value) matrix per head, unrolled.

use streampool_core::Error;
use streampool_core::op::{DType, F32, MatMul, Op, Scalar, Shape, Unary};

use super::attention::{join_heads, repeat_heads, split_heads};
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("LinearAttention", 27, linear_attention)];

fn product(lo: &mut Lower<'_>, a: &View, b: &View, alpha: f32) -> LResult<View> {
    let op = MatMul { alpha: F32::new(alpha), ..MatMul::default() };
    lo.emit1(Op::MatMul(op), &[a.clone(), b.clone()])
}

fn linear_attention(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (q, k, v) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.input(n, 2)?);
    let heads = |name: &str| -> LResult<usize> {
        Ok(usize::try_from(n.attrs.required_int(name)?)
            .map_err(|_| Error::invalid_model(format!("{name} is negative")))?)
    };
    let (hq, hk) = (heads("q_num_heads")?, heads("kv_num_heads")?);
    if hk == 0 || !hq.is_multiple_of(hk) {
        return Err(Error::invalid_argument(format!("{hq} query heads do not share {hk} key heads")).into());
    }
    let rule = n.attrs.str("update_rule", "gated_delta")?;
    let (gated, delta) = match rule {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(Error::invalid_model(format!("update_rule '{other}' does not exist")).into()),
    };
    let wide = |lo: &mut Lower<'_>, v: &View, heads: usize| -> LResult<View> {
        let v = lo.cast(v, DType::F32)?;
        split_heads(lo, &v, heads)
    };
    let (q4, k4, v4) = (wide(lo, &q, hq)?, wide(lo, &k, hk)?, wide(lo, &v, hk)?);
    let (batch, steps, dk, dv) = (q4.shape()[0], q4.shape()[2], q4.shape()[3], v4.shape()[3]);
    if k4.shape()[..] != [batch, hk, steps, dk] || v4.shape()[..3] != [batch, hk, steps] {
        return Err(Error::invalid_argument(format!(
            "q {}, k {} and v {} do not fit",
            q.ty(),
            k.ty(),
            v.ty()
        ))
        .into());
    }
    // Per head, or per head and key column: the last axis says.
    let gate = |lo: &mut Lower<'_>, i: usize, name: &str| -> LResult<View> {
        let g = lo.input(n, i).map_err(|s| s.context(format!("{name} is needed for the rule {rule}")))?;
        let g = lo.cast(&g, DType::F32)?;
        match g.shape().last() {
            Some(1) => lo.unsqueeze(&g, &[1]),
            _ => split_heads(lo, &g, hk),
        }
    };
    let decay = if gated { Some(gate(lo, 4, "decay")?) } else { None };
    let beta = if delta { Some(gate(lo, 5, "beta")?) } else { None };
    let past = lo.optional(n, 3)?;
    let state_dtype = past.as_ref().map_or(q.dtype, |p| p.dtype);
    let mut state = match &past {
        Some(p) => lo.cast(p, DType::F32)?,
        None => lo.filled(Scalar::from_f64(DType::F32, 0.0), &Shape::new(&[batch, hk, dk, dv]))?,
    };
    let scale = match n.attrs.float("scale", 0.0)? {
        0.0 => 1.0 / (dk as f32).sqrt(),
        s => s,
    };
    let mut outputs = Vec::new();
    for t in 0..steps {
        lo.count_iteration()?;
        // (batch, heads, 1, size) at this moment.
        let now = |lo: &mut Lower<'_>, v: &View| lo.slice(v, 2, t, 1, 1);
        let (qt, kt, mut vt) = (now(lo, &q4), now(lo, &k4), now(lo, &v4));
        let column = lo.transpose_last(&kt)?;
        if let Some(decay) = &decay {
            let g = now(lo, decay);
            let g = lo.transpose_last(&g)?;
            let mut e = Expr::new();
            let (s, g) = (e.input(&state), e.input(&g));
            let g = e.un(Unary::Exp, g);
            e.mul(s, g);
            state = lo.map(e)?;
        }
        if let Some(beta) = &beta {
            let b = now(lo, beta);
            let known = product(lo, &kt, &state, 1.0)?;
            let mut e = Expr::new();
            let (v, r, b) = (e.input(&vt), e.input(&known), e.input(&b));
            let d = e.sub(v, r);
            e.mul(b, d);
            vt = lo.map(e)?;
        }
        let mut e = Expr::new();
        let (s, c, v) = (e.input(&state), e.input(&column), e.input(&vt));
        let outer = e.mul(c, v);
        e.add(s, outer);
        state = lo.map(e)?;
        let seen = repeat_heads(lo, &state, hq / hk)?;
        outputs.push(product(lo, &qt, &seen, scale)?);
    }
    let y = if outputs.is_empty() {
        lo.filled(Scalar::from_f64(q.dtype, 0.0), &Shape::new(&[batch, 0, hq * dv]))?
    } else {
        let y = lo.concat(&outputs, 2)?;
        let y = lo.cast(&y, q.dtype)?;
        join_heads(lo, &y)?
    };
    lo.set(n, 0, y)?;
    let state = lo.cast(&state, state_dtype)?;
    lo.set(n, 1, state)
}
