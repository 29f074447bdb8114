"""Row 15: one compile per distinct program, whatever the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import streampool as sp

from ..check import require
from ..context import Context
from ..row import row

Array = np.ndarray[Any, Any]
Work = Callable[[sp.Device, int], Array]

MIXED: tuple[Callable[[sp.Tensor], sp.Tensor], ...] = (
    lambda x: sp.relu(x),
    lambda x: sp.mm(x, x),
    lambda x: sp.tanh(x),
    lambda x: sp.softmax(x, 1),
    lambda x: x.sum(0),
    lambda x: x + x,
)


@row(15, "Graph Compilation Stress")
def compilation_stress(context: Context) -> str:
    """16 threads x 30, a size each; 16 x 50, one size; 12 x 30, mixed operations."""

    def sized(n: int) -> Work:
        def work(device: sp.Device, seed: int) -> Array:
            x = context.randn(n, n, seed=seed, device=device)
            y = sp.relu(sp.mm(x, x))
            sp.synchronize(device)
            return y.numpy()

        return work

    def mixed(device: sp.Device, key: int) -> Array:
        y = MIXED[key % len(MIXED)](context.randn(48, 48, seed=key // len(MIXED), device=device))
        sp.synchronize(device)
        return y.numpy()

    sizes = [64 + 7 * t for t in range(16)]
    parts: list[str] = []

    def compare(
        name: str,
        threads: int,
        iterations: int,
        work: Callable[[sp.Device, Any], Array],
        key: Callable[[int, int], Any],
    ) -> int:
        keys: Iterable[Any] = [key(t, i) for t in range(threads) for i in range(iterations)]
        alone, crowd = context.open(), context.open()
        serial = context.serial(lambda k: work(alone, k), keys)
        distinct = alone.compile_count()
        context.storm(threads, iterations, lambda k: work(crowd, k), key, serial)
        compiled = crowd.compile_count()
        require(
            compiled == distinct,
            f"{name}: {threads} threads compiled {compiled} programs, one thread {distinct}",
        )
        context.storm(threads, 2, lambda k: work(crowd, k), key, serial)
        again = crowd.compile_count()
        require(again == compiled, f"{name}: {again - compiled} programs were compiled twice")
        parts.append(f"{name} {compiled}")
        return distinct

    # Three programs a size at least: the numbers, the product, what is negative to 0.
    n = compare("own sizes", 16, 30, lambda d, k: sized(k[0])(d, k[1]), lambda t, i: (sizes[t], i % 3))
    require(n >= 3 * len(sizes), f"{n} programs for {len(sizes)} sizes")
    one = compare("one size", 16, 50, lambda d, k: sized(128)(d, k), lambda t, i: (t + i) % 7)
    require(n == one * len(sizes), f"{one} programs for one size, {n} for {len(sizes)}")
    m = compare("mixed", 12, 30, mixed, lambda t, i: (t + i) % (2 * len(MIXED)))
    require(m >= len(MIXED), f"{m} programs for {len(MIXED)} operations")
    return f"compiles: {', '.join(parts)}: one a key; {context.counted} results equal serial"
