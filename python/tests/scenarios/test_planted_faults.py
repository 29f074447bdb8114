"""Tests of the tests: a runtime that breaks a promise makes the row fail, for that very reason."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest
import streampool as sp
from planted import in_place_of, one_bit, raising, same_stream, sometimes
from streampool.verify import row as row_module
from streampool.verify.check import CheckFailed
from streampool.verify.context import Context
from streampool.verify.row import Outcome, Row, run
from streampool.verify.rows import by_number, exits, speed


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not gone soon is never gone here."""
    monkeypatch.setattr("streampool.verify.context.PATIENCE", 1.0)


def outcome(number: int, device: str = "cpu") -> Outcome:
    return run(by_number(number), device, quick=True)


def fails(result: Outcome, why: str) -> None:
    assert result.status == "failed", f"the row did not notice: {result.figure}"
    assert why in result.figure, result.figure


# One bit of one answer, off the main thread only: each row that compares values sees it.
@pytest.mark.parametrize(
    ("number", "name", "every"),
    [(2, "mm", 7), (3, "mm", 400), (7, "load", 1), (9, "mm", 100), (13, "mm", 2000), (15, "mm", 90), (17, "mm", 200)],
)
def test_one_wrong_bit_is_seen(monkeypatch: pytest.MonkeyPatch, number: int, name: str, every: int) -> None:
    if name == "load":
        replaced: Callable[..., Any] = lambda path, device: WrongModel(sp.load(path, device=device))  # noqa: E731
    else:
        replaced = sometimes(every, sp.mm, one_bit(sp.mm))
    with in_place_of(monkeypatch, **{name: replaced}):
        fails(outcome(number), "other bits")


class WrongModel:
    """A model whose answers are off on threads."""

    def __init__(self, model: sp.Model) -> None:
        self.model = model

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self.model.run(inputs)
        if planted.off_the_main_thread():
            outputs = {name: np.nextafter(y, 2, dtype=y.dtype) for name, y in outputs.items()}
        return outputs


def test_answers_that_are_wrong_serially_too_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_place_of(monkeypatch, mm=lambda a, b: sp.mm(a, b) * 1.001):
        for number in (2, 3, 13):
            fails(outcome(number), "against NumPy")


def test_a_wrong_decomposition_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [n for n in dir(sp.linalg) if not n.startswith("_")]
    linalg = SimpleNamespace(**{n: getattr(sp.linalg, n) for n in names})
    linalg.solve = lambda a, b: sp.linalg.solve(a, b) * 1.001
    with in_place_of(monkeypatch, linalg=linalg):
        fails(outcome(11), "solve: relative error")


def test_an_error_of_one_call_of_one_thread_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = raising(sp.InternalError("planted"))
    with in_place_of(monkeypatch, mm=sometimes(300, sp.mm, wrong)):
        fails(outcome(3), "planted")


def test_an_injected_failure_of_the_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_with_fault(self: Context, **settings: Any) -> sp.Device:
        device = right(self, **settings)
        assert device.sim is not None
        device.sim.inject(execution=30)
        return device

    right = Context.open
    monkeypatch.setattr(Context, "open", open_with_fault)
    fails(outcome(2, "sim"), "injected")


def test_threads_on_one_stream_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_place_of(monkeypatch, current_stream=same_stream):
        fails(outcome(5), "streams")
        fails(outcome(8), "distinct (stream, generation) pairs")
        fails(outcome(13), "31 threads at once had 1 streams")
        fails(outcome(10), "both on stream")


def test_generations_that_stand_still_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(device: sp.Device) -> Any:
        return SimpleNamespace(id=sp.current_stream(device).id, generation=1)

    with in_place_of(monkeypatch, current_stream=forgetful):
        for number in (8, 16):
            fails(outcome(number), "distinct (stream, generation) pairs")


def test_slots_left_unused_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a thread that ends gave its stream to the next, always."""
    owners: dict[int, int] = {}

    def greedy(_: sp.Device) -> Any:
        return SimpleNamespace(id=1, generation=owners.setdefault(id(threading.current_thread()), len(owners)))

    # Alive until the test ends, so that ids are not reused.
    threads: list[threading.Thread] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (threads.append(self), start(self))[1])
    with in_place_of(monkeypatch, current_stream=greedy):
        fails(outcome(16), "only 1 of the 31")


@pytest.mark.parametrize("number", [9, 17])
def test_a_lease_that_stays_out_is_seen(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    mm, held = planted.leaking(sp.mm, lambda y: sp.Stream(y.device))
    with in_place_of(monkeypatch, mm=sometimes(40, sp.mm, mm)):
        fails(outcome(number), "slots not free")
    held.clear()


@pytest.mark.parametrize("number", [2, 14])
def test_bytes_that_stay_are_seen(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    mm, held = planted.leaking(sp.mm, lambda y: y)
    with in_place_of(monkeypatch, mm=sometimes(9, sp.mm, mm)):
        fails(outcome(number), "bytes l")
    held.clear()


def test_an_order_that_is_not_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The consumer gets what was in the buffer before the producer's work: a stale value."""
    stale: list[sp.Tensor] = []

    def late(a: sp.Tensor, b: sp.Tensor) -> sp.Tensor:
        y = sp.mm(a, b)
        stale.append(y)
        return stale[-2] if len(stale) > 150 and planted.off_the_main_thread() else y

    with in_place_of(monkeypatch, mm=late):
        fails(outcome(10), "instead of")


def test_a_request_that_is_not_refused_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_place_of(monkeypatch, empty=lambda n, device: sp.empty(4, device=device)):
        fails(outcome(14), "100 GiB were given")
    with in_place_of(monkeypatch, empty=raising(MemoryError("no room"))):
        fails(outcome(14), "no room")
    with in_place_of(monkeypatch, empty=raising(sp.OutOfMemoryError("no room"))):
        fails(outcome(14), "does not name what was asked")


def test_a_second_compile_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(x: sp.Tensor) -> sp.Tensor:
        sp.tanh(sp.randn(3, threading.get_native_id() % 89 + 2, device=x.device))
        return sp.relu(x)

    with in_place_of(monkeypatch, relu=sometimes(100, sp.relu, twice)):
        fails(outcome(15), "threads compiled")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_workers_that_a_wait_stops_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the wait for the whole device held what every call needs."""
    lock = threading.Lock()

    class Stopping:
        def __init__(self, device: sp.Device) -> None:
            self.device = device

        def __getattr__(self, name: str) -> Any:
            return getattr(self.device, name)

        def synchronize(self, timeout: float | None = None) -> None:
            with lock:
                self.device.synchronize(timeout)
                time.sleep(0.5)

    def mm(a: sp.Tensor, b: sp.Tensor) -> sp.Tensor:
        with lock:
            return sp.mm(a, b)

    stopping: list[Stopping] = []

    def device(self: Context) -> Any:
        if not stopping:
            stopping.append(Stopping(self.open()))
        return stopping[0]

    from streampool.verify import work
    from streampool.verify.rows import waiting

    monkeypatch.setattr(waiting, "ATTEMPTS", 1)
    # The helpers below want the device itself.
    monkeypatch.setattr(Context, "device", property(device))
    monkeypatch.setattr(Context, "randn", randn_of_the_device)
    faulty = planted.Faulty(mm=mm, synchronize=lambda d: sp.synchronize(d.device))
    monkeypatch.setattr(work, "sp", faulty)
    fails(outcome(18), "p99 grows")


def randn_of_the_device(self: Context, *shape: int, seed: int, device: Any = None) -> sp.Tensor:
    return sp.randn(*shape, device=self.device.device, generator=sp.Generator(seed))


def test_threads_that_take_turns_are_no_efficiency(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lock around every call: two threads are as fast as one, and the row says so however disturbed the machine is."""
    lock = threading.Lock()
    right = speed.Bed.call

    def call(self: speed.Bed, thread: int) -> Callable[[int], object]:
        forward = right(self, thread)

        def locked(i: int) -> None:
            with lock:
                forward(i)
                # However busy the machine is, the other thread sleeps meanwhile: it is not that it has no core.
                time.sleep(0.01)

        return locked

    monkeypatch.setattr(speed.Bed, "call", call)
    monkeypatch.setattr(speed, "ATTEMPTS", 1)
    result = outcome(12)
    if result.status == "not run":
        pytest.skip(result.figure)
    fails(result, "efficiency at 2 threads")


# Rows whose bodies run in a fresh process.


def planting(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The fresh processes of the row get this fault."""
    from pathlib import Path

    right = Context.__init__

    def init(self: Context, *args: Any, **kwargs: Any) -> None:
        right(self, *args, **kwargs)
        self.plant = fault

    monkeypatch.setattr(Context, "__init__", init)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.mark.parametrize("number", [1, 22])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("child_is_let_in", "mm in the child gave ndarray instead of ForkError"),
        ("child_is_slow", "s to refuse"),
        ("child_crashes", "the forked child"),
        ("error_without_a_way_out", "does not name spawn"),
    ],
)
def test_a_child_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch, number: int, fault: str, why: str) -> None:
    planting(monkeypatch, f"planted:{fault}")
    fails(outcome(number), why)


@pytest.mark.parametrize(
    ("number", "fault", "why"),
    [
        (4, "a_wrong_layer", "other bits"),
        (19, "a_tensor_stays", "bytes are reserved"),
        (23, "wrong_after_the_start", "other bits"),
        (24, "wrong_after_the_start", "other bits"),
    ],
)
def test_a_process_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch, number: int, fault: str, why: str) -> None:
    planting(monkeypatch, f"planted:{fault}")
    fails(outcome(number), why)


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (20, exits.AT_EXIT + "import os; atexit.register(os._exit, 3)", "exit status 3"),
        (20, exits.AT_EXIT + "atexit.register(atexit.unregister, late[0])", "did not print"),
        (20, exits.AT_EXIT + "import os; atexit.register(os.abort)", "killed by SIGABRT"),
        (21, exits.STILL_COMPUTING + "import atexit, os; atexit.register(os.abort)", "killed by SIGABRT"),
        (21, "raise SystemExit(1)", "exit status 1"),
    ],
)
def test_a_process_that_ends_badly_is_seen(monkeypatch: pytest.MonkeyPatch, number: int, code: str, why: str) -> None:
    right = Context.__init__

    def init(self: Context, *args: Any, **kwargs: Any) -> None:
        right(self, *args, **kwargs)
        self.plant = code

    monkeypatch.setattr(Context, "__init__", init)
    fails(outcome(number), why)


# The harness itself.


def row(body: Callable[[Context], str], limit: float = 20.0) -> Row:
    return Row(99, "Planted", body, limit)


def test_a_hang_is_a_failure_with_a_dump_of_streams_and_threads() -> None:
    let_go = threading.Event()

    def hang_here(context: Context) -> str:
        sp.mm(context.randn(8, 8, seed=1), context.randn(8, 8, seed=2))
        let_go.wait(60)
        return ""

    result = run(row(hang_here), "sim", limit=0.5)
    let_go.set()
    fails(result, "hangs: not done after 0.5 s")
    assert "stream 0: generation" in result.detail, result.detail
    assert "submitted" in result.detail
    assert "hang_here" in result.detail


def test_a_stream_that_stalls_is_named_in_the_dump() -> None:
    """The device's own fault: stream 0 never does what it is given from ticket 1 on."""
    over = threading.Event()

    def stalled(context: Context) -> str:
        device = context.device
        assert device.sim is not None
        device.sim.inject(stall=(0, 1))
        x = context.randn(8, 8, seed=1)
        try:
            sp.synchronize(device, timeout=3)
        finally:
            device.sim.inject()
            del x
            over.set()
        return ""

    result = run(row(stalled), "sim", limit=1.0)
    fails(result, "hangs")
    assert "done 0" in result.detail, result.detail
    assert over.wait(10)


def test_a_fresh_process_that_hangs_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    from streampool.verify.children import in_fresh_process

    planting(monkeypatch, "planted:hangs")

    def body(context: Context) -> str:
        return str(in_fresh_process(context, "streampool.verify.rows.forks:parent_continues", limit=4))

    result = run(row(body), "cpu")
    fails(result, "exit status 1")
    assert "hangs" in result.figure, result.figure
    assert "still running; streams" in result.figure, result.figure


def test_what_is_left_at_the_end_of_a_row_is_seen() -> None:
    kept: list[Any] = []

    def tensor_stays(context: Context) -> str:
        kept.append(context.randn(8, 8, seed=1))
        return ""

    def lease_stays(context: Context) -> str:
        kept.append(sp.Stream(context.device))
        return ""

    let_go = threading.Event()

    def thread_stays(_: Context) -> str:
        threading.Thread(target=let_go.wait, args=(60,), name="the one that stays", daemon=True).start()
        return ""

    fails(run(row(tensor_stays), "cpu"), "bytes left at the end")
    fails(run(row(lease_stays), "cpu"), "slots not free")
    fails(run(row(thread_stays), "cpu"), "the one that stays")
    let_go.set()
    kept.clear()


def test_missing_results_are_seen() -> None:
    context = Context("cpu")

    def body(t: int) -> int:
        if t == 1:
            raise SystemExit  # Ends a thread without a word.
        return t

    with pytest.raises(CheckFailed, match="1 of 3 threads failed"):
        context.at_once(3, body)
    with pytest.raises(CheckFailed, match="nothing but zeros"):
        context.serial(lambda _: np.zeros(3), [1])
    with pytest.raises(CheckFailed, match="not finite"):
        context.serial(lambda _: np.array([1.0, np.nan]), [1])
    context.finish()


def test_a_row_that_cannot_run_is_not_passed() -> None:
    def cannot(_: Context) -> str:
        raise row_module.NotRun("there is no such thing here")

    result = run(row(cannot), "cpu")
    assert (result.status, result.figure) == ("not run", "there is no such thing here")


def test_an_unknown_device_is_a_failure_not_a_pass() -> None:
    result = run(row(lambda context: str(context.device)), "abacus")
    fails(result, "abacus")


def test_partial_results_do_not_count() -> None:
    context = Context("cpu")
    answers = {0: np.ones(2), 1: np.full(2, 2.0)}
    with pytest.raises(CheckFailed, match="other bits"):
        context.storm(2, 2, lambda k: answers[0] if planted.off_the_main_thread() else answers[k], lambda t, i: i)
    assert context.storm(2, 3, partial(answers.__getitem__), lambda t, i: (t + i) % 2) == 6
    context.finish()
