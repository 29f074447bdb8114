//! Elementwise functions and Python's operators.

use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use streampool::ops::{Operand, apply1};
use streampool::{Number, Tensor};
use streampool_core::op::{Binary, DType, Instr, Map, Op, Scalar, Unary};

use super::PyTensor;
use crate::convert;
use crate::errors::invalid;
use crate::lock::released;

/// The other side of an operator.
enum Other {
    Tensor(Tensor),
    Number(Number),
}

fn other(ob: &Bound<'_, PyAny>, t: &Tensor) -> PyResult<Option<Other>> {
    if let Ok(tensor) = ob.cast::<PyTensor>() {
        return Ok(Some(Other::Tensor(tensor.get().inner.clone())));
    }
    if let Some(array) = crate::numpy_array::as_array(ob) {
        return crate::numpy_array::copy_to_tensor(array, &t.device()).map(|t| Some(Other::Tensor(t)));
    }
    Ok(convert::number(ob)?.map(Other::Number))
}

impl PyTensor {
    fn binary(
        &self,
        f: Binary,
        ob: &Bound<'_, PyAny>,
        reversed: bool,
        name: &str,
    ) -> PyResult<Option<PyTensor>> {
        let Some(other) = other(ob, &self.inner)? else { return Ok(None) };
        self.with(ob.py(), |t| match &other {
            Other::Number(n) => t.binary_number(f, *n, reversed, name),
            Other::Tensor(o) if reversed => o.binary_op(f, t, name),
            Other::Tensor(o) => t.binary_op(f, o, name),
        })
        .map(Some)
    }

    fn must(&self, f: Binary, ob: &Bound<'_, PyAny>, name: &str) -> PyResult<PyTensor> {
        match self.binary(f, ob, false, name)? {
            Some(result) => Ok(result),
            None => Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "{name}: needs a Tensor, an array or a number, got {}",
                ob.get_type().name()?
            ))),
        }
    }

    fn operator<'py>(
        &self,
        f: Binary,
        ob: &Bound<'py, PyAny>,
        reversed: bool,
        name: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = ob.py();
        match self.binary(f, ob, reversed, name)? {
            Some(result) => Ok(Bound::new(py, result)?.into_any()),
            None => Ok(py.NotImplemented().into_bound(py)),
        }
    }

    /// `&`, `|` and `^`: logical for bools, bit by bit for integers.
    fn bitwise<'py>(
        &self,
        logical: Binary,
        bits: Binary,
        ob: &Bound<'py, PyAny>,
        name: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bool_other = match ob.cast::<PyTensor>() {
            Ok(t) => t.get().inner.dtype() == DType::Bool,
            Err(_) => ob.is_instance_of::<pyo3::types::PyBool>(),
        };
        let f = if self.inner.dtype() == DType::Bool && bool_other { logical } else { bits };
        self.operator(f, ob, false, name)
    }

    fn unary(&self, py: Python<'_>, f: Unary, name: &str) -> PyResult<PyTensor> {
        self.with(py, |t| t.unary_op(f, name))
    }
}

#[pymethods]
impl PyTensor {
    fn __add__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Add, other, false, "add")
    }
    fn __radd__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Add, other, true, "add")
    }
    fn __sub__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Sub, other, false, "sub")
    }
    fn __rsub__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Sub, other, true, "sub")
    }
    fn __mul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Mul, other, false, "mul")
    }
    fn __rmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Mul, other, true, "mul")
    }
    fn __truediv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Div, other, false, "div")
    }
    fn __rtruediv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Div, other, true, "div")
    }
    fn __floordiv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::FloorDiv, other, false, "floor_divide")
    }
    fn __rfloordiv__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::FloorDiv, other, true, "floor_divide")
    }
    fn __mod__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Mod, other, false, "remainder")
    }
    fn __rmod__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Mod, other, true, "remainder")
    }
    fn __pow__<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        modulo: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if modulo.is_some_and(|m| !m.is_none()) {
            return Err(crate::errors::unsupported("pow with a modulo has no meaning for tensors"));
        }
        self.operator(Binary::Pow, other, false, "pow")
    }
    fn __rpow__<'py>(
        &self,
        other: &Bound<'py, PyAny>,
        _modulo: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Pow, other, true, "pow")
    }
    fn __and__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::And, Binary::BitAnd, other, "and")
    }
    fn __rand__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::And, Binary::BitAnd, other, "and")
    }
    fn __or__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::Or, Binary::BitOr, other, "or")
    }
    fn __ror__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::Or, Binary::BitOr, other, "or")
    }
    fn __xor__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::Xor, Binary::BitXor, other, "xor")
    }
    fn __rxor__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.bitwise(Binary::Xor, Binary::BitXor, other, "xor")
    }
    fn __lshift__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Shl, other, false, "shift")
    }
    fn __rshift__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.operator(Binary::Shr, other, false, "shift")
    }
    fn __matmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = other.py();
        match convert::tensor_on(other, &self.inner.device())? {
            Some(b) => Ok(Bound::new(py, self.with(py, |a| a.matmul(&b))?)?.into_any()),
            None => Ok(py.NotImplemented().into_bound(py)),
        }
    }
    fn __rmatmul__<'py>(&self, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = other.py();
        match convert::tensor_on(other, &self.inner.device())? {
            Some(a) => Ok(Bound::new(py, self.with(py, |b| a.matmul(b))?)?.into_any()),
            None => Ok(py.NotImplemented().into_bound(py)),
        }
    }
    fn __neg__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.unary(py, Unary::Neg, "neg")
    }
    fn __pos__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }
    fn __abs__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.unary(py, Unary::Abs, "abs")
    }
    fn __invert__(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.unary(py, if self.inner.dtype() == DType::Bool { Unary::Not } else { Unary::BitNot }, "invert")
    }
    fn __richcmp__<'py>(&self, other: &Bound<'py, PyAny>, op: CompareOp) -> PyResult<Bound<'py, PyAny>> {
        let (f, name) = match op {
            CompareOp::Eq => (Binary::Eq, "eq"),
            CompareOp::Ne => (Binary::Ne, "ne"),
            CompareOp::Lt => (Binary::Lt, "lt"),
            CompareOp::Le => (Binary::Le, "le"),
            CompareOp::Gt => (Binary::Gt, "gt"),
            CompareOp::Ge => (Binary::Ge, "ge"),
        };
        self.operator(f, other, false, name)
    }

    /// Sum: `self + alpha * other`.
    #[pyo3(signature = (other, *, alpha=None))]
    fn add(&self, other: &Bound<'_, PyAny>, alpha: Option<&Bound<'_, PyAny>>) -> PyResult<PyTensor> {
        match alpha {
            Some(alpha) => self.must(Binary::Add, &other.mul(alpha)?, "add"),
            None => self.must(Binary::Add, other, "add"),
        }
    }
    /// Difference: `self - alpha * other`.
    #[pyo3(signature = (other, *, alpha=None))]
    fn sub(&self, other: &Bound<'_, PyAny>, alpha: Option<&Bound<'_, PyAny>>) -> PyResult<PyTensor> {
        match alpha {
            Some(alpha) => self.must(Binary::Sub, &other.mul(alpha)?, "sub"),
            None => self.must(Binary::Sub, other, "sub"),
        }
    }
    /// Product.
    fn mul(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Mul, other, "mul")
    }
    /// Quotient; integers are divided in float32. `rounding_mode` is None, "floor" or "trunc".
    #[pyo3(signature = (other, *, rounding_mode=None))]
    fn div(&self, other: &Bound<'_, PyAny>, rounding_mode: Option<&str>) -> PyResult<PyTensor> {
        match rounding_mode {
            None => self.must(Binary::Div, other, "div"),
            Some("floor") => self.must(Binary::FloorDiv, other, "div"),
            Some("trunc") => {
                let quotient = self.must(Binary::Div, other, "div")?;
                quotient.unary(other.py(), Unary::Trunc, "div")
            }
            Some(mode) => {
                Err(invalid(format!("div: there is no rounding mode '{mode}'; there are floor and trunc")))
            }
        }
    }
    /// Quotient rounded down.
    fn floor_divide(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::FloorDiv, other, "floor_divide")
    }
    /// Python's modulo: the sign of the divisor.
    fn remainder(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Mod, other, "remainder")
    }
    /// C's remainder: the sign of the dividend.
    fn fmod(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Rem, other, "fmod")
    }
    /// Power.
    fn pow(&self, exponent: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Pow, exponent, "pow")
    }
    /// The lesser of both; NaN wins.
    fn minimum(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Min, other, "minimum")
    }
    /// The greater of both; NaN wins.
    fn maximum(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Max, other, "maximum")
    }
    /// The angle of (other, self).
    fn atan2(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Atan2, other, "atan2")
    }
    /// `==`. Bool.
    fn eq(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Eq, other, "eq")
    }
    /// `!=`. Bool.
    fn ne(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Ne, other, "ne")
    }
    /// `<`. Bool.
    fn lt(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Lt, other, "lt")
    }
    /// `<=`. Bool.
    fn le(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Le, other, "le")
    }
    /// `>`. Bool.
    fn gt(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Gt, other, "gt")
    }
    /// `>=`. Bool.
    fn ge(&self, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        self.must(Binary::Ge, other, "ge")
    }
    /// Both, as bools.
    fn logical_and(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::Bool)?.logical_and(&other.inner.cast(DType::Bool)?))
    }
    /// Either, as bools.
    fn logical_or(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::Bool)?.logical_or(&other.inner.cast(DType::Bool)?))
    }
    /// One of the two, as bools.
    fn logical_xor(&self, py: Python<'_>, other: &PyTensor) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::Bool)?.logical_xor(&other.inner.cast(DType::Bool)?))
    }
    /// Not, as bools.
    fn logical_not(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| t.cast(DType::Bool)?.logical_not())
    }
    /// Whether neither NaN nor infinite. Bool.
    fn isfinite(&self, py: Python<'_>) -> PyResult<PyTensor> {
        self.with(py, |t| {
            let (nan, inf) = (t.unary_op(Unary::IsNan, "isfinite")?, t.unary_op(Unary::IsInf, "isfinite")?);
            nan.logical_or(&inf)?.logical_not()
        })
    }
    /// Into [min, max]; either may be left out. NaN stays NaN.
    #[pyo3(signature = (min=None, max=None))]
    fn clamp(
        &self,
        py: Python<'_>,
        min: Option<&Bound<'_, PyAny>>,
        max: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyTensor> {
        let mut out = PyTensor::new(self.inner.clone());
        if let Some(min) = min.filter(|b| !b.is_none()) {
            out = out.must(Binary::Max, min, "clamp")?;
        }
        if let Some(max) = max.filter(|b| !b.is_none()) {
            out = out.must(Binary::Min, max, "clamp")?;
        }
        let _ = py;
        Ok(out)
    }
    /// As `clamp`.
    #[pyo3(signature = (min=None, max=None))]
    fn clip(
        &self,
        py: Python<'_>,
        min: Option<&Bound<'_, PyAny>>,
        max: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyTensor> {
        self.clamp(py, min, max)
    }
    /// This where `condition` holds, else `other`.
    #[pyo3(name = "where")]
    fn where_(&self, py: Python<'_>, condition: &PyTensor, other: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        let other = convert::need_tensor(other, &self.inner.device(), "where")?;
        self.with(py, |t| condition.inner.where_(t, &other))
    }
    /// `value` where `mask` holds, else this.
    fn masked_fill(&self, py: Python<'_>, mask: &PyTensor, value: &Bound<'_, PyAny>) -> PyResult<PyTensor> {
        let n = convert::number(value)?
            .ok_or_else(|| invalid(format!("masked_fill: the value is a number, got {value}")))?;
        let code = vec![
            Instr::Input(0),
            Instr::Input(1),
            Instr::Const(n.scalar(self.inner.dtype())),
            Instr::Select(1, 2, 0),
        ];
        self.with(py, |t| {
            let operands = [Operand::Tensor(t), Operand::Tensor(&mask.inner)];
            apply1("masked_fill", Op::Map(Map { code }), &operands)
        })
    }
    /// Gaussian error linear unit; `approximate` is "none" or "tanh".
    #[pyo3(signature = (approximate="none"))]
    fn gelu(&self, py: Python<'_>, approximate: &str) -> PyResult<PyTensor> {
        match approximate {
            "none" => self.unary(py, Unary::Gelu, "gelu"),
            "tanh" => self.unary(py, Unary::GeluTanh, "gelu"),
            other => {
                Err(invalid(format!("gelu: there is no approximation '{other}'; there are none and tanh")))
            }
        }
    }
    /// `x` if positive, else `negative_slope * x`.
    #[pyo3(signature = (negative_slope=0.01))]
    fn leaky_relu(&self, py: Python<'_>, negative_slope: f64) -> PyResult<PyTensor> {
        let constant = |v| Instr::Const(Scalar::from_f64(self.inner.dtype(), v));
        let code = vec![
            Instr::Input(0),
            constant(0.0),
            Instr::Binary(Binary::Lt, 0, 1),
            constant(negative_slope),
            Instr::Binary(Binary::Mul, 0, 3),
            Instr::Select(2, 4, 0),
        ];
        self.with(py, |t| apply1("leaky_relu", Op::Map(Map { code }), &[Operand::Tensor(t)]))
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $f:ident;)*) => {
        #[pymethods]
        impl PyTensor {
            $(
                $(#[$doc])*
                fn $name(&self, py: Python<'_>) -> PyResult<PyTensor> {
                    self.unary(py, Unary::$f, stringify!($name))
                }
            )*
        }
    };
}

unary! {
    /// `-x`.
    neg = Neg;
    /// `|x|`.
    abs = Abs;
    /// -1, 0 or 1.
    sign = Sign;
    /// Rounded up.
    ceil = Ceil;
    /// Rounded down.
    floor = Floor;
    /// Rounded towards zero.
    trunc = Trunc;
    /// Rounded to nearest, half to even.
    round = Round;
    /// Square root.
    sqrt = Sqrt;
    /// `1 / sqrt(x)`.
    rsqrt = Rsqrt;
    /// `1 / x`.
    reciprocal = Reciprocal;
    /// `e ** x`.
    exp = Exp;
    /// Natural logarithm.
    log = Log;
    /// `log(1 + x)`.
    log1p = Log1p;
    /// `e ** x - 1`.
    expm1 = Expm1;
    /// Sine.
    sin = Sin;
    /// Cosine.
    cos = Cos;
    /// Tangent.
    tan = Tan;
    /// Inverse sine.
    asin = Asin;
    /// Inverse cosine.
    acos = Acos;
    /// Inverse tangent.
    atan = Atan;
    /// Hyperbolic sine.
    sinh = Sinh;
    /// Hyperbolic cosine.
    cosh = Cosh;
    /// Hyperbolic tangent.
    tanh = Tanh;
    /// Inverse hyperbolic sine.
    asinh = Asinh;
    /// Inverse hyperbolic cosine.
    acosh = Acosh;
    /// Inverse hyperbolic tangent.
    atanh = Atanh;
    /// Error function.
    erf = Erf;
    /// `1 / (1 + e ** -x)`.
    sigmoid = Sigmoid;
    /// `max(x, 0)`.
    relu = Relu;
    /// `x * sigmoid(x)`.
    silu = Silu;
    /// `log(1 + e ** x)`.
    softplus = Softplus;
    /// Whether NaN. Bool.
    isnan = IsNan;
    /// Whether infinite. Bool.
    isinf = IsInf;
}

/// `input` where `condition` holds, else `other`: element by element, broadcast. One of the two may be a number.
#[pyfunction]
#[pyo3(name = "where")]
pub(crate) fn where_fn(
    condition: &Bound<'_, PyTensor>,
    input: &Bound<'_, PyAny>,
    other: &Bound<'_, PyAny>,
) -> PyResult<PyTensor> {
    let py = condition.py();
    let condition = &condition.get().inner;
    let device = condition.device();
    let dtype_of = |ob: &Bound<'_, PyAny>| ob.cast::<PyTensor>().ok().map(|t| t.get().inner.dtype());
    // A number takes the tensor's dtype unless it is of a higher kind.
    let number_as = |ob: &Bound<'_, PyAny>, beside: Option<DType>| -> PyResult<Tensor> {
        let t = convert::need_tensor(ob, &device, "where")?;
        match beside {
            Some(d)
                if convert::number(ob)?.is_some()
                    && (d.is_float() || !t.dtype().is_float())
                    && d != DType::Bool =>
            {
                released(py, || t.cast(d))
            }
            _ => Ok(t),
        }
    };
    let (a, b) = (number_as(input, dtype_of(other))?, number_as(other, dtype_of(input))?);
    released(py, || condition.where_(&a, &b)).map(PyTensor::new)
}
