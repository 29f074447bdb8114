"""Producers make tensors, consumers use them: no event, no wait, no `record_stream`.

A tensor may be handed to another thread while the device still works on it, and dropped at once: whoever uses it waits, on the
device, for what makes it, and its memory is not given to others before all who use it are done.

    python examples/02_hand_over.py [DEVICE]
"""

from __future__ import annotations

import queue
import sys
import threading

import numpy as np
import streampool as sp

PRODUCERS, CONSUMERS, EACH = 3, 2, 40


def main(name: str) -> None:
    device = sp.Device(name)
    weights = sp.randn(128, 128, device=device, generator=sp.Generator(0)) * 0.1
    work: queue.Queue[tuple[int, sp.Tensor] | None] = queue.Queue(maxsize=8)
    results: dict[int, float] = {}

    def features(seed: int) -> sp.Tensor:
        x = sp.randn(64, 128, device=device, generator=sp.Generator(seed))
        return sp.tanh(sp.mm(x, weights))

    def score(x: sp.Tensor) -> float:
        return sp.mm(x, weights).softmax(1).max().item()

    def produce(first: int) -> None:
        for seed in range(first, first + EACH):
            work.put((seed, features(seed)))  # Not waited for, and not kept.

    def consume() -> None:
        while (item := work.get()) is not None:
            seed, x = item
            results[seed] = score(x)

    consumers = [threading.Thread(target=consume) for _ in range(CONSUMERS)]
    producers = [threading.Thread(target=produce, args=(1 + EACH * p,)) for p in range(PRODUCERS)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        work.put(None)
    for thread in consumers:
        thread.join()

    serial = {seed: score(features(seed)) for seed in results}
    if len(results) != PRODUCERS * EACH or results != serial:
        raise SystemExit("the threads' results differ from the serial ones")
    print(
        f"{len(results)} results of {PRODUCERS} producers and {CONSUMERS} consumers on '{name}' equal the serial ones"
    )
    print(
        f"mean score {np.mean(list(results.values())):.4f}; peak memory {device.memory_stats()['peak_live'] / 1024:.0f} KiB"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
