"""Rows 2, 3, 4, 7 and 13: many threads, each answer with the serial run's bits."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

import streampool as sp

from ..check import near, require
from ..children import in_fresh_process
from ..context import Context
from ..row import row
from ..work import (
    conv_net,
    digits_images,
    digits_labels,
    digits_model,
    mlp,
    product,
    product_relu,
    spot_check,
    weight_and_bias,
)

# So many different inputs go round: the serial run need not repeat what is the same.
DISTINCT = 61


def seeds(t: int, i: int) -> int:
    """Another seed for each neighbour: threads are never in step on one input."""
    return (17 * t + i) % DISTINCT


@row(2, "Simple Parallel")
def simple_parallel(context: Context) -> str:
    """2 and 4 threads, 5 times each: two 64x64 matrices multiplied."""
    spot_check(context, 64, seed=3, relu=False)
    for threads in (2, 4):
        context.storm(threads, 5, product(context, 64), lambda t, i: 5 * t + i)
    return f"{context.counted} results equal serial"


@row(3, "Extended Stress")
def extended_stress(context: Context) -> str:
    """8 threads x 100 and 16 x 50 at 256x256, 4 x 20 at 1024x1024."""
    spot_check(context, 256, seed=3, relu=True)
    counts = []
    work = product_relu(context, 256)
    serial = context.serial(work, range(DISTINCT))
    for threads, iterations in ((8, 100), (16, 50)):
        counts.append(context.storm(threads, iterations, work, seeds, serial))
    counts.append(context.storm(4, 20, product_relu(context, 1024), lambda t, i: (t + i) % 5))
    require(counts == [800, 800, 80], f"{counts} results instead of 800, 800, 80")
    return f"{'/'.join(map(str, counts))} results equal serial"


@row(4, "Thread Boundary")
def thread_boundary(context: Context) -> str:
    """2 to 8 threads, a fresh process each, one shared Linear(256, 256)."""
    total = 0
    for threads in range(2, 9):
        total += in_fresh_process(context, f"{__name__}:shared_linear", threads=threads)
    require(total == 350, f"{total} results instead of 350")
    return f"{total} results equal serial in 7 processes, all ended with 0"


def shared_linear(context: Context, threads: int) -> int:
    """One layer for all threads, batch 4, 10 forwards each."""
    layer = sp.nn.Linear(256, 256, device=context.device).eval()

    def work(seed: int) -> np.ndarray[Any, Any]:
        y: sp.Tensor = layer(context.randn(4, 256, seed=seed))
        sp.synchronize(context.device)
        return y.numpy()

    weight, bias = weight_and_bias(layer)
    x = context.randn(4, 256, seed=0).numpy()
    near(work(0), x @ weight.T + bias, 1e-5, "Linear against NumPy")
    return context.storm(threads, 10, work, lambda t, i: 10 * t + i)


@row(7, "Real Models")
def real_models(context: Context) -> str:
    """An MLP and a Conv1d net, 2 threads x 20; both at once from 8 threads; and the digits model."""
    device = context.device
    models = {"mlp": mlp(device), "conv": conv_net(device)}
    shapes = {"mlp": (4, 256), "conv": (4, 1, 1024)}

    def work(key: tuple[str, int]) -> np.ndarray[Any, Any]:
        name, seed = key
        y: sp.Tensor = models[name](context.randn(*shapes[name], seed=seed))
        sp.synchronize(device)
        return y.numpy()

    for name in models:
        context.storm(2, 20, work, lambda t, i, name=name: (name, 20 * t + i))  # type: ignore[misc]
    # The mixed run that the original skipped: four threads a model, 25 times.
    context.storm(8, 25, work, lambda t, i: (("mlp", "conv")[t % 2], (25 * t + i) % 40))

    digits, images, labels = digits_model(device), digits_images(), digits_labels()
    want = digits.run({"image": images})["probabilities"]
    right = int((want.argmax(1) == labels).sum())
    require(right >= 0.95 * len(labels), f"the digits model reads {right} of {len(labels)} right")

    def read(key: int) -> np.ndarray[Any, Any]:
        answer: np.ndarray[Any, Any] = digits.run({"image": images[key : key + 1 + key % 3]})["probabilities"]
        return answer

    context.storm(8, 50, read, lambda t, i: (53 * t + i) % (len(labels) - 3))
    return f"{context.counted} results equal serial; digits: {right} of {len(labels)} right"


@row(13, "Max Streams Stress (31t)")
def max_streams(context: Context) -> str:
    """8 threads x 100, 31 x 100, then 3 rounds of 31 x 50: 31 streams at once."""
    device = context.device
    spot_check(context, 256, seed=5, relu=True)
    work = product_relu(context, 256)
    serial = context.serial(work, range(DISTINCT))
    first = context.storm(8, 100, work, seeds, serial)
    everybody = threading.Barrier(31)

    def stream_of(_: int) -> int:
        mine = sp.current_stream(device).id
        everybody.wait(60)  # So all 31 live at once.
        work(0)
        again = sp.current_stream(device).id
        require(mine == again, f"a thread's stream went from {mine} to {again}")
        everybody.wait(60)
        return mine

    # While those that ended still hold slots, an idle thread may lose its own to one that waits.
    context.all_free(device, "after 8 threads")
    own = context.at_once(31, stream_of)
    require(len(set(own)) == 31, f"31 threads at once had {len(set(own))} streams: {sorted(own)}")
    require(0 not in own, "stream 0 belongs to the thread that opened the device")
    second = context.storm(31, 100, work, seeds, serial)
    third = sum(context.storm(31, 50, work, seeds, serial) for _ in range(3))
    require((first, second, third) == (800, 3100, 4650), f"{(first, second, third)} results")
    return f"{second:,} and {third:,} results equal serial; 31 streams at once"
