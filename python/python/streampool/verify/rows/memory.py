"""Rows 14 and 19: out of memory is a value, and every byte comes back."""

from __future__ import annotations

import threading

import numpy as np

import streampool as sp

from ..check import CheckFailed, require, same_bits
from ..children import in_fresh_process
from ..context import Context
from ..row import row
from ..work import product

GIB = 1 << 30


@row(14, "OOM Recovery")
def oom_recovery(context: Context) -> str:
    """7 threads x 50 while an eighth asks for 100 GiB; then large tensors held while threads work; every byte
    comes back.
    """
    side = 2048 if context.quick else 8192
    hold = 4 * side * side * 4
    device = context.open(device_memory=2 * hold)

    def live() -> int:
        return device.memory_stats()["live"]

    start = live()
    work = product(context, 64, device)
    serial = context.serial(work, range(70))

    device.set_memory_limit(64 << 20)
    refused = 0
    before = device.memory_stats()["out_of_memory"]

    def ask_for_too_much() -> None:
        nonlocal refused
        for _ in range(20):
            try:
                got = sp.empty(25 * GIB, device=device)
            except sp.OutOfMemoryError as e:
                text = str(e)
                for fact in ("100.0 GiB", "64.0 MiB"):
                    require(fact in text, f"the error does not name what was asked and the limit: {text}")
                refused += 1
            else:
                raise CheckFailed(f"100 GiB were given under a limit of 64 MiB: {got.shape}")

    def body(t: int) -> int:
        if t == 7:
            ask_for_too_much()
            return 0
        for i in range(50):
            key = (10 * t + i) % 70
            same_bits(work(key), serial[key], f"thread {t}, iteration {i} beside the request for 100 GiB")
        return 50

    normal = sum(context.at_once(8, body))
    require(normal == 350, f"{normal} normal operations of 350")
    require(refused == 20, f"{refused} of 20 requests for 100 GiB were refused")
    require(device.memory_stats()["out_of_memory"] >= before + 20, "the statistics do not count the refusals")
    context.settle(lambda: live() == start, lambda: f"{live()} bytes live after the refusals, {start} before")

    device.set_memory_limit(hold + (256 << 20))
    held = [sp.full((side, side), float(k + 1), device=device) for k in range(4)]
    require(live() >= start + hold, f"four {side}x{side} tensors are held, but only {live() - start} bytes live")
    context.storm(4, 20, work, lambda t, i: (10 * t + i) % 70, serial)
    for k, x in enumerate(held):
        corner = x[side - 1, side - 1].item()
        require(corner == k + 1, f"held tensor {k} has {corner} in its corner")
    del held, x
    device.synchronize()
    context.settle(lambda: live() == start, lambda: f"{live()} bytes live after holding, {start} before")

    work_256 = product(context, 256, device)
    serial = context.serial(work_256, range(20))
    for cycle in range(3):
        held = [context.randn(1024, 1024, seed=8 * cycle + k, device=device) for k in range(8)]
        require(live() >= start + 8 * 4 * 1024 * 1024, "eight 1024x1024 tensors are held")
        context.storm(4, 20, work_256, lambda t, i: (5 * t + i) % 20, serial)
        del held
        device.synchronize()
        context.settle(lambda: live() == start, lambda: f"{live()} bytes live after a cycle, {start} before")
    context.counted += normal
    return (
        f"{refused} requests for 100 GiB refused, 350 normal operations right beside; "
        f"{context.counted} results in all, bytes back to the start"
    )


@row(19, "Static Cleanup")
def static_cleanup(context: Context) -> str:
    """20 tensors, an operation each, dropped: nothing stays reserved, and the process ends well."""
    peak = in_fresh_process(context, f"{__name__}:twenty_tensors")
    return f"reserved 0 bytes after a peak of {peak:,}; the process ended with 0"


# Lives until the interpreter is gone: what a static destructor has to cope with.
LEFT_OVER: list[object] = []


def twenty_tensors(context: Context) -> int:
    """In a fresh process; it ends with live tensors of another device in a global."""
    device = context.device
    tensors = [context.randn(100, 100, seed=seed) for seed in range(20)]
    sums = [sp.relu(x).sum() for x in tensors]
    for x, total in zip(tensors, sums, strict=True):
        want = np.maximum(x.numpy().astype(np.float64), 0).sum()
        require(abs(total.item() - want) <= 1e-4 * want, f"relu and sum: {total.item()} instead of {want}")
    peak = device.memory_stats()["peak_reserved"]
    require(peak >= 20 * 100 * 100 * 4, f"20 tensors, but at most {peak} bytes were ever reserved")
    del tensors, sums, x, total
    device.synchronize()
    device.empty_cache()
    reserved = device.memory_stats()["reserved"]
    require(reserved == 0, f"{reserved} bytes are reserved after all was dropped and empty_cache")
    other = sp.Device(context.device_name)
    LEFT_OVER.extend([other, sp.mm(*(sp.randn(32, 32, device=other) for _ in range(2))), threading.local()])
    return int(peak)
