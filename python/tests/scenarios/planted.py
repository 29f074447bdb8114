"""Faults for tests of the tests: each a way in which a runtime could break what a row promises."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import streampool as sp
from streampool.verify import work
from streampool.verify.context import Context
from streampool.verify.rows import MODULES

Function = Callable[..., Any]


class Faulty:
    """The package, but for the names that a fault replaces."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(sp, name)


@contextmanager
def in_place_of(monkeypatch: Any, **replaced: Any) -> Iterator[None]:
    """All rows see the package with these names replaced."""
    faulty = Faulty(**replaced)
    with monkeypatch.context() as patch:
        module: ModuleType
        for module in (work, *MODULES):
            if hasattr(module, "sp"):
                patch.setattr(module, "sp", faulty)
        yield


def off_the_main_thread() -> bool:
    """Whether the caller is one of a row's threads: the serial run is right, as it would be in a runtime with a race."""
    return threading.current_thread().name.startswith("worker")


def sometimes(every: int, right: Function, wrong: Function) -> Function:
    """`wrong` in place of `right` at every so many calls from threads."""
    count, lock = 0, threading.Lock()

    @functools.wraps(right)
    def either(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if not off_the_main_thread():
            return right(*args, **kwargs)
        with lock:
            count += 1
            hit = count % every == 0
        return (wrong if hit else right)(*args, **kwargs)

    return either


def one_bit(f: Function) -> Function:
    """The right answer but for one bit of the largest element, which no ReLU makes zero."""

    def wrong(*args: Any, **kwargs: Any) -> sp.Tensor:
        y = f(*args, **kwargs)
        host = y.numpy().copy()
        host.reshape(-1).view("u4")[host.argmax()] ^= 1
        return sp.tensor(host, device=y.device)

    return wrong


def raising(error: Exception) -> Function:
    """A call that fails."""

    def wrong(*_: Any, **__: Any) -> Any:
        raise error

    return wrong


def same_stream(_: Any = None) -> Any:
    """Every thread is told the same stream."""
    return SimpleNamespace(id=0, generation=1)


def leaking(f: Function, make: Callable[[Any], Any]) -> tuple[Function, list[Any]]:
    """The right answer, but something stays held."""
    held: list[Any] = []

    def wrong(*args: Any, **kwargs: Any) -> Any:
        y = f(*args, **kwargs)
        held.append(make(y))
        return y

    return wrong, held


# For fresh processes: `plant` functions get the context before the row's body does.


def child_is_let_in(_: Context) -> None:
    """The forked child gets an answer in place of an error."""
    from streampool.verify.rows import forks

    def entries(self: Any) -> dict[str, Function]:
        return {"mm": lambda: self.square}

    forks.Parent.entry_points = entries  # type: ignore[method-assign]


def child_is_slow(_: Context) -> None:
    """The forked child gets its errors, but late."""
    import time

    from streampool.verify.rows import forks

    right = forks.Parent.entry_points

    def entries(self: Any) -> dict[str, Function]:
        time.sleep(1.2)
        return right(self)

    forks.Parent.entry_points = entries  # type: ignore[method-assign]


def child_crashes(_: Context) -> None:
    """The forked child dies."""
    import os
    import signal

    from streampool.verify.rows import forks

    forks.Parent.anew = lambda self: os.kill(os.getpid(), signal.SIGSEGV)  # type: ignore[method-assign,assignment]


def error_without_a_way_out(_: Context) -> None:
    """The error is of the right kind, but does not say what to do."""
    from streampool.verify.rows import forks

    def entries(self: Any) -> dict[str, Function]:
        return {"mm": raising(sp.ForkError("no"))}

    forks.Parent.entry_points = entries  # type: ignore[method-assign]


def wrong_after_the_start(_: Context) -> None:
    """Products go wrong after a while, on whatever thread."""
    count = 0
    right = sp.mm

    def mm(*args: Any) -> sp.Tensor:
        nonlocal count
        count += 1
        return one_bit(right)(*args) if count > 60 else right(*args)

    from streampool.verify import work as package_work

    package_work.sp = Faulty(mm=mm)  # type: ignore[attr-defined,assignment]


def a_tensor_stays(context: Context) -> None:
    """Something lives at the end."""
    context.kept = sp.randn(8, device=context.device)  # type: ignore[attr-defined]


def a_wrong_layer(_: Context) -> None:
    """A layer's answers are off on threads."""
    from streampool.verify.rows import parallel

    right = sp.nn.Linear

    class Linear(right):  # type: ignore[misc,valid-type]
        def forward(self, x: sp.Tensor) -> sp.Tensor:
            y = super().forward(x)
            return one_bit(lambda: y)() if off_the_main_thread() else y

    nn = SimpleNamespace(**{n: getattr(sp.nn, n) for n in dir(sp.nn) if not n.startswith("__")})
    nn.Linear = Linear
    parallel.sp = Faulty(nn=nn)  # type: ignore[attr-defined,assignment]


def hangs(_: Context) -> None:
    """Never comes back."""
    threading.Event().wait()
