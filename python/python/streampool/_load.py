"""Threads that call at once, with the clock on them."""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Outcome", "Spread", "cores", "measure", "percentile"]

Call = Callable[[int], object]


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        return os.cpu_count() or 1


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of repeated measurements."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """The three by name."""
        return {"median": self.median, "min": self.min, "max": self.max}


def percentile(latencies: Sequence[int], percent: float) -> float:
    """The least of `latencies` (nanoseconds) that at least `percent` of all do not exceed, in seconds; 0
    without any.
    """
    if not latencies:
        return 0.0
    rank = max(1, math.ceil(percent / 100 * len(latencies)))
    return sorted(latencies)[rank - 1] / 1e9


@dataclass(frozen=True)
class Outcome:
    """What many threads together did."""

    threads: int
    latencies: list[int]
    """Nanoseconds of each call, in no order."""
    wall: float
    """Seconds from the common start until the last thread ended."""
    cpu: float
    """Processor seconds of the whole process meanwhile."""
    active: float
    """Seconds from the start of each thread's first call to the end of its last, of all together."""
    own: float
    """Processor seconds of the calling threads alone."""
    delay: float
    """Seconds that the threads were ready to run but had no core, because others had them; 0 where the system does not tell."""

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / max(self.wall, 1e-9)

    @property
    def busy(self) -> float:
        """How many cores were busy for us."""
        return self.cpu / max(self.wall, 1e-9)

    @property
    def taken(self) -> float:
        """The share of the threads' time in which they wanted a core that others had. Of use with no more threads than cores."""
        return self.delay / max(self.active, 1e-9)

    @property
    def fair_rate(self) -> float:
        """Calls per second had the threads got a core whenever they wanted one: what others took is left out, what they waited
        for each other is not. Of use with no more threads than cores.
        """
        awake = min((self.own + self.delay) / max(self.active, 1e-9), 1.0)
        return self.calls / max(self.own, 1e-9) * awake * self.threads


def run_delay() -> float:
    """Seconds that the calling thread waited for a core so far."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def measure(
    threads: int,
    make: Callable[[int], Call],
    *,
    seconds: float | None = None,
    calls: int | None = None,
    done: Callable[[int], None] | None = None,
) -> Outcome:
    """Calls `make(thread)`'s result again and again from `threads` threads: for about `seconds`, or exactly
    `calls` times in all.

    Each thread makes itself ready in `make`, outside the clock. A call gets its number; with `calls`, the
    threads share the numbers
    0 to `calls` out among them. `done` hears of progress. The first exception of any thread ends all and is
    raised.
    """
    if (seconds is None) == (calls is None):
        raise ValueError("give either seconds or calls")
    ready, begin = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    latencies: list[list[int]] = [[] for _ in range(threads)]
    ends, active, own, delays = ([0.0] * threads for _ in range(4))
    errors: list[BaseException] = []
    stop = threading.Event()
    share = threading.Lock()
    chunk = 1 if calls is None else min(max(calls // (threads * 16), 1), 64)
    next_call = 0

    def claim() -> range:
        nonlocal next_call
        assert calls is not None
        with share:
            first = next_call
            next_call = min(first + chunk, calls)
        return range(first, next_call)

    def work(t: int) -> None:
        try:
            call = make(t)
        except BaseException as e:
            errors.append(e)
            stop.set()
            call = None
        ready.wait()
        begin.wait()
        mine, clock = latencies[t], time.perf_counter_ns
        began, waited, used = time.perf_counter(), run_delay(), time.thread_time()
        try:
            if call is None:
                return
            if seconds is not None:
                i, now = 0, clock()
                end = now + int(seconds * 1e9)
                while now < end and not stop.is_set():
                    call(i)
                    after = clock()
                    mine.append(after - now)
                    now = after
                    i += 1
                return
            while not stop.is_set() and (numbers := claim()):
                for i in numbers:
                    now = clock()
                    call(i)
                    mine.append(clock() - now)
                if done is not None:
                    done(len(numbers))
        except BaseException as e:
            errors.append(e)
            stop.set()
        finally:
            ends[t] = time.perf_counter()
            active[t] = ends[t] - began
            delays[t] = run_delay() - waited
            own[t] = time.thread_time() - used

    workers = [threading.Thread(target=work, args=(t,), name=f"caller {t}", daemon=True) for t in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    start, cpu = time.perf_counter(), time.process_time()
    begin.wait()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return Outcome(
        threads,
        [n for mine in latencies for n in mine],
        max(ends) - start,
        time.process_time() - cpu,
        sum(active),
        sum(own),
        sum(delays),
    )
