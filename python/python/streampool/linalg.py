"""Dense linear algebra with PyTorch's names: float32 and float64, over the last two axes, batched over the rest.

A singular or indefinite matrix is an `InvalidArgument` that names the batch entry.

>>> import streampool as sp
>>> a = sp.tensor([[4.0, 2.0], [2.0, 3.0]])
>>> sp.linalg.cholesky(a).tolist()[0]
[2.0, 0.0]
"""

from typing import TYPE_CHECKING, NamedTuple

from . import _native

if TYPE_CHECKING:
    from ._native import Tensor


class QR(NamedTuple):
    """`A = Q @ R`."""

    Q: "Tensor"
    R: "Tensor"


class SVD(NamedTuple):
    """`A = U @ diag(S) @ Vh`."""

    U: "Tensor"
    S: "Tensor"
    Vh: "Tensor"


class Eigh(NamedTuple):
    """Values ascending, vectors as columns."""

    eigenvalues: "Tensor"
    eigenvectors: "Tensor"


def cholesky(A: "Tensor") -> "Tensor":
    """Lower triangular `L` with `A = L @ L.mT`, for symmetric positive definite `A` (..., n, n)."""
    return _native.linalg_cholesky(A)


def qr(A: "Tensor") -> QR:
    """`A = Q @ R`: (..., m, n) gives (..., m, k) and (..., k, n), k = min(m, n)."""
    return QR(*_native.linalg_qr(A))


def svd(A: "Tensor", full_matrices: bool = False) -> SVD:
    """`A = U @ diag(S) @ Vh`, the reduced form, S descending."""
    if full_matrices:
        from ._errors import Unsupported

        raise Unsupported("linalg.svd gives the reduced form only; pass full_matrices=False")
    return SVD(*_native.linalg_svd(A))


def eigh(A: "Tensor") -> Eigh:
    """Eigenvalues, ascending, and eigenvectors, as columns, of a symmetric matrix (..., n, n)."""
    return Eigh(*_native.linalg_eigh(A))


def solve(A: "Tensor", B: "Tensor") -> "Tensor":
    """`X` with `A @ X = B`; B is (..., n, r), or (n,) for one right-hand side."""
    return _native.linalg_solve(A, B)


def inv(A: "Tensor") -> "Tensor":
    """The inverse of (..., n, n)."""
    return _native.linalg_inv(A)


def det(A: "Tensor") -> "Tensor":
    """The determinant of (..., n, n): shape (...)."""
    return _native.linalg_det(A)


def norm(
    A: "Tensor", ord: float | None = None, dim: int | tuple[int, ...] | None = None, keepdim: bool = False
) -> "Tensor":
    """The norm of the elements, of order 2 unless told otherwise."""
    return A.norm(2.0 if ord is None else ord, dim, keepdim)


__all__ = ["QR", "SVD", "Eigh", "cholesky", "det", "eigh", "inv", "norm", "qr", "solve", "svd"]
