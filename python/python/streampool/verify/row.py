"""Rows, and how one is run: on a thread of its own, under a watchdog."""

from __future__ import annotations

import faulthandler
import re
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .check import NotRun
from .context import Context

__all__ = ["Outcome", "Row", "row", "run"]

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Row:
    """One row of the report."""

    number: int
    name: str
    body: Callable[[Context], str]
    """Does the work, asserts all that must hold, returns the row's figure in words."""
    limit: float
    """Seconds after which it counts as hanging."""

    @property
    def slug(self) -> str:
        """`01_fork_safety`"""
        return f"{self.number:02}_" + re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")


@dataclass(frozen=True)
class Outcome:
    """What came of a row on one device."""

    number: int
    name: str
    device: str
    status: Status
    figure: str
    """The row's figure; why it failed; why it could not run."""
    seconds: float
    detail: str = field(default="", repr=False)
    """Traceback, or what each thread and stream did when the row hung."""

    def as_json(self) -> dict[str, Any]:
        """For the machine-readable report."""
        return {
            "row": self.number,
            "name": self.name,
            "device": self.device,
            "status": self.status,
            "figure": self.figure,
            "seconds": round(self.seconds, 3),
        } | ({"detail": self.detail} if self.detail else {})


def row(number: int, name: str, *, limit: float = 120.0) -> Callable[[Callable[[Context], str]], Row]:
    """Makes a function a row of the report."""
    return lambda body: Row(number, name, body, limit)


def within(seconds: float, work: Callable[[], str], otherwise: str) -> str:
    """`work()` on another thread, if that is done in time."""
    box: list[str] = []

    def put() -> None:
        try:
            box.append(work())
        except BaseException as e:
            box.append(f"{type(e).__name__}: {e}")

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(seconds)
    return box[0] if box else otherwise


def all_stacks() -> str:
    """Where every Python thread is."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def state(context: Context) -> str:
    """What each stream and each thread does, for whoever looks into a hang."""
    streams = within(5, context.dump, "the device does not answer")
    return f"streams:\n{streams}\nthreads:\n{all_stacks()}"


def run(which: Row, device: str, *, quick: bool = False, limit: float | None = None) -> Outcome:
    """Runs a row on a device. Never raises and never hangs: what came of it is in the outcome."""
    limit = which.limit if limit is None else limit
    box: list[tuple[Status, str, str]] = []
    started: list[Context] = []

    def body() -> None:
        context = Context(device, quick=quick)
        started.append(context)
        try:
            figure = which.body(context)
            context.finish()
        except NotRun as e:
            box.append(("not run", str(e), ""))
        except BaseException as e:
            box.append(("failed", f"{type(e).__name__}: {e}", traceback.format_exc()))
        else:
            box.append(("passed", figure, ""))

    begin = time.monotonic()
    thread = threading.Thread(target=body, name=f"row {which.number} on {device}", daemon=True)
    thread.start()
    thread.join(limit)
    seconds = time.monotonic() - begin
    if box:
        status, figure, detail = box[0]
    else:
        status, figure = "failed", f"hangs: not done after {limit:g} s"
        detail = state(started[0]) if started else all_stacks()
    return Outcome(which.number, which.name, device, status, figure, seconds, detail)
