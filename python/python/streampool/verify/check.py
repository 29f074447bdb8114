"""Comparisons that fail loudly. Nothing here only prints."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["CheckFailed", "NotRun", "distance", "near", "require", "same_bits"]


class CheckFailed(AssertionError):
    """Something that a row promises does not hold."""


class NotRun(Exception):
    """A row cannot run here; the text says why. It counts as not run, never as passed."""


def require(condition: object, text: str) -> None:
    """Fails with `text` unless `condition` is true. Unlike `assert`, also under `python -O`."""
    if not condition:
        raise CheckFailed(text)


def same_bits(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], where: str) -> None:
    """Both arrays have one dtype, one shape and the same bits: NaNs and signed zeros count."""
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        raise CheckFailed(f"{where}: {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}")
    # As unsigned integers: compared without a copy and without the interpreter lock.
    bits = np.dtype(f"u{got.dtype.itemsize}")
    a, b = (np.ascontiguousarray(x).reshape(-1).view(bits) for x in (got, want))
    if not np.array_equal(a, b):
        wrong = int(np.count_nonzero(a != b))
        raise CheckFailed(f"{where}: {wrong} of {got.size} elements have other bits than the serial run's")


def distance(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """`||got - want|| / ||want||` in float64; infinite if shapes differ or anything is not finite."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-30))


def near(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], tolerance: float, where: str) -> float:
    """Relative L2 distance at most `tolerance`; returns it."""
    error = distance(got, want)
    require(error <= tolerance, f"{where}: relative error {error:.3g}, at most {tolerance:.0e} is right")
    return error
