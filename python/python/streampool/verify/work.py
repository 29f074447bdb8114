"""The seed's workloads, as functions of a seed: what threads do and the serial run repeats."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

import streampool as sp

from .check import near
from .context import Context

__all__ = [
    "conv_net",
    "digits_model",
    "digits_images",
    "digits_labels",
    "mlp",
    "product",
    "product_relu",
    "spot_check",
    "weight_and_bias",
]

Array = np.ndarray[Any, Any]


def product(context: Context, n: int, device: sp.Device | None = None) -> Callable[[int], Array]:
    """Two normal (n, n) matrices of the seed, multiplied; the thread waits for its own stream."""

    def work(seed: int) -> Array:
        a = context.randn(n, n, seed=2 * seed, device=device)
        b = context.randn(n, n, seed=2 * seed + 1, device=device)
        c = sp.mm(a, b)
        sp.synchronize(device or context.device)
        return c.numpy()

    return work


def product_relu(context: Context, n: int, device: sp.Device | None = None) -> Callable[[int], Array]:
    """As `product`, and what is negative becomes 0."""

    def work(seed: int) -> Array:
        a = context.randn(n, n, seed=2 * seed, device=device)
        b = context.randn(n, n, seed=2 * seed + 1, device=device)
        c = sp.relu(sp.mm(a, b))
        sp.synchronize(device or context.device)
        return c.numpy()

    return work


def spot_check(context: Context, n: int, seed: int, relu: bool) -> float:
    """One product against NumPy in float64: that serial and threaded runs agree does not make them right."""
    a = context.randn(n, n, seed=2 * seed).numpy().astype(np.float64)
    b = context.randn(n, n, seed=2 * seed + 1).numpy().astype(np.float64)
    want = a @ b
    make = product_relu if relu else product
    return near(make(context, n)(seed), np.maximum(want, 0) if relu else want, 1e-5, f"{n}x{n} against NumPy")


def weight_and_bias(layer: sp.nn.Linear) -> tuple[Array, Array]:
    """A layer's parameters in float64, for NumPy's own answer."""
    assert layer.weight is not None
    assert layer.bias is not None
    return layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64)


def mlp(device: sp.Device) -> sp.nn.Module:
    """256-512-512-256 with ReLU between."""
    nn = sp.nn
    return nn.Sequential(
        nn.Linear(256, 512, device=device),
        nn.ReLU(),
        nn.Linear(512, 512, device=device),
        nn.ReLU(),
        nn.Linear(512, 256, device=device),
    ).eval()


def conv_net(device: sp.Device) -> sp.nn.Module:
    """Channels 1-64-64-1, kernel 3, padding 1, ReLU between."""
    nn = sp.nn
    return nn.Sequential(
        nn.Conv1d(1, 64, 3, padding=1, device=device),
        nn.ReLU(),
        nn.Conv1d(64, 64, 3, padding=1, device=device),
        nn.ReLU(),
        nn.Conv1d(64, 1, 3, padding=1, device=device),
    ).eval()


def digits_model(device: sp.Device) -> sp.Model:
    """The digits model that comes with the package: images (n, 1, 8, 8) to probabilities (n, 10)."""
    with resources.as_file(resources.files(__package__) / "data" / "digits.onnx") as path:
        return sp.load(str(path), device=device)


def digits_data() -> dict[str, Array]:
    """The digits' test images and labels."""
    with (
        resources.as_file(resources.files(__package__) / "data" / "digits.npz") as path,
        np.load(path) as data,
    ):
        return {name: data[name] for name in data.files}


def digits_images() -> Array:
    """(n, 1, 8, 8), float32."""
    return digits_data()["image"]


def digits_labels() -> Array:
    """(n,), integers 0 to 9."""
    return digits_data()["labels"]
