//! Checks a plan against the promises that drivers rely on: operands inside their places, everything written before it is read, nothing
//! overwritten while it is still wanted, outputs overlapping no input but in place.

use std::collections::BTreeMap;

use streampool_core::op::{Op, Operand, Place};
use streampool_core::{Error, Result};

use super::Plan;

/// Which buffer wrote each byte of one place last: start -> (end, buffer).
#[derive(Default)]
struct Written(BTreeMap<usize, (usize, u32)>);

impl Written {
    fn write(&mut self, from: usize, to: usize, buf: u32) {
        if from >= to {
            return;
        }
        let touched: Vec<(usize, (usize, u32))> =
            self.0.range(..to).rev().take_while(|(_, v)| v.0 > from).map(|(k, v)| (*k, *v)).collect();
        for (start, (end, old)) in touched {
            self.0.remove(&start);
            if start < from {
                self.0.insert(start, (from, old));
            }
            if end > to {
                self.0.insert(to, (end, old));
            }
        }
        self.0.insert(from, (to, buf));
    }

    /// Whether all of the range was written last by `buf`.
    fn holds(&self, from: usize, to: usize, buf: u32) -> bool {
        let mut at = from;
        while at < to {
            match self.0.range(..=at).next_back() {
                Some((_, &(end, b))) if end > at && b == buf => at = end,
                _ => return false,
            }
        }
        true
    }
}

/// First and one past the last byte that an operand may touch.
fn hull(o: &Operand) -> Option<(usize, usize)> {
    if o.layout.shape.is_empty() {
        return None;
    }
    let size = o.dtype.size();
    let back: isize =
        o.layout.shape.iter().zip(&o.layout.strides).map(|(&d, &s)| (d as isize - 1) * s.min(0)).sum();
    let low = usize::try_from(o.layout.offset as isize + back).ok()?;
    Some((low * size, o.layout.end() * size))
}

impl Plan {
    /// Verifies the plan; every plan is verified when it is made in builds with debug assertions.
    ///
    /// # Errors
    /// `is_internal`, naming the step and what is wrong with it.
    pub fn check(&self) -> Result<()> {
        let mut arena = Written::default();
        let mut outputs: Vec<Written> = self.program.outputs.iter().map(|_| Written::default()).collect();
        for (step, trace) in self.program.steps.iter().zip(&self.trace) {
            let wrong = |why: String| {
                Error::internal(format!(
                    "plan '{}', step '{}' ({}): {why}",
                    self.program.name,
                    step.name,
                    step.op.name()
                ))
            };
            let types: Vec<_> = step.inputs.iter().map(Operand::ty).collect();
            let results = step.op.infer(&types).map_err(|e| wrong(e.to_string()))?;
            if results != step.outputs.iter().map(Operand::ty).collect::<Vec<_>>() {
                return Err(wrong("its outputs have other types than it gives".into()));
            }
            for (i, o) in step.inputs.iter().enumerate() {
                self.bounds(o).map_err(&wrong)?;
                if !step.op.takes_strided_input(i) && !o.layout.is_contiguous() {
                    return Err(wrong(format!("input {i} is strided")));
                }
                let Some((from, to)) = hull(o) else { continue };
                let buf = trace.inputs[i];
                let held = match o.place {
                    Place::Arena(at) => arena.holds(at + from, at + to, buf),
                    Place::Output(n) => outputs[n as usize].holds(from, to, buf),
                    Place::Input(_) | Place::Constant(_) => true,
                };
                if !held {
                    return Err(wrong(format!("input {i} reads bytes that do not hold its buffer ({buf})")));
                }
            }
            for (i, o) in step.outputs.iter().enumerate() {
                self.bounds(o).map_err(&wrong)?;
                if !matches!(step.op, Op::Copy(_) | Op::Fill(_)) && !o.layout.is_contiguous() {
                    return Err(wrong(format!("output {i} is strided")));
                }
                if let Place::Input(_) | Place::Constant(_) = o.place {
                    return Err(wrong(format!("output {i} is in read-only memory")));
                }
                let others = step.outputs.iter().skip(i + 1).any(|p| clash(o, p));
                let inputs = step.inputs.iter().enumerate().any(|(j, p)| {
                    // In place: the very same elements, one for one.
                    let same = p.place == o.place
                        && p.layout.offset * p.dtype.size() == o.layout.offset * o.dtype.size()
                        && p.layout.is_contiguous()
                        && p.layout.shape.len() == o.layout.shape.len()
                        && p.dtype.size() == o.dtype.size();
                    clash(o, p) && !(i == 0 && same && step.op.in_place(j))
                });
                if others || inputs {
                    return Err(wrong(format!("output {i} overlaps another operand")));
                }
            }
            for (o, &buf) in step.outputs.iter().zip(&trace.outputs) {
                let Some((from, to)) = hull(o) else { continue };
                match o.place {
                    Place::Arena(at) => arena.write(at + from, at + to, buf),
                    Place::Output(n) => outputs[n as usize].write(from, to, buf),
                    Place::Input(_) | Place::Constant(_) => {}
                }
            }
        }
        for (n, ((port, written), &buf)) in
            self.program.outputs.iter().zip(&outputs).zip(&self.results).enumerate()
        {
            if !written.holds(0, port.bytes, buf) {
                return Err(Error::internal(format!(
                    "plan '{}': output {n} does not hold its result in full",
                    self.program.name
                )));
            }
        }
        Ok(())
    }

    fn bounds(&self, o: &Operand) -> Result<(), String> {
        let space = match o.place {
            Place::Input(n) => self.program.inputs.get(n as usize).map(|p| p.bytes),
            Place::Output(n) => self.program.outputs.get(n as usize).map(|p| p.bytes),
            Place::Constant(n) => self.program.constants.get(n as usize).map(|c| c.data().len()),
            Place::Arena(at) => self.program.arena_bytes.checked_sub(at),
        };
        let Some(space) = space else { return Err(format!("{:?} does not exist", o.place)) };
        if o.layout.shape.is_empty() {
            return Ok(());
        }
        match hull(o) {
            Some((_, to)) if to <= space => Ok(()),
            _ => Err(format!("{:?} of {} leaves {:?}, which has {space} bytes", o.layout, o.dtype, o.place)),
        }
    }
}

/// Whether two operands touch common bytes of one place.
fn clash(a: &Operand, b: &Operand) -> bool {
    let base = |o: &Operand| match o.place {
        Place::Arena(at) => (0, at),
        Place::Output(n) => (1 + n as usize, 0),
        Place::Input(_) | Place::Constant(_) => (usize::MAX, 0),
    };
    let ((pa, oa), (pb, ob)) = (base(a), base(b));
    let (Some(x), Some(y)) = (hull(a), hull(b)) else { return false };
    pa == pb && pa != usize::MAX && oa + x.0 < ob + y.1 && ob + y.0 < oa + x.1
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{DType, Map, MatMul, TensorType, Unary};

    use super::*;
    use crate::lower::{LNode, Lir, Source, View};
    use crate::plan::build;

    /// x -> a -> b -> c, then b @ c and a last map, so that several buffers live at once.
    fn plan() -> Plan {
        let mut lir = Lir::default();
        let ty = TensorType::new(DType::F32, [8, 8]);
        let x = lir.add_buf(ty.clone(), Source::Input(0));
        let mut push = |op: Op, inputs: &[&View]| {
            let out = lir.add_buf(ty.clone(), Source::Nodes);
            let inputs = inputs.iter().map(|v| (*v).clone()).collect();
            lir.nodes.push(Some(LNode { name: "n".into(), op, inputs, outputs: vec![out.clone()] }));
            out
        };
        let product = || Op::MatMul(MatMul::default());
        let a = push(product(), &[&x, &x]);
        let b = push(product(), &[&a, &x]);
        let c = push(product(), &[&a, &b]);
        let d = push(product(), &[&b, &c]);
        let y = push(Op::Map(Map::unary(Unary::Exp)), &[&d]);
        lir.outputs.push(y);
        build("p", lir, vec![("x".into(), ty.clone())], vec!["y".into()], Vec::new()).unwrap()
    }

    fn arena(o: &mut Operand) -> Option<&mut usize> {
        match &mut o.place {
            Place::Arena(at) => Some(at),
            _ => None,
        }
    }

    #[test]
    fn a_sound_plan_passes_and_shares_memory() {
        let p = plan();
        p.check().unwrap();
        assert!(p.report.arena_bytes < p.report.naive_bytes && p.report.in_place == 1);
    }

    #[test]
    fn every_moved_operand_is_noticed() {
        let steps = plan().program.steps.len();
        for step in 0..steps {
            for input in [true, false] {
                for which in 0..2 {
                    let mut p = plan();
                    p.program.arena_bytes += 1024;
                    let s = &mut p.program.steps[step];
                    let list = if input { &mut s.inputs } else { &mut s.outputs };
                    let Some(at) = list.get_mut(which).and_then(arena) else { continue };
                    *at += 64;
                    assert!(p.check().is_err(), "step {step}, input {input}, operand {which}");
                }
            }
        }
    }

    #[test]
    fn lost_swapped_and_cramped_steps_are_noticed() {
        let steps = plan().program.steps.len();
        for step in 0..steps {
            let mut p = plan();
            p.program.steps.remove(step);
            p.trace.remove(step);
            assert!(p.check().is_err(), "without step {step}");
            if step > 0 {
                let mut p = plan();
                p.program.steps.swap(step - 1, step);
                p.trace.swap(step - 1, step);
                assert!(p.check().is_err(), "step {step} before its predecessor");
            }
        }
        let mut p = plan();
        p.program.arena_bytes -= 64;
        assert!(p.check().is_err());
    }

    #[test]
    fn two_living_buffers_in_one_place_are_noticed() {
        let p = plan();
        let count = p.trace.iter().flat_map(|t| &t.outputs).max().unwrap() + 1;
        let place_of = |buf: u32| {
            p.program
                .steps
                .iter()
                .zip(&p.trace)
                .find_map(|(s, t)| (t.outputs[0] == buf).then(|| s.outputs[0].place))
        };
        for (one, other) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))) {
            let (Some(Place::Arena(from)), Some(Place::Arena(to))) = (place_of(one), place_of(other)) else {
                continue;
            };
            if from == to {
                continue;
            }
            let mut moved = plan();
            for (s, t) in moved.program.steps.iter_mut().zip(&moved.trace) {
                let bufs = t.inputs.iter().chain(&t.outputs);
                for (o, &b) in s.inputs.iter_mut().chain(&mut s.outputs).zip(bufs) {
                    if b == one {
                        o.place = Place::Arena(to);
                    }
                }
            }
            // Every two buffers of this plan that lie apart live at once.
            assert!(moved.check().is_err(), "buffer {one} over {other}");
        }
    }

    #[test]
    fn strided_operands_must_stay_inside() {
        let mut p = plan();
        p.program.steps[0].inputs[0].layout.strides[0] = 9;
        assert!(p.check().is_err());
        let mut p = plan();
        p.program.steps[0].inputs[1].layout.strides[0] = -8;
        assert!(p.check().is_err());
    }
}
