"""The models of `bench`, written as ONNX: multi-layer perceptrons with seeded normal weights.

ONNX is protocol buffers; the dozen fields that are needed are encoded here (field numbers from onnx.proto).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["mlp"]


def varint(value: int) -> bytes:
    """Groups of seven bits, the least first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """An integer field."""
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes | str) -> bytes:
    """Bytes, text or a message."""
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def node(kind: str, name: str, inputs: Sequence[str], output: str, attributes: bytes = b"") -> bytes:
    """A node with one output."""
    return b"".join(data(1, i) for i in inputs) + data(2, output) + data(3, name) + data(4, kind) + attributes


def tensor(name: str, values: np.ndarray) -> bytes:
    """A float32 initializer."""
    dims = b"".join(number(1, d) for d in values.shape)
    return dims + number(2, 1) + data(8, name) + data(9, values.astype("<f4").tobytes())


def value(name: str, width: int) -> bytes:
    """A float32 input or output ("batch", width)."""
    shape = data(1, data(2, "batch")) + data(1, number(1, width))
    return data(1, name) + data(2, data(1, number(1, 1) + data(2, shape)))


def mlp(widths: Sequence[int]) -> bytes:
    """ONNX bytes of linear layers of these widths with ReLU between them: input "x" (batch, first), output
    "y" (batch, last).
    """
    random = np.random.default_rng(1)
    nodes, weights, last = b"", b"", "x"
    for i, (wide, out) in enumerate(itertools.pairwise(widths)):
        weights += data(5, tensor(f"w{i}", random.standard_normal((out, wide)) / np.sqrt(wide)))
        weights += data(5, tensor(f"b{i}", random.standard_normal(out)))
        end = i == len(widths) - 2
        y = "y" if end else f"h{i}"
        transposed = data(5, data(1, "transB") + number(3, 1) + number(20, 2))
        nodes += data(1, node("Gemm", f"linear{i}", [last, f"w{i}", f"b{i}"], y, transposed))
        if not end:
            last = f"r{i}"
            nodes += data(1, node("Relu", f"relu{i}", [y], last))
    graph = nodes + data(2, "mlp") + weights + data(11, value("x", widths[0])) + data(12, value("y", widths[-1]))
    opset = data(1, "") + number(2, 17)
    return number(1, 8) + data(2, "streampool bench") + data(7, graph) + data(8, opset)
