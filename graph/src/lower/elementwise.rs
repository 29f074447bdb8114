//! Elementwise expressions, as operators write them.

use streampool_core::op::{Binary, DType, Instr, Map, Op, Reg, Scalar, Unary};

use super::{LResult, Lower, View};

/// A map under construction: an expression over views, with the dtype of every register.
#[derive(Debug, Default)]
pub(crate) struct Expr {
    code: Vec<Instr>,
    dtypes: Vec<DType>,
    inputs: Vec<View>,
}

impl Expr {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, instr: Instr, dtype: DType) -> Reg {
        self.code.push(instr);
        self.dtypes.push(dtype);
        (self.code.len() - 1) as Reg
    }

    pub(crate) fn input(&mut self, v: &View) -> Reg {
        if let Some(i) = self.inputs.iter().position(|x| x == v) {
            let at = self.code.iter().position(|c| *c == Instr::Input(i as u8));
            return at.expect("every input has its instruction") as Reg;
        }
        self.inputs.push(v.clone());
        self.push(Instr::Input((self.inputs.len() - 1) as u8), v.dtype)
    }

    /// A number of the dtype of register `like`.
    pub(crate) fn num(&mut self, like: Reg, value: f64) -> Reg {
        let dtype = self.dtypes[like as usize];
        self.push(Instr::Const(Scalar::from_f64(dtype, value)), dtype)
    }

    pub(crate) fn un(&mut self, f: Unary, a: Reg) -> Reg {
        let dtype = if f.is_test() { DType::Bool } else { self.dtypes[a as usize] };
        self.push(Instr::Unary(f, a), dtype)
    }

    pub(crate) fn bin(&mut self, f: Binary, a: Reg, b: Reg) -> Reg {
        let dtype = if f.is_comparison() { DType::Bool } else { self.dtypes[a as usize] };
        self.push(Instr::Binary(f, a, b), dtype)
    }

    pub(crate) fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.bin(Binary::Add, a, b)
    }

    pub(crate) fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.bin(Binary::Sub, a, b)
    }

    pub(crate) fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.bin(Binary::Mul, a, b)
    }

    pub(crate) fn div(&mut self, a: Reg, b: Reg) -> Reg {
        self.bin(Binary::Div, a, b)
    }

    pub(crate) fn select(&mut self, c: Reg, a: Reg, b: Reg) -> Reg {
        let dtype = self.dtypes[a as usize];
        self.push(Instr::Select(c, a, b), dtype)
    }

    pub(crate) fn cast(&mut self, dtype: DType, a: Reg) -> Reg {
        if self.dtypes[a as usize] == dtype {
            return a;
        }
        self.push(Instr::Cast(dtype, a), dtype)
    }
}

impl Lower<'_> {
    /// Emits the expression whose value is the register made last.
    pub(crate) fn map(&mut self, e: Expr) -> LResult<View> {
        self.emit1(Op::Map(Map { code: e.code }), &e.inputs)
    }

    pub(crate) fn unary(&mut self, f: Unary, v: &View) -> LResult<View> {
        self.emit1(Op::Map(Map::unary(f)), std::slice::from_ref(v))
    }

    pub(crate) fn binary(&mut self, f: Binary, a: &View, b: &View) -> LResult<View> {
        let mut e = Expr::new();
        let (x, y) = (e.input(a), e.input(b));
        e.bin(f, x, y);
        self.map(e)
    }

    /// `v` and a number of its dtype.
    pub(crate) fn with_number(&mut self, f: Binary, v: &View, number: f64) -> LResult<View> {
        let mut e = Expr::new();
        let x = e.input(v);
        let n = e.num(x, number);
        e.bin(f, x, n);
        self.map(e)
    }

    pub(crate) fn cast(&mut self, v: &View, dtype: DType) -> LResult<View> {
        if v.dtype == dtype {
            return Ok(v.clone());
        }
        self.emit1(Op::Map(Map::cast(dtype)), std::slice::from_ref(v))
    }

    pub(crate) fn select(&mut self, c: &View, a: &View, b: &View) -> LResult<View> {
        let mut e = Expr::new();
        let (c, a, b) = (e.input(c), e.input(a), e.input(b));
        e.select(c, a, b);
        self.map(e)
    }

    /// A one-input expression.
    pub(crate) fn map1(&mut self, v: &View, f: impl FnOnce(&mut Expr, Reg)) -> LResult<View> {
        let mut e = Expr::new();
        let x = e.input(v);
        f(&mut e, x);
        self.map(e)
    }
}
