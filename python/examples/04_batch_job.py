"""A table answered in batches by a thread pool, with a progress bar.

pip install pandas tqdm
python examples/04_batch_job.py [ROWS]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import streampool as sp
from tqdm import tqdm

DIGITS = Path(__file__).parents[2] / "models" / "digits"
BATCH = 64


def table(rows: int) -> pd.DataFrame:
    """Handwritten digits with some noise: a column a pixel, and what is written."""
    with np.load(DIGITS / "test.npz") as data:
        images, labels = data["image"].reshape(-1, 64), data["labels"]
    pick = np.random.default_rng(0).integers(0, len(images), rows)
    noisy = images[pick] + np.random.default_rng(1).normal(0, 1, (rows, 64)).astype(np.float32)
    frame = pd.DataFrame(noisy, columns=[f"pixel_{i}" for i in range(64)])
    frame["label"] = labels[pick]
    return frame


def main(rows: int) -> None:
    frame = table(rows)
    model = sp.load(DIGITS / "digits.onnx")
    pixels = frame.filter(like="pixel_").to_numpy(np.float32).reshape(-1, 1, 8, 8)

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(pixels), BATCH):
            yield pixels[start : start + BATCH]

    with ThreadPoolExecutor() as pool:
        parts = list(tqdm(pool.map(model, batches()), total=-(-len(pixels) // BATCH), unit=" batches"))
    probabilities = np.concatenate(parts)
    frame["digit"] = probabilities.argmax(1)
    frame["probability"] = probabilities.max(1)

    right = frame["digit"] == frame["label"]
    by_digit = frame.assign(right=right).groupby("label").agg(rows=("right", "size"), right=("right", "mean"))
    print(by_digit.round(3))
    print(f"{right.mean():.1%} of {len(frame):,} rows right; {frame['probability'].mean():.3f} mean probability")
    print(f"peak memory {sp.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
