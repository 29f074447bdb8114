//! Einsum: diagonals and transposes are views, products of two are batched matrix products.

use std::collections::BTreeMap;

use streampool_core::Error;
use streampool_core::op::{Binary, Layout, MatMul, Op, ReduceKind, Shape};

use super::{Operator, op, reduce};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("Einsum", 12, einsum)];

/// A label: a letter, or the n-th axis of the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// A tensor whose axes are labelled, each label once.
struct Term {
    view: View,
    labels: Vec<Label>,
}

fn wrong(equation: &str, why: &str) -> crate::lower::Stop {
    Error::invalid_model(format!("the equation '{equation}' {why}")).into()
}

fn parse(equation: &str, term: &str, rank: Option<usize>) -> LResult<Vec<Label>> {
    let letters = term.chars().filter(|c| c.is_ascii_alphabetic()).count();
    let dots = term.matches("...").count();
    if letters + 3 * dots != term.chars().count() || dots > 1 {
        return Err(wrong(equation, "has characters that are neither letters nor one '...'"));
    }
    let hidden = match rank {
        Some(rank) if dots == 0 && letters != rank => {
            return Err(wrong(equation, &format!("gives {letters} labels to a tensor of rank {rank}")));
        }
        Some(rank) => rank
            .checked_sub(letters)
            .ok_or_else(|| wrong(equation, &format!("gives {letters} labels to a tensor of rank {rank}")))?,
        None => 0,
    };
    let mut out = Vec::new();
    let mut rest = term;
    while let Some(c) = rest.chars().next() {
        if c == '.' {
            out.extend((0..hidden).rev().map(Label::Ellipsis));
            rest = &rest[3..];
        } else {
            out.push(Label::Letter(c));
            rest = &rest[1..];
        }
    }
    Ok(out)
}

fn einsum(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let equation: String = n.attrs.str("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let views = lo.inputs(n)?;
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l, Some(r)),
        None => (equation.as_str(), None),
    };
    let names: Vec<&str> = left.split(',').collect();
    if names.len() != views.len() || views.is_empty() {
        return Err(wrong(&equation, &format!("has {} terms for {} inputs", names.len(), views.len())));
    }
    let mut terms = Vec::new();
    let mut count: BTreeMap<Label, usize> = BTreeMap::new();
    let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
    for (name, view) in names.iter().zip(views) {
        let labels = parse(&equation, name, Some(view.rank()))?;
        for (&l, &d) in labels.iter().zip(view.shape().iter()) {
            *count.entry(l).or_default() += 1;
            let size = sizes.entry(l).or_insert(d);
            if *size == 1 {
                *size = d;
            } else if d != *size && d != 1 {
                return Err(wrong(&equation, &format!("gives one label to axes of lengths {size} and {d}")));
            }
        }
        terms.push(diagonal(view, labels));
    }
    let widest = count.keys().filter(|l| matches!(l, Label::Ellipsis(_))).count();
    let output: Vec<Label> = match right {
        Some(r) => {
            let letters = r.chars().filter(|c| c.is_ascii_alphabetic()).count();
            let rank = if r.contains("...") { letters + widest } else { letters };
            parse(&equation, r, Some(rank))?
        }
        None => (0..widest)
            .rev()
            .map(Label::Ellipsis)
            .chain(count.iter().filter(|(l, c)| matches!(l, Label::Letter(_)) && **c == 1).map(|(l, _)| *l))
            .collect(),
    };
    for (i, l) in output.iter().enumerate() {
        if !count.contains_key(l) || output[..i].contains(l) {
            return Err(wrong(&equation, "has an output label that is repeated or in no input"));
        }
    }
    let mut terms = terms.into_iter();
    let mut acc = terms.next().expect("there is at least one term");
    let rest: Vec<Term> = terms.collect();
    for i in 0..rest.len() {
        let later = |l: &Label| output.contains(l) || rest[i + 1..].iter().any(|t| t.labels.contains(l));
        acc = contract(lo, acc, &rest[i], &later)?;
    }
    let gone: Vec<usize> = (0..acc.labels.len()).filter(|&i| !output.contains(&acc.labels[i])).collect();
    acc = sum_out(lo, acc, &gone)?;
    let perm: Vec<usize> =
        output.iter().map(|l| acc.labels.iter().position(|x| x == l).expect("checked above")).collect();
    let y = lo.permute(&acc.view, &perm)?;
    // A label that is 1 in one term and longer in another broadcasts.
    let full: Shape = output.iter().map(|l| sizes[l]).collect();
    let y = lo.broadcast(&y, &full)?;
    lo.set(n, 0, y)
}

/// Repeated labels of one tensor walk its diagonal.
fn diagonal(view: View, labels: Vec<Label>) -> Term {
    let (mut dims, mut strides, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for (i, &l) in labels.iter().enumerate() {
        match out.iter().position(|&x| x == l) {
            Some(at) => strides[at] += view.layout.strides[i],
            None => {
                out.push(l);
                dims.push(view.shape()[i]);
                strides.push(view.layout.strides[i]);
            }
        }
    }
    let layout =
        Layout { shape: dims.into(), strides: strides.into_iter().collect(), offset: view.layout.offset };
    Term { view: view.with(layout), labels: out }
}

fn sum_out(lo: &mut Lower<'_>, t: Term, axes: &[usize]) -> LResult<Term> {
    if axes.is_empty() {
        return Ok(t);
    }
    let view = reduce::apply(lo, &t.view, ReduceKind::Sum, axes.to_vec(), false)?;
    let labels = t.labels.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, l)| *l).collect();
    Ok(Term { view, labels })
}

/// The product of two terms, summed over what neither the output nor a later term needs.
fn contract(lo: &mut Lower<'_>, a: Term, b: &Term, later: &dyn Fn(&Label) -> bool) -> LResult<Term> {
    // What only one of them has and nobody needs is summed first.
    let alone = |t: &Term, o: &Term| -> Vec<usize> {
        (0..t.labels.len()).filter(|&i| !o.labels.contains(&t.labels[i]) && !later(&t.labels[i])).collect()
    };
    let (alone_a, alone_b) = (alone(&a, b), alone(b, &a));
    let b = Term { view: b.view.clone(), labels: b.labels.clone() };
    let a = sum_out(lo, a, &alone_a)?;
    let b = sum_out(lo, b, &alone_b)?;
    let position = |t: &Term, l: &Label| t.labels.iter().position(|x| x == l);
    let len = |t: &Term, l: &Label| position(t, l).map_or(1, |i| t.view.shape()[i]);
    let shared: Vec<Label> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    let summed: Vec<Label> = shared.iter().copied().filter(|l| !later(l)).collect();
    let batch: Vec<Label> = shared.iter().copied().filter(|l| later(l)).collect();
    let rows: Vec<Label> = a.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    let cols: Vec<Label> = b.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    let uneven = shared.iter().any(|l| len(&a, l) != len(&b, l));
    let labels: Vec<Label> = batch.iter().chain(&rows).chain(&cols).copied().collect();
    if summed.is_empty() || uneven {
        // Plain products with broadcasting, then a sum.
        let all: Vec<Label> = labels.iter().chain(&summed).copied().collect();
        let spread = |lo: &mut Lower<'_>, t: &Term| -> LResult<View> {
            let have: Vec<usize> = all.iter().filter_map(|l| position(t, l)).collect();
            let v = lo.permute(&t.view, &have)?;
            let missing: Vec<usize> = (0..all.len()).filter(|&i| position(t, &all[i]).is_none()).collect();
            lo.unsqueeze(&v, &missing)
        };
        let (x, y) = (spread(lo, &a)?, spread(lo, &b)?);
        let product = lo.binary(Binary::Mul, &x, &y)?;
        let gone: Vec<usize> = (labels.len()..all.len()).collect();
        return sum_out(lo, Term { view: product, labels: all }, &gone);
    }
    let order = |t: &Term, groups: [&[Label]; 3]| -> Vec<usize> {
        groups.iter().flat_map(|g| g.iter()).filter_map(|l| position(t, l)).collect()
    };
    let product = |t: &Term, g: &[Label]| -> usize { g.iter().map(|l| len(t, l)).product() };
    let left = lo.permute(&a.view, &order(&a, [&batch, &rows, &summed]))?;
    let left = lo.reshape(&left, vec![product(&a, &batch), product(&a, &rows), product(&a, &summed)])?;
    let right = lo.permute(&b.view, &order(&b, [&batch, &summed, &cols]))?;
    let right = lo.reshape(&right, vec![product(&b, &batch), product(&b, &summed), product(&b, &cols)])?;
    let y = lo.emit1(Op::MatMul(MatMul::default()), &[left, right])?;
    let dims: Vec<usize> = batch
        .iter()
        .map(|l| len(&a, l))
        .chain(rows.iter().map(|l| len(&a, l)))
        .chain(cols.iter().map(|l| len(&b, l)))
        .collect();
    Ok(Term { view: lo.reshape(&y, dims)?, labels })
}
