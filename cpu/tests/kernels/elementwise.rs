use streampool_core::op::*;

use crate::common::*;

const NUMBERS: [DType; 8] =
    [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I8, DType::U8, DType::I32, DType::I64];

fn erf(x: f64) -> f64 {
    libm::erf(x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn unary_reference(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => x.signum(),
        Unary::Ceil => x.ceil(),
        Unary::Floor => x.floor(),
        Unary::Trunc => x.trunc(),
        Unary::Round => x.round_ties_even(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Tanh => x.tanh(),
        Unary::Asinh => x.asinh(),
        Unary::Acosh => x.acosh(),
        Unary::Atanh => x.atanh(),
        Unary::Erf => erf(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Relu if x.is_nan() => x,
        Unary::Relu => x.max(0.0),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Unary::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Unary::Silu => x * sigmoid(x),
        Unary::Softplus => {
            if x > 30.0 {
                x
            } else {
                x.exp().ln_1p()
            }
        }
        Unary::Not => f64::from(x == 0.0),
        Unary::BitNot => -x - 1.0,
        Unary::IsNan => f64::from(x.is_nan()),
        Unary::IsInf => f64::from(x.is_infinite()),
        Unary::IsPosInf => f64::from(x == f64::INFINITY),
        Unary::IsNegInf => f64::from(x == f64::NEG_INFINITY),
    }
}

const UNARY: [Unary; 41] = {
    use Unary::*;
    [
        Neg, Abs, Sign, Ceil, Floor, Trunc, Round, Sqrt, Rsqrt, Reciprocal, Exp, Log, Log1p, Expm1, Sin, Cos,
        Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh, Atanh, Erf, Sigmoid, Relu, Gelu, GeluTanh,
        Silu, Softplus, Not, BitNot, IsNan, IsInf, IsPosInf, IsNegInf, Neg, Abs,
    ]
};

#[test]
fn functions_of_one_element_match_on_every_dtype() {
    let mut rng = Rng::new(1);
    for f in UNARY {
        for dtype in DType::ALL {
            if !f.takes(dtype) {
                continue;
            }
            for n in [1, 15, 16, 17, 700] {
                let mut x = rng.tensor(dtype, &[n], 3.0);
                if dtype == DType::F32 && n > 10 {
                    let x = x.as_mut_slice::<f32>().unwrap();
                    x[..8].copy_from_slice(&[
                        f32::NAN,
                        f32::INFINITY,
                        f32::NEG_INFINITY,
                        0.0,
                        -0.0,
                        0.5,
                        -2.5,
                        60.0,
                    ]);
                }
                let want: Vec<f64> = reals(&x)
                    .into_iter()
                    .map(|x| {
                        let y = unary_reference(f, x);
                        if dtype == DType::U8 && f == Unary::BitNot { y + 256.0 } else { y }
                    })
                    .collect();
                let got = &eval(Map::unary(f), &[&x])[0];
                close(got, &want, 8.0 * epsilon(dtype), (f, dtype, n));
            }
        }
    }
}

fn binary_reference(f: Binary, x: f64, y: f64, float: bool) -> f64 {
    let truth = f64::from;
    match f {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div if float => x / y,
        Binary::Div | Binary::FloorDiv | Binary::Rem | Binary::Mod if y == 0.0 && !float => 0.0,
        Binary::Div => (x / y).trunc(),
        Binary::FloorDiv => (x / y).floor(),
        Binary::Rem => x % y,
        Binary::Mod => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        Binary::Pow if float => x.powf(y),
        Binary::Pow if y < 0.0 => match x {
            1.0 => 1.0,
            -1.0 => 1.0 - 2.0 * (y.abs() % 2.0),
            _ => 0.0,
        },
        Binary::Pow => x.powf(y),
        Binary::Atan2 => x.atan2(y),
        Binary::Min | Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::Eq => truth(x == y),
        Binary::Ne => truth(x != y),
        Binary::Lt => truth(x < y),
        Binary::Le => truth(x <= y),
        Binary::Gt => truth(x > y),
        Binary::Ge => truth(x >= y),
        Binary::And => truth(x != 0.0 && y != 0.0),
        Binary::Or => truth(x != 0.0 || y != 0.0),
        Binary::Xor => truth((x != 0.0) != (y != 0.0)),
        Binary::BitAnd => ((x as i64) & (y as i64)) as f64,
        Binary::BitOr => ((x as i64) | (y as i64)) as f64,
        Binary::BitXor => ((x as i64) ^ (y as i64)) as f64,
        Binary::Shl | Binary::Shr if !(0.0..8.0).contains(&y) => f64::NAN,
        Binary::Shl => ((x as i64) << (y as i64)) as f64,
        Binary::Shr => ((x as i64) >> (y as i64)) as f64,
    }
}

const BINARY: [Binary; 25] = {
    use Binary::*;
    [
        Add, Sub, Mul, Div, FloorDiv, Rem, Mod, Pow, Atan2, Min, Max, Eq, Ne, Lt, Le, Gt, Ge, And, Or, Xor,
        BitAnd, BitOr, BitXor, Shl, Shr,
    ]
};

#[test]
fn functions_of_two_elements_match_on_every_dtype() {
    let mut rng = Rng::new(2);
    for f in BINARY {
        for dtype in DType::ALL.into_iter().filter(|&d| f.takes(d)) {
            for n in [3, 16, 701] {
                // Small integers, so that products and powers stay in range and zeros occur.
                let span = if dtype.is_float() { 5.0 } else { 4.0 };
                let (x, y) = (rng.tensor(dtype, &[n], span), rng.tensor(dtype, &[n], span));
                let want: Vec<f64> = reals(&x)
                    .into_iter()
                    .zip(reals(&y))
                    .map(|(x, y)| binary_reference(f, x, y, dtype.is_float()))
                    .collect();
                let got = &eval(Map::binary(f), &[&x, &y])[0];
                for (i, &w) in want.iter().enumerate() {
                    let g = got.get(i).to_f64();
                    // Integers wrap to the dtype; the reference of a shift by too much is 0.
                    let w = if dtype.is_int() && !f.is_comparison() {
                        let w = if matches!(f, Binary::Shl | Binary::Shr) && w.is_nan() { 0.0 } else { w };
                        Scalar::from_i64(dtype, w as i64).to_f64()
                    } else {
                        Scalar::from_f64(got.ty().dtype, w).to_f64()
                    };
                    let tolerance = 4.0 * epsilon(dtype) * w.abs().max(1.0);
                    // The quotient is rounded before its floor is taken.
                    let near = f == Binary::FloorDiv && dtype.is_float() && (g - w).abs() <= 1.0;
                    let fine = (g.is_nan() && w.is_nan()) || g == w || (g - w).abs() <= tolerance || near;
                    assert!(fine, "{f:?} of {:?} and {:?}: {g}, should be {w}", x.get(i), y.get(i));
                }
            }
        }
    }
}

#[test]
fn integers_wrap_and_division_by_zero_is_zero() {
    let x = HostTensor::from_vec([6], vec![i32::MIN, i32::MAX, 7, -7, i32::MIN, 5]).unwrap();
    let y = HostTensor::from_vec([6], vec![-1, 1, 0, 2, 1, -3]).unwrap();
    let run = |f| wholes(&eval(Map::binary(f), &[&x, &y])[0]);
    let min = i64::from(i32::MIN);
    assert_eq!(run(Binary::Div), [min, i64::from(i32::MAX), 0, -3, min, -1]);
    assert_eq!(run(Binary::FloorDiv), [min, i64::from(i32::MAX), 0, -4, min, -2]);
    assert_eq!(run(Binary::Mod), [0, 0, 0, 1, 0, -1]);
    assert_eq!(run(Binary::Rem), [0, 0, 0, -1, 0, 2]);
    assert_eq!(run(Binary::Add)[1], min);
    assert_eq!(run(Binary::Shl)[0], 0);
    assert_eq!(wholes(&eval(Map::unary(Unary::Neg), &[&x])[0])[0], min);
}

#[test]
fn casts_between_all_dtypes_follow_c() {
    let mut rng = Rng::new(3);
    for from in DType::ALL {
        for to in DType::ALL {
            let x = rng.tensor(from, &[777], 200.0);
            let want: Vec<f64> = (0..777)
                .map(|i| {
                    let s = x.get(i);
                    let to_int = to.is_int() && from.is_float();
                    match to {
                        _ if to_int => Scalar::from_f64(to, s.to_f64()).to_f64(),
                        d if d.is_int() => Scalar::from_i64(d, s.to_i64()).to_f64(),
                        d => Scalar::from_f64(d, s.to_f64()).to_f64(),
                    }
                })
                .collect();
            close(&eval(Map::cast(to), &[&x])[0], &want, 0.0, (from, to));
        }
    }
    let x = HostTensor::from_vec([5], vec![f32::NAN, f32::INFINITY, -1e30, -0.0, 300.5]).unwrap();
    assert_eq!(wholes(&eval(Map::cast(DType::U8), &[&x])[0]), [0, 255, 0, 0, 255]);
    assert_eq!(wholes(&eval(Map::cast(DType::I64), &[&x])[0]), [0, i64::MAX, i64::MIN, 0, 300]);
    assert_eq!(wholes(&eval(Map::cast(DType::Bool), &[&x])[0]), [1, 1, 1, 0, 1]);
}

#[test]
fn sixteen_bit_floats_round_to_nearest_even_and_keep_nan() {
    let mut rng = Rng::new(4);
    let values: Vec<f32> = (0..5000).map(|_| f32::from_bits(rng.next() as u32)).collect();
    let x = HostTensor::from_slice([5000], &values).unwrap();
    let (h, b) = (&eval(Map::cast(DType::F16), &[&x])[0], &eval(Map::cast(DType::BF16), &[&x])[0]);
    for (i, &v) in values.iter().enumerate() {
        let (h, b) = (h.get(i).to_f64(), b.get(i).to_f64());
        if v.is_nan() {
            assert!(h.is_nan() && b.is_nan(), "{v}");
        } else {
            assert_eq!(h, f64::from(half::f16::from_f32(v).to_f32()), "{v}");
            assert_eq!(b, f64::from(half::bf16::from_f32(v).to_f32()), "{v}");
        }
    }
}

/// Reference evaluation of an expression at one element.
fn expression(code: &[Instr], inputs: &[f64]) -> f64 {
    let mut r: Vec<f64> = Vec::new();
    for instr in code {
        r.push(match *instr {
            Instr::Input(n) => inputs[usize::from(n)],
            Instr::Const(s) => s.to_f64(),
            Instr::Unary(f, a) => unary_reference(f, r[usize::from(a)]),
            Instr::Binary(f, a, b) => binary_reference(f, r[usize::from(a)], r[usize::from(b)], true),
            Instr::Select(c, a, b) => r[usize::from(if r[usize::from(c)] != 0.0 { a } else { b })],
            Instr::Cast(d, a) => Scalar::from_f64(d, r[usize::from(a)]).to_f64(),
        });
    }
    r[r.len() - 1]
}

/// A random expression over floats that stays bounded.
fn random_code(rng: &mut Rng, inputs: usize, dtype: DType) -> Vec<Instr> {
    let mut code: Vec<Instr> = (0..inputs).map(|n| Instr::Input(n as u8)).collect();
    code.push(Instr::Const(Scalar::from_f64(dtype, 0.75)));
    for _ in 0..rng.below(24) {
        let any = |rng: &mut Rng| {
            loop {
                let r = rng.below(code.len());
                if !matches!(code[r], Instr::Binary(Binary::Lt, ..)) {
                    return r as u16;
                }
            }
        };
        let (a, b) = (any(rng), any(rng));
        let next = match rng.below(7) {
            0 => Instr::Unary(Unary::Tanh, a),
            1 => Instr::Unary(Unary::Sin, a),
            2 => Instr::Binary(Binary::Max, a, b),
            3 => Instr::Binary(Binary::Sub, a, b),
            4 => Instr::Unary(Unary::Sigmoid, a),
            5 => {
                code.push(Instr::Binary(Binary::Lt, a, b));
                Instr::Select((code.len() - 1) as u16, b, a)
            }
            _ => Instr::Unary(Unary::Relu, a),
        };
        code.push(next);
    }
    code
}

#[test]
fn fused_expressions_over_random_views_match() {
    let mut rng = Rng::new(5);
    for case in 0..300 {
        let rank = rng.below(5);
        let shape = rng.shape(rank);
        let dtype = [DType::F32, DType::F32, DType::F64, DType::F16][rng.below(4)];
        let count = 1 + rng.below(3);
        let views: Vec<View> = (0..count)
            .map(|_| {
                // Some operands have fewer axes or axes of length 1.
                let skip = rng.below(rank + 1);
                let own: Vec<usize> =
                    shape[skip..].iter().map(|&d| if rng.below(4) == 0 { 1 } else { d }).collect();
                View::random(&mut rng, dtype, &own, 2.0)
            })
            .collect();
        let code = random_code(&mut rng, count, dtype);
        let map = Map { code };
        let refs: Vec<&View> = views.iter().collect();
        let got = &run_views(&Op::Map(map.clone()), &refs, None).unwrap()[0];
        let flat: Vec<HostTensor> = views.iter().map(View::contiguous).collect();
        let out_shape = got.ty().shape.clone();
        let want: Vec<f64> = (0..out_shape.len())
            .map(|i| {
                let at = coordinates(&out_shape, i);
                let inputs: Vec<f64> = flat
                    .iter()
                    .map(|t| {
                        let s = &t.ty().shape;
                        let lead = out_shape.rank() - s.rank();
                        let own: Vec<usize> =
                            (0..s.rank()).map(|k| if s[k] == 1 { 0 } else { at[k + lead] }).collect();
                        t.get(index(s, &own)).to_f64()
                    })
                    .collect();
                expression(&map.code, &inputs)
            })
            .collect();
        // A comparison of nearly equal values may go either way, so chains of selections drift a little.
        close(got, &want, 200.0 * epsilon(dtype), (case, &map, out_shape));
    }
}

#[test]
fn large_work_is_split_without_changing_a_bit() {
    let mut rng = Rng::new(6);
    let x = rng.tensor(DType::F32, &[333, 1000], 3.0);
    let bias = rng.tensor(DType::F32, &[1000], 3.0);
    let code = vec![
        Instr::Input(0),
        Instr::Input(1),
        Instr::Binary(Binary::Add, 0, 1),
        Instr::Unary(Unary::Gelu, 2),
    ];
    let whole = eval(Map { code: code.clone() }, &[&x, &bias]);
    for row in [0, 17, 332] {
        let one =
            HostTensor::from_slice([1, 1000], &x.as_slice::<f32>().unwrap()[row * 1000..][..1000]).unwrap();
        let part = eval(Map { code: code.clone() }, &[&one, &bias]);
        assert_eq!(
            part[0].as_slice::<f32>().unwrap(),
            &whole[0].as_slice::<f32>().unwrap()[row * 1000..][..1000]
        );
    }
}

#[test]
fn results_may_take_the_place_of_an_operand() {
    let mut rng = Rng::new(7);
    for n in [1, 16, 100, 1030] {
        for (a, b, map) in [
            (DType::F32, DType::F32, Map::binary(Binary::Sub)),
            (DType::I32, DType::I32, Map::binary(Binary::Mul)),
        ] {
            let all = |rng: &mut Rng, d| {
                let base = rng.tensor(d, &[n], 5.0);
                View { base, layout: Layout::contiguous([n]) }
            };
            let (x, y) = (all(&mut rng, a), all(&mut rng, b));
            let apart = run_views(&Op::Map(map.clone()), &[&x, &y], None).unwrap();
            for i in 0..2 {
                assert_eq!(run_views(&Op::Map(map.clone()), &[&x, &y], Some(i)).unwrap(), apart);
            }
        }
        let x = View { base: rng.tensor(DType::F32, &[n], 90.0), layout: Layout::contiguous([n]) };
        let op = Op::Map(Map::cast(DType::I32));
        assert_eq!(run_views(&op, &[&x], Some(0)).unwrap(), run_views(&op, &[&x], None).unwrap());
    }
}

#[test]
fn constants_alone_and_dead_instructions_are_fine() {
    let c = |v| Instr::Const(Scalar::from_f64(DType::BF16, v));
    let code = vec![c(1.5), c(2.5), Instr::Binary(Binary::Add, 0, 1)];
    let got = &eval(Map { code }, &[])[0];
    assert_eq!((got.get(0).to_f64(), got.ty().shape.rank()), (4.0, 0));
    let x = HostTensor::from_vec([3], vec![1i64, 2, 3]).unwrap();
    let wide = HostTensor::from_vec([2, 1], vec![true, false]).unwrap();
    // Operand 1 is not used, but its shape counts.
    let code = vec![Instr::Input(0), Instr::Unary(Unary::Neg, 0), Instr::Cast(DType::F64, 0)];
    let got = &eval(Map { code }, &[&x, &wide])[0];
    assert_eq!(reals(got), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    let code = vec![Instr::Const(Scalar::from_i64(DType::I8, 7))];
    assert_eq!(wholes(&eval(Map { code }, &[&x])[0]), [7, 7, 7]);
    let half = HostTensor::from_vec([3], [1.0, 2.0, 65504.0].map(half::f16::from_f32).to_vec()).unwrap();
    // Doubling overflows f16, so converted to f32 it is infinite: as if it had been stored.
    let code = vec![Instr::Input(0), Instr::Binary(Binary::Add, 0, 0), Instr::Cast(DType::F32, 1)];
    assert_eq!(reals(&eval(Map { code }, &[&half])[0]), [2.0, 4.0, f64::INFINITY]);
    for dtype in NUMBERS {
        let empty = HostTensor::zeros(TensorType::new(dtype, [3, 0])).unwrap();
        assert!(reals(&eval(Map::unary(Unary::Abs), &[&empty])[0]).is_empty());
    }
}
