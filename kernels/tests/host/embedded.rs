//! Layer norm of an expression and of gathers in one kernel: against the CPU device's steps one by one.

use streampool_core::op::{
    Binary, DType, Gather, HostTensor, Instr, LayerNorm, Map, Op, Operand, Place, Scalar, Unary,
};
use streampool_kernels::{Binding, Kernel, Value, embedded, failed_index};

use crate::chain::Chain;
use crate::library::Library;
use crate::products::{Case, agree};
use crate::targets::HOPPER;

#[derive(Clone, Copy)]
struct Wish {
    dtype: DType,
    /// Sentences, tokens of each, length of a token's vector.
    sizes: [usize; 3],
    /// Vectors of the table, and how many of the operands are gathered from it.
    words: usize,
    gathers: usize,
    /// The shape of the operand that is in memory.
    stored: [usize; 3],
    rms: bool,
    axis: usize,
}

/// Indices into a table of `words`, from both of its ends.
fn indices(chain: &mut Chain, shape: &[usize], words: usize) -> Operand {
    let count = shape.iter().product();
    let list: Vec<i64> = (0..count).map(|_| (chain.numbers.next() * 1e6) as i64 % words as i64).collect();
    chain.data.push(HostTensor::from_slice(shape, &list).expect("room for a test"));
    let mut o = chain.at(Place::Input(chain.data.len() as u32 - 1), shape);
    o.dtype = DType::I64;
    o
}

/// Half of the sum of all operands, of the stored one its exponential.
fn expression(dtype: DType, operands: usize) -> Map {
    let mut code = vec![Instr::Input(0), Instr::Unary(Unary::Exp, 0)];
    for n in 1..operands {
        code.push(Instr::Input(n as u8));
        let last = code.len() as u16;
        code.push(Instr::Binary(Binary::Add, last - 2, last - 1));
    }
    code.push(Instr::Const(Scalar::from_f64(dtype, 0.5)));
    let last = code.len() as u16;
    code.push(Instr::Binary(Binary::Mul, last - 2, last - 1));
    Map { code }
}

fn case(w: Wish) -> Case {
    let mut chain = Chain::new(w.dtype);
    let [b, t, n] = w.sizes;
    let stored = chain.input(&w.stored);
    let gather = Gather { axis: 0 };
    let mut tables = Vec::new();
    let mut operands = vec![stored.clone()];
    for _ in 0..w.gathers {
        let pair = [chain.input(&[w.words, n]), indices(&mut chain, &[b, t], w.words)];
        let found = chain.between(&[b, t, n]);
        chain.step(Op::Gather(gather.clone()), &pair, &found);
        tables.push(pair);
        operands.push(found);
    }
    let map = expression(w.dtype, operands.len());
    let sum = chain.between(&[b, t, n]);
    chain.step(Op::Map(map.clone()), &operands, &sum);
    let mut result = sum.clone();
    result.place = Place::Output(0);
    let rows = if w.axis == 2 { vec![n] } else { vec![t, n] };
    let scale = chain.input(&rows);
    let bias = chain.input(&rows);
    let mut inputs = vec![sum, scale];
    if !w.rms {
        inputs.push(bias);
    }
    let norm = LayerNorm {
        axis: w.axis,
        epsilon: streampool_core::op::F32::new(1e-5),
        rms: w.rms,
        scale: true,
        bias: !w.rms,
        residual: false,
    };
    chain.step(Op::LayerNorm(norm.clone()), &inputs, &result);
    let mut values = vec![Value::Stored(&stored)];
    values.extend(tables.iter().map(|[data, indices]| Value::Gathered(&gather, [data, indices])));
    let kernel: Kernel =
        embedded(&norm, &inputs, &map, &values).unwrap_or_else(|| panic!("no kernel for {:?}", w.sizes));
    let mut bound: Vec<Operand> = values.iter().flat_map(Value::operands).cloned().collect();
    bound.extend(inputs[1..].iter().cloned());
    chain.case((kernel, None), bound, &result)
}

const MINI: Wish = Wish {
    dtype: DType::F16,
    sizes: [2, 9, 384],
    words: 50,
    gathers: 2,
    stored: [1, 9, 384],
    rms: false,
    axis: 2,
};

#[test]
fn embeddings_agree_with_the_steps_that_they_replace() {
    let wishes = [
        MINI,
        Wish { dtype: DType::F32, gathers: 1, stored: [2, 1, 384], ..MINI },
        Wish { dtype: DType::BF16, gathers: 0, rms: true, stored: [2, 9, 384], ..MINI },
        Wish { sizes: [3, 5, 7], words: 1, gathers: 3, stored: [1, 1, 1], axis: 1, ..MINI },
        Wish { sizes: [1, 1, 3000], words: 2, stored: [1, 1, 3000], ..MINI },
    ];
    agree(&wishes.map(case), HOPPER);
}

#[test]
fn an_index_out_of_range_is_told_and_the_block_goes_on() {
    for (position, bad) in [(3, 50i64), (17, -51), (0, i64::MIN)] {
        let mut case = case(MINI);
        // The second gather's indices.
        case.data[4].bytes_mut()[position * 8..][..8].copy_from_slice(&bad.to_le_bytes());
        let library = Library::of([case.kernel.clone()]);
        let mut status = 0u64;
        let mut got = HostTensor::zeros(case.output.clone()).expect("room");
        library.launch_at(&case.kernel, |binding| match binding {
            Binding::Input(i) => match case.bound[i].place {
                Place::Input(n) => Some(case.data[n as usize].bytes().as_ptr().cast_mut()),
                _ => None,
            },
            Binding::Output(_) => Some(got.bytes_mut().as_mut_ptr()),
            Binding::Status => Some((&raw mut status).cast()),
            Binding::Scratch => None,
        });
        let expected = failed_index(bad as u64 | 1 << 63);
        assert_eq!(failed_index(status), expected, "row {position}");
        assert!((0..18 * 384).any(|i| got.get(i).to_f64() != 0.0), "other rows were made");
    }
}
