"""What a row works with: devices that are checked at its end, threads behind a barrier, comparison with a
serial run.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

import streampool as sp

from .check import CheckFailed, require, same_bits

__all__ = ["Context", "native_threads"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Array = np.ndarray[Any, Any]

# What a simulated device may hold: rows that hold more say so.
SIM_MEMORY = 1 << 30

# Seconds in which what threads leave behind has to be gone.
PATIENCE = 5.0


def native_threads() -> int | None:
    """Threads of this process as the operating system counts them; None where it does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


# Threads that NVIDIA's driver may have started in a process.
DRIVER_THREADS = 4


class Context:
    """One run of one row on one device. Made, used and finished on one thread, which has stream 0 of its
    devices.
    """

    def __init__(self, device: str, *, quick: bool = False, plant: str | None = None) -> None:
        self.device_name = device
        self.quick = quick
        self.plant = plant
        self.counted = 0
        self._devices: list[sp.Device] = []
        self._default: sp.Device | None = None
        self._threads_before = frozenset(threading.enumerate())
        self._native_before = native_threads()

    # Devices

    @property
    def device(self) -> sp.Device:
        """The row's device: opened at first use, with a pool of 32 streams."""
        if self._default is None:
            self._default = self.open()
        return self._default

    @property
    def simulated(self) -> bool:
        """Whether the device can be held back and steered."""
        return self.device_name == "sim"

    def open(self, *, device_memory: int = SIM_MEMORY, **settings: Any) -> sp.Device:
        """Another device of the row's kind; closed and checked at the row's end."""
        if self.simulated:
            settings = {"seed": 1 + len(self._devices), "device_memory": device_memory} | settings
        device = sp.Device(self.device_name, **settings)
        self._devices.append(device)
        return device

    @property
    def devices(self) -> tuple[sp.Device, ...]:
        """All that the row opened so far."""
        return tuple(self._devices)

    def randn(self, *shape: int, seed: int, device: sp.Device | None = None) -> sp.Tensor:
        """Normal random numbers: the same for a seed, whatever the device and the thread."""
        return sp.randn(*shape, device=device or self.device, generator=sp.Generator(seed))

    # Threads

    def at_once(self, threads: int, body: Callable[[int], T]) -> list[T]:
        """`body(0..threads)` on as many threads, all begun at a barrier. Results in order.

        An exception of any of them fails the row, and so does a missing result.
        """
        barrier = threading.Barrier(threads)
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}

        def work(t: int) -> None:
            try:
                barrier.wait(60)
                results[t] = body(t)
            except BaseException as e:
                errors[t] = e
                barrier.abort()

        workers = [threading.Thread(target=work, args=(t,), name=f"worker {t}", daemon=True) for t in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if errors:
            # Threads that a broken barrier sent home are not the cause.
            causes = {t: e for t, e in errors.items() if not isinstance(e, threading.BrokenBarrierError)} or errors
            t, first = next(iter(sorted(causes.items())))
            text = f"{len(causes)} of {threads} threads failed; thread {t}: {type(first).__name__}: {first}"
            raise CheckFailed(text) from first
        require(len(results) == threads, f"{threads - len(results)} of {threads} threads gave no result")
        return [results[t] for t in range(threads)]

    def serial(self, work: Callable[[K], Array], keys: Iterable[K]) -> dict[K, Array]:
        """`work` of each key, on this thread alone: what the threads' answers are compared with."""
        answers: dict[K, Array] = {}
        for key in keys:
            if key not in answers:
                answer = work(key)
                where = f"serial run of {key!r}"
                require(np.isfinite(answer).all(), f"{where}: not finite")
                require(np.count_nonzero(answer), f"{where}: nothing but zeros proves nothing")
                # A copy: on devices in host memory the array is the tensor's own memory.
                answers[key] = answer.copy()
        return answers

    def storm(
        self,
        threads: int,
        iterations: int,
        work: Callable[[K], Array],
        key: Callable[[int, int], K],
        serial: Mapping[K, Array] | None = None,
    ) -> int:
        """`work(key(thread, iteration))` on threads; each answer has the bits of the serial one. Returns how
        many there were.

        Fails unless there are `threads * iterations` of them.
        """
        pairs = [[key(t, i) for i in range(iterations)] for t in range(threads)]
        if serial is None:
            serial = self.serial(work, (k for row in pairs for k in row))
        truth = serial

        def one_thread(t: int) -> int:
            count = 0
            for i, k in enumerate(pairs[t]):
                same_bits(work(k), truth[k], f"thread {t} of {threads}, iteration {i}, {k!r}")
                count += 1
            return count

        total = sum(self.at_once(threads, one_thread))
        require(total == threads * iterations, f"{total} results instead of {threads * iterations}")
        self.counted += total
        return total

    def one_by_one(self, threads: int, body: Callable[[int], T]) -> list[T]:
        """`body(t)` on a thread of its own each, one after another."""
        return [self.at_once_from(t, body) for t in range(threads)]

    def at_once_from(self, t: int, body: Callable[[int], T]) -> T:
        """`body(t)` on one new thread."""
        return self.at_once(1, lambda _: body(t))[0]

    # What must become true soon

    def settle(self, holds: Callable[[], bool], what: Callable[[], str]) -> None:
        """Waits until something holds: a thread that was joined gives its stream back a moment later."""
        end = time.monotonic() + PATIENCE
        pause = 1e-4
        while not holds():
            if time.monotonic() > end:
                raise CheckFailed(f"not so after {PATIENCE:g} s: {what()}")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def all_free(self, device: sp.Device, when: str) -> None:
        """No stream runs, is leased or waited for; only this thread may still have one."""

        def bad() -> dict[str, int]:
            stats = device.pool_stats()
            wrong = {k: stats[k] for k in ("running", "leased", "waiting", "guests") if stats[k]}
            return wrong | ({"bound_idle": stats["bound_idle"]} if stats["bound_idle"] > 1 else {})

        self.settle(lambda: not bad(), lambda: f"{when}: slots not free: {bad()} of {device.pool_stats()['size']}")

    # The end of a row

    def finish(self) -> None:
        """Leases out = 0, bytes live = 0, nothing pending, no promise of the runtime broken, no thread left
        behind.
        """
        gc.collect()
        self._default = None
        while self._devices:
            # Its threads end with its last handle.
            self._finish(self._devices.pop(0))
        gc.collect()
        self._no_threads()

    def _finish(self, device: sp.Device) -> None:
        if not device.is_open:
            return
        device.synchronize(timeout=30)
        self.all_free(device, "at the end")
        self._no_bytes(device)
        if device.sim is not None:
            violations = device.sim.violations()
            require(not violations, f"the simulated device saw broken promises: {violations[:3]}")
        device.close(timeout=10)

    def _no_bytes(self, device: sp.Device) -> None:
        def left() -> dict[str, int]:
            stats = device.memory_stats()
            return {k: stats[k] for k in ("live", "retired") if stats[k]}

        def trimmed() -> bool:
            device.empty_cache()  # Looks for what was retired and is done.
            return not left()

        self.settle(trimmed, lambda: f"bytes left at the end: {left()}")
        reserved = device.memory_stats()["reserved"]
        require(reserved == 0, f"{reserved} bytes are still reserved after empty_cache at the end")

    def _no_threads(self) -> None:
        def left() -> list[str]:
            return [t.name for t in threading.enumerate() if t not in self._threads_before]

        self.settle(lambda: not left(), lambda: f"threads left behind: {left()}")
        before = self._native_before
        if before is not None:
            now = native_threads
            # NVIDIA's driver keeps a few threads of its own from its first use to the process's end.
            most = before + (DRIVER_THREADS if self.device_name.startswith("cuda") else 0)
            self.settle(lambda: (now() or 0) <= most, lambda: f"{now()} native threads at the end, {before} before")

    def dump(self) -> str:
        """What each stream of each device waits for. For a hang: it may itself be held up, so call it with a
        deadline.
        """
        lines: list[str] = []
        for device in self._devices:
            try:
                lines += device.describe_streams()
            except Exception as e:
                lines.append(f"{device}: {type(e).__name__}: {e}")
        return "\n".join(lines) or "no device was opened"
