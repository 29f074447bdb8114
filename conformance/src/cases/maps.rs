//! Elementwise programs: functions, conversions, broadcasting, views.

use streampool_core::op::*;

use super::{Cases, FLOATS, INTS, tolerance};
use crate::case::set;

impl Cases {
    pub(super) fn maps(&mut self) {
        use Unary::*;
        let special = |t: &mut HostTensor| {
            for (i, v) in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 0.5]
                .into_iter()
                .enumerate()
            {
                set(t, i, Scalar::from_f64(t.ty().dtype, v));
            }
        };
        for f in [
            Neg, Abs, Sign, Ceil, Floor, Trunc, Round, Sqrt, Rsqrt, Reciprocal, Exp, Log, Log1p, Expm1, Sin,
            Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh, Atanh, Erf, Sigmoid, Relu, Gelu,
            GeluTanh, Silu, Softplus, IsNan, IsInf, IsPosInf, IsNegInf,
        ] {
            for dtype in FLOATS {
                let mut x = self.tensor(dtype, &[41], -3.0, 3.0);
                special(&mut x);
                if matches!(f, Gelu | Silu | GeluTanh) {
                    // -inf * 0: the CPU's vector form and the plain one differ there.
                    set(&mut x, 2, Scalar::from_f64(dtype, -2.0));
                }
                self.add(&format!("{f:?}"), Op::Map(Map::unary(f)), vec![x], tolerance(dtype).max(1e-6));
            }
            for dtype in INTS {
                if f.takes(dtype) {
                    let x = self.tensor(dtype, &[40], if dtype == DType::U8 { 0.0 } else { -128.0 }, 127.0);
                    self.add(&format!("{f:?}"), Op::Map(Map::unary(f)), vec![x], 0.0);
                }
            }
        }
        let b = self.tensor(DType::Bool, &[9], 0.0, 1.0);
        self.add("not", Op::Map(Map::unary(Not)), vec![b], 0.0);
        let b = self.tensor(DType::I32, &[9], -99.0, 99.0);
        self.add("bit not", Op::Map(Map::unary(BitNot)), vec![b], 0.0);
        {
            use Binary::*;
            for f in [
                Add, Sub, Mul, Div, FloorDiv, Rem, Mod, Pow, Atan2, Min, Max, Eq, Ne, Lt, Le, Gt, Ge, And,
                Or, Xor, BitAnd, BitOr, BitXor, Shl, Shr,
            ] {
                for dtype in DType::ALL {
                    if !f.takes(dtype) {
                        continue;
                    }
                    let (low, high) = match dtype {
                        DType::U8 | DType::Bool => (0.0, 9.0),
                        _ => (-9.0, 9.0),
                    };
                    let mut x = self.tensor(dtype, &[60], low, high);
                    let mut y = self.tensor(dtype, &[60], low, high);
                    if dtype.is_int() {
                        for (i, v) in [i64::MIN >> 8, i64::MAX >> 8, 0].into_iter().enumerate() {
                            set(&mut x, i, Scalar::from_i64(dtype, v));
                        }
                        if f != Pow {
                            set(&mut y, 5, Scalar::from_i64(dtype, 64));
                        }
                        set(&mut y, 6, Scalar::from_i64(dtype, 0));
                    }
                    if dtype == DType::I32 {
                        set(&mut x, 7, Scalar::from_i64(dtype, i64::from(i32::MIN)));
                        set(&mut y, 7, Scalar::from_i64(dtype, -1));
                    }
                    self.add(&format!("{f:?}"), Op::Map(Map::binary(f)), vec![x, y], tolerance(dtype));
                }
            }
        }
        for from in DType::ALL {
            for to in DType::ALL {
                let low = if matches!(from, DType::U8 | DType::Bool) { 0.0 } else { -100.0 };
                let mut x = self.tensor(from, &[50], low, 100.0);
                if from.is_float() {
                    for (i, v) in [f64::NAN, 1e30, -1e30, 300.0, -300.0, 65519.9, 2.5].into_iter().enumerate()
                    {
                        set(&mut x, i, Scalar::from_f64(from, v));
                    }
                }
                self.add(&format!("to {to}"), Op::Map(Map::cast(to)), vec![x], 0.0);
            }
        }
        // Broadcasting, views, and a large one that takes several elements a thread.
        let add = || Op::Map(Map::binary(Binary::Add));
        for (a, b) in [
            (&[3usize, 1, 5][..], &[4, 1][..]),
            (&[], &[2, 3]),
            (&[7], &[]),
            (&[0, 3], &[3]),
            (&[530_001], &[1]),
        ] {
            let (a, b) = (self.tensor(DType::F32, a, -1.0, 1.0), self.tensor(DType::F32, b, -1.0, 1.0));
            self.add("broadcast", add(), vec![a, b], 0.0);
        }
        for view in self.views(&[5, 6, 7]) {
            let x = self.tensor(DType::F32, &[5, 6, 7], -1.0, 1.0);
            let operand = Operand { place: Place::Input(0), dtype: DType::F32, layout: view };
            let code = vec![
                Instr::Input(0),
                Instr::Const(Scalar::from_f64(DType::F32, 0.1)),
                Instr::Binary(Binary::Mul, 0, 1),
                Instr::Binary(Binary::Lt, 2, 1),
                Instr::Select(3, 0, 2),
            ];
            self.add_views("view", Op::Map(Map { code }), vec![operand], vec![x], 0.0);
        }
    }
}
