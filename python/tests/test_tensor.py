"""Tensors against NumPy, on fresh random numbers."""

import math

import numpy as np
import pytest
import streampool as sp

DTYPES = ["float32", "float64", "int32", "int64", "int8", "uint8"]


def random(rng, shape, dtype="float32"):
    if dtype.startswith("float"):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(1, 9, shape).astype(dtype)


def equal(tensor, array, rtol=1e-6, atol=1e-6):
    assert tensor.shape == np.shape(array)
    np.testing.assert_allclose(tensor.numpy(), array, rtol=rtol, atol=atol)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_operators_broadcast_like_numpy(device, rng, name, dtype):
    f = BINARY[name]
    for shapes in [((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3)), ((0, 3), (1, 3))]:
        a, b = (random(rng, s, dtype) for s in shapes)
        want = f(a, b)
        got = f(sp.tensor(a), sp.tensor(b))
        assert got.dtype.name == str(want.dtype)
        equal(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BINARY)
def test_numbers_may_stand_on_either_side(device, rng, name):
    f = BINARY[name]
    a = random(rng, (5, 3))
    t = sp.tensor(a)
    for n in (2, 2.5, True, np.float32(1.5), np.int64(3)):
        equal(f(t, n), f(a, np.float32(n)), rtol=1e-5, atol=1e-5)
        equal(f(n, t), f(np.float32(n), a), rtol=1e-5, atol=1e-5)


def test_division_and_power(device, rng):
    a, b = np.abs(random(rng, (4, 5))) + 0.1, random(rng, (4, 5))
    ta, tb = sp.tensor(a), sp.tensor(b)
    equal(ta / tb, a / b, rtol=1e-5)
    equal(1 / ta, 1 / a, rtol=1e-5)
    equal(ta**tb, a**b, rtol=1e-4)
    equal(ta**2, a**2, rtol=1e-5)
    equal(2**tb, 2**b, rtol=1e-5)
    equal(-ta, -a)
    equal(abs(tb), np.abs(b))
    i = random(rng, (6,), "int64")
    assert (sp.tensor(i) / 2).dtype is sp.float32
    equal(sp.tensor(i) / 2, i / 2)


def test_integers_are_exact(device):
    big = 2**62 + 1
    t = sp.tensor([big])
    assert t.item() == big
    assert (t + 2).item() == big + 2
    assert sp.full((2,), big).tolist() == [big, big]
    assert (t == big).item() is True
    assert (t == big - 1).item() is False
    with pytest.raises(sp.InvalidArgument, match="does not fit"):
        sp.tensor([1], dtype="int8") + 300
    with pytest.raises(sp.InvalidArgument):
        t + 2**70


def test_types_are_promoted_like_pytorch(device):
    one = {
        d: sp.ones(1, dtype=d) for d in ["float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool"]
    }
    for a, b, want in [
        ("float16", "bfloat16", "float32"),
        ("int64", "float16", "float16"),
        ("uint8", "int32", "int32"),
        ("bool", "uint8", "uint8"),
        ("float32", "float64", "float64"),
    ]:
        assert (one[a] * one[b]).dtype.name == want
        assert (one[b] * one[a]).dtype.name == want
    assert (one["int64"] * 2.0).dtype is sp.float32
    assert (one["bool"] + 1).dtype is sp.int64
    assert (one["float16"] * 2.5).dtype is sp.float16


def test_bits_and_logic(device, rng):
    a, b = rng.integers(0, 2, (2, 7)).astype(bool)
    i, j = rng.integers(0, 100, (2, 7))
    ta, tb, ti, tj = map(sp.tensor, (a, b, i, j))
    equal(ta & tb, a & b)
    equal(ta | tb, a | b)
    equal(ta ^ tb, a ^ b)
    equal(~ta, ~a)
    equal(ti & tj, i & j)
    equal(ti | 3, i | 3)
    equal(ti ^ tj, i ^ j)
    equal(~ti, ~i)
    equal(ti << 2, i << 2)
    equal(ti >> 1, i >> 1)
    equal(ti.logical_and(tb), (i != 0) & b)


UNARY = {
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "tanh": np.tanh,
    "abs": np.abs, "neg": np.negative, "floor": np.floor, "ceil": np.ceil, "round": np.round, "trunc": np.trunc,
    "sign": np.sign, "log1p": np.log1p, "expm1": np.expm1, "sinh": np.sinh, "cosh": np.cosh, "atan": np.arctan,
    "asinh": np.arcsinh, "reciprocal": np.reciprocal, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)), "softplus": lambda x: np.log1p(np.exp(x)),
    "erf": np.vectorize(math.erf), "gelu": np.vectorize(lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_element(device, rng, name):
    x = np.abs(random(rng, (3, 17), "float64")) + 0.05
    want = UNARY[name](x)
    equal(getattr(sp.tensor(x), name)(), want, rtol=1e-6, atol=1e-9)
    equal(getattr(sp, name, lambda t: getattr(t, name)())(sp.tensor(x.astype(np.float32))), want, rtol=1e-4, atol=1e-5)
    assert getattr(sp.tensor(x[:0]), name)().shape == (0, 17)


def test_nan_and_infinity_pass_through(device):
    x = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    t = sp.tensor(x)
    equal(t.relu(), [np.nan, np.inf, 0, 0])
    equal(t.clamp(-1, 1), [np.nan, 1, -1, 0])
    assert t.isnan().tolist() == [True, False, False, False]
    assert math.isnan(t.max().item())
    assert math.isnan(t.sum().item())


@pytest.mark.parametrize("dim", [None, 0, 1, -1, (0, 2), (-1, 0, 1)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_reductions(device, rng, dim, keepdim):
    x = random(rng, (3, 4, 5), "float64")
    t = sp.tensor(x)
    for name, f in {"sum": np.sum, "mean": np.mean, "prod": np.prod, "amax": np.max, "amin": np.min}.items():
        want = f(x, axis=dim, keepdims=keepdim and dim is not None)
        got = getattr(t, name)(dim, keepdim) if dim is not None else getattr(t, name)()
        equal(got, want, rtol=1e-9, atol=1e-9)
    if dim is not None:
        equal(t.var(dim, keepdim=keepdim), x.var(axis=dim, ddof=1, keepdims=keepdim), rtol=1e-9)
        equal(t.std(dim, correction=0, keepdim=keepdim), x.std(axis=dim, keepdims=keepdim), rtol=1e-9)
        equal(t.norm(2.0, dim, keepdim), np.sqrt((x * x).sum(axis=dim, keepdims=keepdim)), rtol=1e-9)


def test_extrema_and_order(device, rng):
    x = rng.permutation(60).reshape(3, 4, 5).astype(np.float32)
    t = sp.tensor(x)
    assert t.max().item() == x.max()
    assert t.argmax().item() == x.argmax()
    equal(t.argmin(1), x.argmin(1))
    values, indices = t.max(dim=2)
    equal(values, x.max(2))
    equal(indices, x.argmax(2))
    equal(t.min(dim=0, keepdim=True).values, x.min(0, keepdims=True))
    equal(t.sort(1).values, np.sort(x, 1))
    equal(t.argsort(-1), np.argsort(x, -1))
    equal(t.topk(2).values, -np.sort(-x, -1)[..., :2])
    equal(t.cumsum(1), np.cumsum(x, 1))
    e = np.exp(x - x.max(1, keepdims=True))
    equal(t.softmax(1), e / e.sum(1, keepdims=True), rtol=1e-5)
    equal(t.log_softmax(-1).exp().sum(-1), np.ones((3, 4)), rtol=1e-5)
    assert sp.tensor([1, 2, 3]).sum().dtype is sp.int64


@pytest.mark.parametrize(
    "index",
    [
        np.s_[0], np.s_[-1], np.s_[1:3], np.s_[::-1], np.s_[::2, 1], np.s_[..., 0], np.s_[None, :, None], np.s_[1, 2, 3],
        np.s_[:, -2:], np.s_[3:1], np.s_[..., ::-2], np.s_[-1, ..., 1:], np.s_[10:], np.s_[:0], np.s_[5:-10:-1],
        np.s_[2:0:-1, ::-1, None],
    ],
)  # fmt: skip
def test_indexing_is_numpys(device, rng, index):
    x = random(rng, (4, 3, 5))
    equal(sp.tensor(x)[index], x[index])
    # A view of a view, and an operation on it.
    equal(sp.tensor(x)[:, ::-1][index] * 2, x[:, ::-1][index] * 2)


def test_indexing_by_tensors(device, rng):
    x = random(rng, (4, 3, 5))
    t = sp.tensor(x)
    i = rng.integers(-4, 4, (2, 6))
    equal(t[sp.tensor(i)], x[i])
    equal(t[i], x[i])
    equal(t[:, [2, 0]], x[:, [2, 0]])
    mask = x > 0
    equal(t[t > 0], x[mask])
    equal(t[sp.tensor(mask[:, 0, 0])], x[mask[:, 0, 0]])
    equal(t.gather(1, sp.tensor(rng.integers(0, 3, (4, 2, 5)) * 0)), x[:, [0, 0]])
    equal(t.index_select(2, sp.tensor([4, 0])), x[:, :, [4, 0]])
    with pytest.raises(sp.InvalidArgument):
        t[sp.tensor([4])].numpy()
    for bad in (4, -5, (0, 3), (0, 0, 0, 0), np.s_[..., ...], 1.5, "a", True):
        with pytest.raises((IndexError, TypeError, NotImplementedError)):
            t[bad]


def test_views_share_and_copies_do_not(device, rng):
    x = random(rng, (4, 6))
    t = sp.tensor(x)
    equal(t.t(), x.T)
    equal(t.T.contiguous(), x.T)
    equal(t.view(2, 12), x.reshape(2, 12))
    equal(t.t().reshape(-1), x.T.reshape(-1))
    with pytest.raises(sp.InvalidArgument, match="without a copy"):
        t.t().view(-1)
    equal(t.unsqueeze(1).expand(4, 3, -1), np.broadcast_to(x[:, None], (4, 3, 6)))
    equal(t.repeat(2, 1, 2), np.tile(x, (2, 1, 2)))
    equal(t.permute(1, 0).flip(0), x.T[::-1])
    equal(t[None, :, None].squeeze(), x)
    equal(t.flatten(), x.ravel())
    equal(t.unflatten(1, (2, -1)), x.reshape(4, 2, 3))
    for got, want in zip(t.split(4, 1), np.split(x, [4], 1), strict=True):
        equal(got, want)
    assert [p.shape for p in t.chunk(3)] == [(2, 6), (2, 6)]
    for got, want in zip(t, x, strict=True):
        equal(got, want)
    equal(t.tril(1), np.tril(x, 1))
    equal(t.triu(-1), np.triu(x, -1))
    equal(sp.cat([t, t[:1]], 0), np.concatenate([x, x[:1]], 0))
    equal(sp.stack([t, t * 2], -1), np.stack([x, x * 2], -1))
    equal(t.narrow(1, 2, 3), x[:, 2:5])
    assert sp.broadcast_tensors(sp.ones(3, 1), sp.ones(2))[0].shape == (3, 2)


def test_products(device, rng):
    a, b = random(rng, (7, 5)), random(rng, (5, 3))
    ta, tb = sp.tensor(a), sp.tensor(b)
    equal(ta @ tb, a @ b, rtol=1e-4, atol=1e-5)
    equal(sp.mm(tb.t(), ta.t()), b.T @ a.T, rtol=1e-4, atol=1e-5)
    equal(ta @ tb[:, 0], a @ b[:, 0], rtol=1e-4, atol=1e-5)
    equal(ta[0].dot(tb[:, 1]), a[0] @ b[:, 1], rtol=1e-4, atol=1e-5)
    x, y = random(rng, (2, 4, 5)), random(rng, (2, 5, 6))
    equal(sp.bmm(sp.tensor(x), sp.tensor(y)), x @ y, rtol=1e-4, atol=1e-5)
    equal(a.T @ sp.tensor(a), a.T @ a, rtol=1e-4, atol=1e-5)
    assert (sp.zeros(3, 0) @ sp.zeros(0, 2)).tolist() == [[0, 0]] * 3


def test_creation(device):
    assert sp.zeros(2, 3).tolist() == [[0] * 3] * 2
    assert sp.ones((2,), dtype=int).dtype is sp.int64
    assert sp.full((2,), 7.5).tolist() == [7.5, 7.5]
    assert sp.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert sp.arange(1, 2, 0.25).tolist() == [1, 1.25, 1.5, 1.75]
    assert sp.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert sp.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert sp.tensor([[1, 2], [3, 4]]).dtype is sp.int64
    assert sp.tensor([1.5, 2]).dtype is sp.float32
    assert sp.tensor([True]).dtype is sp.bool
    assert sp.tensor(np.float64(2)).dtype is sp.float64
    assert sp.tensor(3).shape == ()
    assert sp.zeros(0, 4).shape == (0, 4)
    like = sp.ones_like(sp.zeros(2, 2, dtype="float16"))
    assert (like.dtype, like.sum().item()) == (sp.float16, 4)
    assert sorted(sp.randperm(20).tolist()) == list(range(20))
    ints = sp.randint(3, 7, (500,))
    assert set(ints.tolist()) == {3, 4, 5, 6}


def test_random_numbers_depend_on_the_seed_alone(rng):
    seed = int(rng.integers(2**40))
    draws = []
    for name in ("cpu", "sim"):
        g = sp.Generator(seed)
        draws.append([sp.randn(100, device=name, generator=g).numpy(), sp.rand(100, device=name, generator=g).numpy()])
        state = g.get_state()
        again = sp.Generator().manual_seed(seed)
        again.set_state(state)
        a, b = sp.rand(5, generator=g), sp.rand(5, generator=again)
        assert a.equal(b)
    np.testing.assert_array_equal(draws[0], draws[1])
    normal = sp.randn(200_000, generator=sp.Generator(seed)).numpy()
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    sp.manual_seed(seed)
    first = sp.randn(4)
    sp.manual_seed(seed)
    assert first.equal(sp.randn(4))
    assert not first.equal(sp.randn(4))


def test_where_and_masks(device, rng):
    x = random(rng, (3, 4))
    t = sp.tensor(x)
    equal(sp.where(t > 0, t, 0), np.where(x > 0, x, 0))
    equal(sp.where(t > 0, 1.0, t), np.where(x > 0, 1, x))
    equal(t.masked_fill(t < 0, float("-inf")), np.where(x < 0, -np.inf, x))
    equal(t.clamp(min=0), np.maximum(x, 0))
    equal(t.maximum(-t), np.abs(x))


def test_conversions(device, rng):
    x = random(rng, (3, 4)) * 10
    t = sp.tensor(x)
    equal(t.int(), x.astype(np.int32))
    equal(t.half(), x.astype(np.float16))
    assert t.to(sp.float64).dtype is sp.float64
    assert t.to("cpu").device.type == "cpu"
    assert t.to("sim", sp.float16).device == "sim"
    assert t.float().dtype is sp.float32
    assert t.bool().all().item()
    assert float(sp.tensor([2.5])) == 2.5
    assert int(sp.tensor(7)) == 7
    assert [0, 1, 2][sp.tensor(1)] == 1
    assert t.tolist() == x.tolist()
    for bad in (lambda: t.item(), lambda: bool(t)):
        with pytest.raises(sp.InvalidArgument):
            bad()


def test_tensors_cannot_be_written_to(device):
    t = sp.ones(3)
    with pytest.raises(sp.Unsupported, match="immutable"):
        t[0] = 2


def test_text_shows_values_dtype_and_device():
    assert repr(sp.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(sp.tensor([1.5], dtype="float16")) == "tensor([1.5], dtype=streampool.float16)"
    assert repr(sp.tensor([1], device="sim")) == "tensor([1], device='sim')"
