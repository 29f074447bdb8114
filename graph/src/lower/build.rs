//! Emitting operations: types inferred, constants folded, repeated work shared.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use streampool_core::Error;
use streampool_core::op::{Constant, Copy, DType, Instr, Layout, Op, Scalar, Shape, TensorType};

use super::{FoldKey, HostTensor, LNode, LResult, Lower, Source, Stop, View, evaluate, gather};

/// Folding may make constants this large without regard to their inputs' size.
const FOLD_FREELY: usize = 16 << 20;
/// Constants up to this many bytes are made once per content.
const SMALL: usize = 64;
/// How many of them are remembered.
const SMALL_MANY: usize = 16384;

impl Lower<'_> {
    /// A view of all of a constant.
    pub(crate) fn constant(&mut self, constant: Arc<Constant>, pure: bool) -> View {
        let ty = constant.ty().clone();
        if let Some(&buf) = self.constants.get(&constant.id()) {
            return View::whole(buf, &ty);
        }
        let id = constant.id();
        let view = self.lir.add_buf(ty, Source::Constant { constant, pure });
        self.constants.insert(id, view.buf);
        view
    }

    /// A constant from its bytes. Small ones are shared by content.
    pub(crate) fn constant_bytes(&mut self, ty: TensorType, data: Vec<u8>, pure: bool) -> View {
        if data.len() > SMALL {
            return self.constant(Constant::new(ty, data.into()), pure);
        }
        let mut small = self.folded.small.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (ty, data);
        let constant = match small.get(&key) {
            Some(c) => c.clone(),
            None => {
                let c = Constant::new(key.0.clone(), Bytes::copy_from_slice(&key.1));
                if small.len() < SMALL_MANY {
                    small.insert(key, c.clone());
                }
                c
            }
        };
        drop(small);
        self.constant(constant, true)
    }

    /// A scalar (rank 0) constant.
    pub(crate) fn scalar(&mut self, value: Scalar) -> View {
        let data = value.bits().to_le_bytes()[..value.dtype().size()].to_vec();
        self.constant_bytes(TensorType::new(value.dtype(), []), data, true)
    }

    /// A scalar constant of a dtype.
    pub(crate) fn number(&mut self, dtype: DType, value: f64) -> View {
        self.scalar(Scalar::from_f64(dtype, value))
    }

    /// A constant of integers that are known now (a shape, axes).
    pub(crate) fn ints_constant(&mut self, values: &[i64], shape: impl Into<Shape>) -> View {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant_bytes(TensorType::new(DType::I64, shape), data, false)
    }

    /// A constant of `dtype` from `f64` values.
    pub(crate) fn floats_constant(&mut self, dtype: DType, values: &[f64], shape: impl Into<Shape>) -> View {
        let data = values
            .iter()
            .flat_map(|&v| {
                let s = Scalar::from_f64(dtype, v);
                s.bits().to_le_bytes().into_iter().take(dtype.size())
            })
            .collect();
        self.constant_bytes(TensorType::new(dtype, shape), data, false)
    }

    /// One value everywhere, without memory for it.
    pub(crate) fn filled(&mut self, value: Scalar, shape: &Shape) -> LResult<View> {
        shape.checked_len()?;
        let scalar = self.scalar(value);
        Ok(scalar.with(scalar.layout.broadcast_to(shape)?))
    }

    /// The value of a view, which must not depend on the model's inputs; asks for their values if it does.
    pub(crate) fn host(&mut self, v: &View) -> LResult<HostTensor> {
        let data = self.host_buf(v.buf)?;
        Ok(HostTensor { ty: v.ty(), data: gather(&data, v.dtype, &v.layout) })
    }

    fn host_buf(&mut self, buf: u32) -> LResult<Bytes> {
        if let Source::Constant { constant, .. } = &self.lir.bufs[buf as usize].source {
            return Ok(constant.data().clone());
        }
        let needed = self.inputs_behind(buf);
        if !needed.is_empty() {
            return Err(Stop::Need(needed));
        }
        // Not folded because it is large, yet its value is needed.
        self.force(buf)
    }

    /// Evaluates a buffer that depends on constants alone.
    fn force(&mut self, buf: u32) -> LResult<Bytes> {
        let writers: Vec<LNode> = self
            .lir
            .live()
            .filter(|(_, n)| n.outputs.iter().any(|o| o.buf == buf))
            .map(|(_, n)| n.clone())
            .collect();
        let ty = self.lir.bufs[buf as usize].ty.clone();
        let mut data = vec![0u8; ty.bytes()];
        for node in writers {
            let inputs = node.inputs.iter().map(|v| self.host(v)).collect::<LResult<Vec<_>>>()?;
            let results = if node.op == Op::Copy(Copy) {
                vec![inputs[0].data.clone()]
            } else {
                evaluate(&node.op, &inputs)?
            };
            for (o, result) in node.outputs.iter().zip(results) {
                if o.buf == buf {
                    scatter(&mut data, &result, o.dtype, &o.layout);
                }
            }
        }
        let data = Bytes::from(data);
        let constant = Constant::new(ty, data.clone());
        self.constants.insert(constant.id(), buf);
        self.lir.bufs[buf as usize].source = Source::Constant { constant, pure: false };
        for n in &mut self.lir.nodes {
            if n.as_ref().is_some_and(|n| n.outputs.iter().all(|o| o.buf == buf)) {
                *n = None;
            }
        }
        Ok(data)
    }

    /// The model inputs that a buffer's value depends on.
    fn inputs_behind(&self, buf: u32) -> BTreeSet<usize> {
        let mut wanted = vec![false; self.lir.bufs.len()];
        wanted[buf as usize] = true;
        for node in self.lir.nodes.iter().rev().flatten() {
            if node.outputs.iter().any(|o| wanted[o.buf as usize]) {
                for i in &node.inputs {
                    wanted[i.buf as usize] = true;
                }
            }
        }
        self.lir
            .bufs
            .iter()
            .zip(wanted)
            .filter_map(|(b, w)| match b.source {
                Source::Input(i) if w => Some(i as usize),
                _ => None,
            })
            .collect()
    }

    /// The value as integers.
    pub(crate) fn ints(&mut self, v: &View) -> LResult<Vec<i64>> {
        Ok(self.host(v)?.ints()?)
    }

    /// The value as floats.
    pub(crate) fn floats(&mut self, v: &View) -> LResult<Vec<f64>> {
        Ok(self.host(v)?.floats())
    }

    /// The value of a tensor of one element.
    pub(crate) fn one(&mut self, v: &View, what: &str) -> LResult<Scalar> {
        let host = self.host(v)?;
        match host.scalars().as_slice() {
            [one] => Ok(*one),
            _ => Err(Error::invalid_model(format!("{what} should be one value, it is {}", host.ty)).into()),
        }
    }

    /// Emits an operation and gives its outputs.
    pub(crate) fn emit(&mut self, op: Op, inputs: &[View]) -> LResult<Vec<View>> {
        let types: Vec<TensorType> = inputs.iter().map(View::ty).collect();
        let outputs = op.infer(&types)?;
        let (op, mut inputs) = scalars_into_map(self, op, inputs, &outputs);
        if let Some(folded) = self.fold(&op, &inputs, &outputs)? {
            return Ok(folded);
        }
        for (i, v) in inputs.iter_mut().enumerate() {
            if !op.takes_strided_input(i) {
                *v = self.contiguous(v)?;
            }
        }
        let key = (op, inputs);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let outputs: Vec<View> = outputs.into_iter().map(|ty| self.lir.add_buf(ty, Source::Nodes)).collect();
        let (op, inputs) = key.clone();
        self.lir.nodes.push(Some(LNode { name: self.name.clone(), op, inputs, outputs: outputs.clone() }));
        self.known.insert(key, outputs.clone());
        Ok(outputs)
    }

    /// Emits an operation with one output.
    pub(crate) fn emit1(&mut self, op: Op, inputs: &[View]) -> LResult<View> {
        self.emit(op, inputs)?
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("an operation has no output").into())
    }

    /// Evaluates the operation now if all inputs are known and the result is not absurdly larger than they are.
    fn fold(&mut self, op: &Op, inputs: &[View], outputs: &[TensorType]) -> LResult<Option<Vec<View>>> {
        if inputs.iter().any(|v| self.lir.constant(v).is_none()) {
            return Ok(None);
        }
        let from: usize = inputs.iter().map(|v| self.lir.bufs[v.buf as usize].ty.bytes()).sum();
        let to: usize = outputs.iter().map(TensorType::bytes).sum();
        if to > FOLD_FREELY && to > 4 * from {
            return Ok(None);
        }
        let pure = inputs.iter().all(|v| self.lir.is_pure(v));
        let key = FoldKey {
            op: op.clone(),
            inputs: inputs
                .iter()
                .map(|v| (self.lir.constant(v).map_or(0, |c| c.id()), v.layout.clone()))
                .collect(),
        };
        if pure {
            let results = self.folded.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(known) = results.get(&key).cloned() {
                drop(results);
                return Ok(Some(known.into_iter().map(|c| self.constant(c, true)).collect()));
            }
        }
        let host = inputs.iter().map(|v| self.host(v)).collect::<LResult<Vec<_>>>()?;
        let results = evaluate(op, &host)?;
        let mut views = Vec::with_capacity(results.len());
        for (ty, data) in outputs.iter().zip(results) {
            views.push(if data.len() <= SMALL {
                self.constant_bytes(ty.clone(), data.to_vec(), pure)
            } else {
                self.constant(Constant::new(ty.clone(), data), pure)
            });
        }
        if pure {
            let constants: Vec<Arc<Constant>> =
                views.iter().filter_map(|v| self.lir.constant(v).cloned()).collect();
            self.folded
                .results
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .insert(key, constants);
        }
        Ok(Some(views))
    }

    /// The same elements, row-major: the view itself if it is, else a copy.
    pub(crate) fn contiguous(&mut self, v: &View) -> LResult<View> {
        if v.layout.is_contiguous() {
            return Ok(v.clone());
        }
        if let Some(constant) = self.lir.constant(v) {
            let to = v.ty().bytes();
            if to <= FOLD_FREELY || to <= 4 * constant.ty().bytes() {
                let key = FoldKey { op: Op::Copy(Copy), inputs: vec![(constant.id(), v.layout.clone())] };
                let pure = self.lir.is_pure(v);
                let known = self.folded.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some([c]) = known.get(&key).map(Vec::as_slice) {
                    let c = c.clone();
                    drop(known);
                    return Ok(self.constant(c, true));
                }
                drop(known);
                let data = gather(constant.data(), v.dtype, &v.layout);
                let made = Constant::new(v.ty(), data);
                if pure {
                    let mut known =
                        self.folded.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    known.insert(key, vec![made.clone()]);
                }
                return Ok(self.constant(made, pure));
            }
        }
        self.copy(v)
    }

    /// A copy in a buffer of its own.
    pub(crate) fn copy(&mut self, v: &View) -> LResult<View> {
        let key = (Op::Copy(Copy), vec![v.clone()]);
        if let Some([known]) = self.known.get(&key).map(Vec::as_slice) {
            return Ok(known.clone());
        }
        let out = self.lir.add_buf(v.ty(), Source::Nodes);
        self.copy_into(v, out.clone());
        self.known.insert(key, vec![out.clone()]);
        Ok(out)
    }

    /// Copies into a region of a buffer.
    pub(crate) fn copy_into(&mut self, v: &View, region: View) {
        self.lir.nodes.push(Some(LNode {
            name: self.name.clone(),
            op: Op::Copy(Copy),
            inputs: vec![v.clone()],
            outputs: vec![region],
        }));
    }

    /// Joins tensors along an axis. Shapes are checked.
    pub(crate) fn concat(&mut self, parts: &[View], axis: usize) -> LResult<View> {
        let first = parts.first().ok_or_else(|| Error::invalid_model("there is nothing to concatenate"))?;
        if axis >= first.rank() {
            return Err(Error::invalid_model(format!(
                "axis {axis} is out of range for shape {}",
                first.shape()
            ))
            .into());
        }
        let mut dims = first.shape().to_vec();
        for p in &parts[1..] {
            let fits = p.rank() == first.rank()
                && (0..p.rank()).all(|i| i == axis || p.shape()[i] == dims[i])
                && p.dtype == first.dtype;
            if !fits {
                return Err(Error::invalid_argument(format!(
                    "{} and {} cannot be concatenated along axis {axis}",
                    first.ty(),
                    p.ty()
                ))
                .into());
            }
            dims[axis] += p.shape()[axis];
        }
        let parts: Vec<&View> = parts.iter().filter(|p| !p.shape().is_empty()).collect();
        if let [one] = parts.as_slice()
            && one.shape().to_vec() == dims
        {
            return Ok((*one).clone());
        }
        let ty = TensorType::new(first.dtype, dims);
        ty.shape.checked_len()?;
        let all_known = parts.iter().all(|p| self.lir.constant(p).is_some());
        let layout = Layout::contiguous(ty.shape.clone());
        if all_known && ty.bytes() <= FOLD_FREELY {
            let pure = parts.iter().all(|p| self.lir.is_pure(p));
            let mut data = vec![0; ty.bytes()];
            let mut at = 0;
            for p in parts {
                let host = self.host(p)?;
                let len = p.shape()[axis];
                scatter(&mut data, &host.data, p.dtype, &layout.slice(axis, at, len, 1));
                at += len;
            }
            return Ok(self.constant_bytes(ty, data, pure));
        }
        let out = self.lir.add_buf(ty, Source::Nodes);
        let mut at = 0;
        for p in parts {
            let len = p.shape()[axis];
            let region = out.with(layout.slice(axis, at, len, 1));
            self.copy_into(p, region);
            at += len;
        }
        Ok(out)
    }
}

/// Writes row-major `from` through `layout` into `to`.
fn scatter(to: &mut [u8], from: &[u8], dtype: DType, layout: &Layout) {
    let size = dtype.size();
    let rank = layout.shape.rank();
    let count = layout.shape.len();
    let mut index = vec![0usize; rank];
    let mut at = layout.offset as isize;
    for i in 0..count {
        let p = at as usize * size;
        to[p..p + size].copy_from_slice(&from[i * size..(i + 1) * size]);
        for axis in (0..rank).rev() {
            index[axis] += 1;
            at += layout.strides[axis];
            if index[axis] < layout.shape[axis] {
                break;
            }
            at -= layout.strides[axis] * layout.shape[axis] as isize;
            index[axis] = 0;
        }
    }
}

/// Constants of one element become part of a map's code, unless they give the output its rank.
fn scalars_into_map(lower: &Lower<'_>, op: Op, inputs: &[View], outputs: &[TensorType]) -> (Op, Vec<View>) {
    let Op::Map(mut map) = op else { return (op, inputs.to_vec()) };
    let value = |v: &View| -> Option<Scalar> {
        let c = lower.lir.constant(v)?;
        // One element, however often it is repeated.
        if v.shape().is_empty()
            || v.layout.shape.iter().zip(&v.layout.strides).any(|(&d, &s)| d != 1 && s != 0)
        {
            return None;
        }
        let size = v.dtype.size();
        let mut bits = [0u8; 8];
        bits[..size].copy_from_slice(&c.data()[v.layout.offset * size..][..size]);
        Some(Scalar::from_bits(v.dtype, u64::from_le_bytes(bits)))
    };
    let scalars: Vec<Option<Scalar>> = inputs.iter().map(value).collect();
    let rest = inputs
        .iter()
        .zip(&scalars)
        .filter(|(_, s)| s.is_none())
        .try_fold(Shape::default(), |acc, (v, _)| acc.broadcast(v.shape()));
    let kept_any = scalars.iter().any(Option::is_none);
    if !kept_any || scalars.iter().all(Option::is_none) || rest.ok().as_ref() != Some(&outputs[0].shape) {
        return (Op::Map(map), inputs.to_vec());
    }
    let mut position = Vec::new();
    let mut kept = Vec::new();
    for (v, s) in inputs.iter().zip(&scalars) {
        position.push(kept.len() as u8);
        if s.is_none() {
            kept.push(v.clone());
        }
    }
    for instr in &mut map.code {
        if let Instr::Input(n) = *instr {
            *instr = match scalars[n as usize] {
                Some(s) => Instr::Const(s),
                None => Instr::Input(position[n as usize]),
            };
        }
    }
    (Op::Map(map), kept)
}
