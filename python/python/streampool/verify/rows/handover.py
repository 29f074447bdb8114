"""Row 10: a tensor goes from thread to thread, and nobody synchronises anything."""

from __future__ import annotations

import queue
import threading

import streampool as sp

from ..check import require
from ..context import Context
from ..row import row

ROUNDS = 200


@row(10, "Cross-Stream Tensor")
def cross_stream(context: Context) -> str:
    """200 products handed over without sync; the maker drops its handle at once and, where it can be, is
    delayed on the device.
    """
    device = context.device

    def make(seed: int) -> sp.Tensor:
        return sp.mm(context.randn(64, 64, seed=2 * seed), context.randn(64, 64, seed=2 * seed + 1))

    def use(x: sp.Tensor) -> sp.Tensor:
        return sp.mm(x, x).sum()

    want = [use(make(seed)).item() for seed in range(ROUNDS)]
    require(len(set(want)) == ROUNDS, "the rounds have to differ")
    handed: queue.Queue[tuple[int, sp.Tensor, int]] = queue.Queue(2)
    held_back = 0
    failed = threading.Event()

    def produce() -> None:
        mine = sp.current_stream(device).id
        for seed in range(ROUNDS):
            if device.sim is not None:
                # Nothing of this stream runs from here on: the consumer's work is queued behind it.
                device.sim.hold(mine)
            item = (seed, make(seed), mine)
            while not failed.is_set():
                try:
                    handed.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            del item  # The maker's handle is gone at once.
            turn.wait(60)
            turn.clear()
            if failed.is_set():
                return

    def take() -> tuple[int, sp.Tensor, int]:
        while True:
            try:
                return handed.get(timeout=0.1)
            except queue.Empty:
                require(not failed.is_set(), "the producer failed")

    def consume() -> int:
        nonlocal held_back
        count = 0
        for _ in range(ROUNDS):
            seed, x, theirs = take()
            mine = sp.current_stream(device).id
            require(mine != theirs, f"producer and consumer are both on stream {mine}")
            y = use(x)
            del x
            if device.sim is not None:
                event = sp.Event()
                event.record(sp.current_stream(device))
                require(not event.query(), f"round {seed}: done while what it needs is held back")
                held_back += 1
                device.sim.release(theirs)
            got = y.item()
            require(got == want[seed], f"round {seed}: {got!r} instead of {want[seed]!r}")
            count += 1
            turn.set()
        return count

    turn = threading.Event()

    def either(t: int) -> int:
        try:
            if t:
                return consume()
            produce()
            return 0
        except BaseException:
            failed.set()
            turn.set()
            raise

    _, count = context.at_once(2, either)
    require(count == ROUNDS, f"{count} of {ROUNDS} rounds")
    late = f", {held_back} of them held back on the device" if held_back else ""
    return f"{count} hand-overs without sync equal serial{late}"
