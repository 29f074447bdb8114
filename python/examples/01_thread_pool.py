"""A thread pool over one model: every thread calls the same object, and the answers are those of one thread.

python examples/01_thread_pool.py [THREADS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import streampool as sp

DIGITS = Path(__file__).parents[2] / "models" / "digits"


def main(threads: int) -> None:
    model = sp.load(DIGITS / "digits.onnx")
    data = np.load(DIGITS / "test.npz")
    images, labels = data["image"], data["labels"]

    def read(i: int) -> int:
        """One request: one image, ten probabilities. Safe from any thread."""
        return int(model(images[i : i + 1]).argmax())

    def timed(answer: Callable[[], list[int]]) -> tuple[list[int], float]:
        begin = time.perf_counter()
        answers = answer()
        return answers, len(answers) / (time.perf_counter() - begin)

    requests = [*range(len(images))] * 20
    read(0)  # The first call of a shape makes its plan.
    serial, rate = timed(lambda: [read(i) for i in requests])
    print(f"1 thread:  {rate:10,.0f} requests/s")
    with ThreadPoolExecutor(threads) as pool:
        together, rate = timed(lambda: list(pool.map(read, requests, chunksize=50)))
    print(f"{threads} threads: {rate:10,.0f} requests/s")

    if together != serial:
        raise SystemExit("the threads' answers differ from the serial ones")
    right = sum(got == want for got, want in zip(serial, labels, strict=False))
    print(f"{right} of {len(labels)} digits read right; both runs give the same answers")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
