"""Row 11: products and decompositions from several threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import streampool as sp

from ..check import near, require
from ..context import Context
from ..row import row

Array = np.ndarray[Any, Any]
N = 64


def products(context: Context) -> dict[str, Callable[[int], Array]]:
    """The seed's three products; the shapes are checked by NumPy's answer in float64."""
    make = context.randn

    def both(f: Callable[..., sp.Tensor], reference: Callable[..., Array], *shapes: tuple[int, ...]) -> Any:
        def work(seed: int) -> Array:
            operands = [make(*shape, seed=10 * seed + k) for k, shape in enumerate(shapes)]
            got = f(*operands)
            sp.synchronize(context.device)
            want = reference(*(x.numpy().astype(np.float64) for x in operands))
            near(got.numpy(), want, 1e-5, f"{f.__name__} of seed {seed}")
            return got.numpy()

        return work

    def gram(x: sp.Tensor) -> sp.Tensor:
        return sp.mm(x.t(), x)

    return {
        "bmm": both(sp.bmm, np.matmul, (32, 64, 128), (32, 128, 64)),
        "mm(x.t(), x)": both(gram, lambda x: x.T @ x, (64, 128)),
        "matmul": both(sp.matmul, np.matmul, (64, 128), (128, 64)),
    }


def decompositions(context: Context) -> dict[str, Callable[[int], Array]]:
    """Seven functions of 64x64 matrices: each puts its matrix together again, to 1e-4."""
    linalg = sp.linalg

    def matrix(seed: int) -> sp.Tensor:
        return context.randn(N, N, seed=seed)

    def positive(seed: int) -> sp.Tensor:
        a = matrix(seed)
        return sp.mm(a, a.t()) + sp.eye(N, device=context.device) * float(N)

    def again(name: str, parts: Array, want: Array) -> None:
        require(parts.shape == want.shape, f"{name}: shape {parts.shape}")
        near(parts, want, 1e-4, name)

    def cholesky(seed: int) -> Array:
        a = positive(seed)
        l = linalg.cholesky(a).numpy()  # noqa: E741
        again("cholesky", l @ l.T, a.numpy())
        require(not np.triu(l, 1).any(), "cholesky: not lower triangular")
        return l

    def qr(seed: int) -> Array:
        a = matrix(seed)
        q, r = (x.numpy() for x in linalg.qr(a))
        again("qr", q @ r, a.numpy())
        again("qr: q is orthogonal", q.T @ q, np.eye(N, dtype=np.float32))
        require(np.abs(np.tril(r, -1)).max() <= 1e-5, "qr: r is not upper triangular")
        return np.concatenate([q, r])

    def svd(seed: int) -> Array:
        a = matrix(seed)
        u, s, vh = (x.numpy() for x in linalg.svd(a))
        again("svd", u * s @ vh, a.numpy())
        again("svd: values", s, np.linalg.svd(a.numpy().astype(np.float64), compute_uv=False))
        return np.concatenate([u, s[None], vh])

    def eigh(seed: int) -> Array:
        a = matrix(seed)
        a = a + a.t()
        w, v = (x.numpy() for x in linalg.eigh(a))
        again("eigh", v * w @ v.T, a.numpy())
        again("eigh: values", w, np.linalg.eigvalsh(a.numpy().astype(np.float64)))
        return np.concatenate([w[None], v])

    def solve(seed: int) -> Array:
        a, b = positive(seed), context.randn(N, 3, seed=seed + 1)
        x = linalg.solve(a, b).numpy()
        again("solve", a.numpy() @ x, b.numpy())
        return x

    def inv(seed: int) -> Array:
        a = positive(seed)
        x = linalg.inv(a).numpy()
        again("inv", a.numpy() @ x, np.eye(N, dtype=np.float32))
        return x

    def det(seed: int) -> Array:
        # Scaled so that the determinant is about 1: that of a normal 64x64 matrix overflows float32.
        a = sp.eye(N, device=context.device) + matrix(seed) * 0.02
        d = linalg.det(a).numpy()
        again("det", d, np.asarray(np.linalg.det(a.numpy().astype(np.float64))))
        return d

    return {f.__name__: f for f in (cholesky, qr, svd, eigh, solve, inv, det)}


@row(11, "Linalg Ops")
def linalg_ops(context: Context) -> str:
    """2 and 4 threads x 20: three products, seven decompositions."""
    work = products(context)
    threads_and_iterations = ((2, 20), (4, 20))
    for f in work.values():
        serial = context.serial(f, range(20))
        for threads, iterations in threads_and_iterations:
            context.storm(threads, iterations, f, lambda t, i: (7 * t + i) % 20, serial)
    functions = decompositions(context)
    for f in functions.values():
        serial = context.serial(f, range(5))
        for threads, iterations in threads_and_iterations:
            context.storm(threads, iterations, f, lambda t, i: (3 * t + i) % 5, serial)
    return (
        f"{context.counted} results of {len(work)} products and {len(functions)} decompositions, reconstructed to 1e-4"
    )
