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


def products(context: Context, *, checked: bool) -> dict[str, Callable[[int], Array]]:
    """The seed's three products; if `checked`, also their shapes and values by NumPy's answer in float64."""
    make = context.randn

    def both(f: Callable[..., sp.Tensor], reference: Callable[..., Array], *shapes: tuple[int, ...]) -> Any:
        def work(seed: int) -> Array:
            operands = [make(*shape, seed=10 * seed + k) for k, shape in enumerate(shapes)]
            got = f(*operands)
            sp.synchronize(context.device)
            if checked:
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


def decompositions(context: Context, *, checked: bool) -> dict[str, Callable[[int], Array]]:
    """Seven functions of 64x64 matrices; if `checked`, each puts its matrix together again, to 1e-4."""
    linalg = sp.linalg

    def matrix(seed: int) -> sp.Tensor:
        return context.randn(N, N, seed=seed)

    def positive(seed: int) -> sp.Tensor:
        a = matrix(seed)
        return sp.mm(a, a.t()) + sp.eye(N, device=context.device) * float(N)

    def again(name: str, parts: Callable[[], Array], want: Callable[[], Array]) -> None:
        if checked:
            got, right = parts(), want()
            require(got.shape == right.shape, f"{name}: shape {got.shape}")
            near(got, right, 1e-4, name)

    def holds(condition: Callable[[], Any], text: str) -> None:
        require(not checked or condition(), text)

    def cholesky(seed: int) -> Array:
        a = positive(seed)
        l = linalg.cholesky(a).numpy()  # noqa: E741
        again("cholesky", lambda: l @ l.T, a.numpy)
        holds(lambda: not np.triu(l, 1).any(), "cholesky: not lower triangular")
        return l

    def qr(seed: int) -> Array:
        a = matrix(seed)
        q, r = (x.numpy() for x in linalg.qr(a))
        again("qr", lambda: q @ r, a.numpy)
        again("qr: q is orthogonal", lambda: q.T @ q, lambda: np.eye(N, dtype=np.float32))
        holds(lambda: np.abs(np.tril(r, -1)).max() <= 1e-5, "qr: r is not upper triangular")
        return np.concatenate([q, r])

    def svd(seed: int) -> Array:
        a = matrix(seed)
        u, s, vh = (x.numpy() for x in linalg.svd(a))
        again("svd", lambda: u * s @ vh, a.numpy)
        again("svd: values", lambda: s, lambda: np.linalg.svd(a.numpy().astype(np.float64), compute_uv=False))
        return np.concatenate([u, s[None], vh])

    def eigh(seed: int) -> Array:
        a = matrix(seed)
        a = a + a.t()
        w, v = (x.numpy() for x in linalg.eigh(a))
        again("eigh", lambda: v * w @ v.T, a.numpy)
        again("eigh: values", lambda: w, lambda: np.linalg.eigvalsh(a.numpy().astype(np.float64)))
        return np.concatenate([w[None], v])

    def solve(seed: int) -> Array:
        a, b = positive(seed), context.randn(N, 3, seed=seed + 1)
        x = linalg.solve(a, b).numpy()
        again("solve", lambda: a.numpy() @ x, b.numpy)
        return x

    def inv(seed: int) -> Array:
        a = positive(seed)
        x = linalg.inv(a).numpy()
        again("inv", lambda: a.numpy() @ x, lambda: np.eye(N, dtype=np.float32))
        return x

    def det(seed: int) -> Array:
        # Scaled so that the determinant is about 1: that of a normal 64x64 matrix overflows float32.
        a = sp.eye(N, device=context.device) + matrix(seed) * 0.02
        d = linalg.det(a).numpy()
        again("det", lambda: d, lambda: np.asarray(np.linalg.det(a.numpy().astype(np.float64))))
        return d

    return {f.__name__: f for f in (cholesky, qr, svd, eigh, solve, inv, det)}


@row(11, "Linalg Ops")
def linalg_ops(context: Context) -> str:
    """2 and 4 threads x 20: three products, seven decompositions."""
    kinds = (products, 20, 7), (decompositions, 5, 3)
    for kind, seeds, step in kinds:
        plain = kind(context, checked=False)
        for name, f in kind(context, checked=True).items():
            # What is right serially is right from a thread that gives the same bits.
            serial = context.serial(f, range(seeds))
            for threads in (2, 4):
                context.storm(threads, 20, plain[name], lambda t, i, n=seeds, k=step: (k * t + i) % n, serial)  # type: ignore[misc]
    three, seven = (len(kind(context, checked=False)) for kind, *_ in kinds)
    return f"{context.counted} results of {three} products and {seven} decompositions, reconstructed to 1e-4"
