"""Rows 1, 22, 23 and 24: fork and spawn. Each runs in a fresh process: what is forked should be nobody
else's.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import streampool as sp

from ..check import NotRun, require, same_bits
from ..children import explain, in_fresh_process
from ..context import Context
from ..row import row
from ..work import digits_images, digits_model, product

Array = np.ndarray[Any, Any]

# What a child may take for all entry points together.
SOON = 1.0


def needs_fork() -> None:
    """A system without fork has nothing to show."""
    if not hasattr(os, "fork"):
        raise NotRun("this system has no fork")


def forked(work: Callable[[], Any], limit: int = 20) -> Any:
    """What `work` returns in a forked child (as JSON). The child leaves by `_exit(0)`; it is killed after
    `limit` seconds.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(limit)
        try:
            answer = {"result": work()}
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    said = b""
    end = time.monotonic() + limit + 5
    while select.select([read], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(read, 1 << 16)
        if not part:
            break
        said += part
    os.close(read)
    ended(pid, end)
    require(said, "the forked child said nothing")
    answer = json.loads(said)
    require("failed" not in answer, f"in the forked child: {answer.get('failed')}")
    return answer["result"]


def ended(pid: int, end: float) -> None:
    """A child ends with status 0 before `end`."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            require(code == 0, f"the forked child: {explain(code)}")
            return
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            require(False, "the forked child hangs")
        time.sleep(0.002)


class Parent:
    """What a process has before it forks."""

    def __init__(self, context: Context) -> None:
        self.device = context.device
        self.name = context.device_name
        self.x = context.randn(4, 4, seed=1)
        self.layer = sp.nn.Linear(4, 4, device=self.device).eval()
        self.model = digits_model(self.device)
        self.image = digits_images()[:1]
        self.model.run({"image": self.image})
        self.lease = sp.Stream(self.device)
        self.event = sp.Event()
        self.event.record(sp.current_stream(self.device))
        self.square = sp.mm(self.x, self.x).numpy()
        sp.synchronize(self.device)

    def entry_points(self) -> dict[str, Callable[[], Any]]:
        """All ways into the package that use the parent's device."""
        device, x = self.device, self.x
        host = np.ones((4, 4), np.float32)
        return {
            "mm": lambda: sp.mm(x, x),
            "an operator": lambda: x + x,
            "a method": lambda: x.relu(),
            "linalg": lambda: sp.linalg.inv(x),
            "a layer": lambda: self.layer(x),
            "a model run": lambda: self.model.run({"image": self.image}),
            "a model load": lambda: digits_model(device),
            "randn": lambda: sp.randn(4, 4, device=device),
            "empty": lambda: sp.empty(4, 4, device=device),
            "tensor": lambda: sp.tensor(host, device=device),
            "numpy": lambda: x.numpy(),
            "item": lambda: x[0, 0].item(),
            "synchronize": lambda: sp.synchronize(device),
            "device.synchronize": lambda: device.synchronize(),
            "current_stream": lambda: sp.current_stream(device),
            "a lease": lambda: sp.Stream(device),
            "a leased stream": lambda: self.lease.synchronize(),
            "an event": lambda: self.event.synchronize(),
            "empty_cache": lambda: sp.empty_cache(device),
            "memory_stats": lambda: sp.memory_stats(device),
        }

    def refused(self) -> list[str]:
        """In the child: every entry point raises ForkError that names spawn, all within a second. Their
        names.
        """
        begin = time.monotonic()
        for name, enter in self.entry_points().items():
            try:
                got = enter()
            except sp.ForkError as e:
                require("spawn" in str(e), f"{name}: the error does not name spawn as the way out: {e}")
            else:
                require(False, f"{name} in the child gave {type(got).__name__} instead of ForkError")
        took = time.monotonic() - begin
        require(took < SOON, f"the entry points took {took:.2f} s to refuse")
        return list(self.entry_points())

    def anew(self) -> None:
        """In the child: a device of its own computes."""
        with sp.Device(self.name) as device:
            x = sp.tensor(np.arange(16, dtype=np.float32).reshape(4, 4), device=device)
            y = sp.mm(x, x).numpy()
            same_bits(
                y,
                np.arange(16, dtype=np.float32).reshape(4, 4) @ np.arange(16, dtype=np.float32).reshape(4, 4),
                "anew",
            )
            results: list[Array] = []
            thread = threading.Thread(target=lambda: results.append(sp.mm(x, x).numpy()))
            thread.start()
            thread.join(10)
            require(len(results) == 1 and (results[0] == y).all(), "a thread of the child computes on its device")

    def in_child(self) -> list[str]:
        """All that a child does."""
        names = self.refused()
        # Drivers of GPUs do not work in forked processes: there a new device is refused like the old one.
        if self.name in ("cpu", "sim"):
            self.anew()
        else:
            try:
                sp.Device(self.name)
            except sp.ForkError as e:
                require("spawn" in str(e), f"a new device: the error does not name spawn as the way out: {e}")
            else:
                require(False, "a new device in the child was opened, though its driver was started in the parent")
            names.append("new device")
        return names

    def unharmed(self, context: Context) -> None:
        """The parent computes as before."""
        for _ in range(10):
            same_bits(sp.mm(self.x, self.x).numpy(), self.square, "the parent after the fork")
        self.model.run({"image": self.image})
        with sp.stream(self.lease):
            same_bits(sp.mm(self.x, self.x).numpy(), self.square, "the parent's leased stream after the fork")
        self.lease.close()


@row(1, "Fork Safety")
def fork_safety(context: Context) -> str:
    """randn, sync, fork; the child uses the package."""
    needs_fork()
    names = in_fresh_process(context, f"{__name__}:fork_and_use")
    then = ", which computes anew" if context.device_name in ("cpu", "sim") else ""
    return f"ForkError at {len(names)} entry points of the child{then}; parent unharmed"


def fork_and_use(context: Context) -> list[str]:
    """In a fresh process."""
    parent = Parent(context)
    names: list[str] = forked(parent.in_child)
    # A second child leaves through the interpreter's own end, where all that it inherited is dropped.
    # It has no copy of the watching thread, whose end Python would wait for.
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        sys.exit(0)
    ended(pid, time.monotonic() + 25)
    parent.unharmed(context)
    return names


@row(22, "Fork Active Threads")
def fork_active_threads(context: Context) -> str:
    """8 threads compute, fork, the child uses the package."""
    needs_fork()
    results, forks = in_fresh_process(context, f"{__name__}:fork_under_load")
    return f"{forks} forks under 8 threads: ForkError in each child; {results} results of threads equal serial"


def fork_under_load(context: Context, forks: int = 5) -> tuple[int, int]:
    """In a fresh process."""
    parent = Parent(context)
    work = product(context, 128)
    serial = context.serial(work, range(16))
    begun = threading.Barrier(9)
    over = threading.Event()
    counts: list[int] = []

    def body(t: int) -> int:
        begun.wait(60)
        i = 0
        while not over.is_set() or i < 20:
            same_bits(work((t + i) % 16), serial[(t + i) % 16], f"thread {t}, iteration {i}")
            i += 1
        return i

    crowd = threading.Thread(target=lambda: counts.extend(context.at_once(8, body)), name="crowd", daemon=True)
    crowd.start()
    begun.wait(60)
    try:
        for _ in range(forks):
            time.sleep(0.02)
            forked(parent.in_child)
    finally:
        over.set()
        crowd.join()
    require(len(counts) == 8, "the parent's threads failed")
    parent.unharmed(context)
    return sum(counts), forks


@row(23, "Fork Parent Continues")
def fork_parent_continues(context: Context) -> str:
    """Fork, the child leaves at once, the parent multiplies 100 times."""
    needs_fork()
    count = in_fresh_process(context, f"{__name__}:parent_continues")
    require(count == 100, f"{count} of 100 products")
    return f"{count} products of the parent equal those before the fork"


def parent_continues(context: Context) -> int:
    """In a fresh process."""
    work = product(context, 64)
    serial = context.serial(work, range(20))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    for i in range(100):
        same_bits(work(i % 20), serial[i % 20], f"product {i} after the fork")
    ended(pid, time.monotonic() + 10)
    return 100


@row(24, "Fork MP Spawn")
def fork_mp_spawn(context: Context) -> str:
    """4 spawned children, each computing in parallel with the parent."""
    results = in_fresh_process(context, f"{__name__}:spawn_four", limit=120)
    require(results == 5 * 40, f"{results} results instead of {5 * 40}")
    return f"{results} results of 4 spawned children and the parent, all at once, equal serial"


def spawned(name: str, everybody: Any, pipe: Connection) -> None:
    """The inside of a spawned child."""
    context = Context(name)
    work = product(context, 64)
    # All have started before anyone computes.
    everybody.wait(90)
    pipe.send([work(seed).tobytes() for seed in range(40)])
    context.finish()
    pipe.close()


def spawn_four(context: Context) -> int:
    """In a fresh process."""
    work = product(context, 64)
    serial = context.serial(work, range(40))
    spawn = multiprocessing.get_context("spawn")
    everybody = spawn.Barrier(5)
    ends: list[Connection] = []
    children = []
    for _ in range(4):
        mine, theirs = spawn.Pipe(duplex=False)
        child = spawn.Process(target=spawned, args=(context.device_name, everybody, theirs), daemon=True)
        child.start()
        theirs.close()
        ends.append(mine)
        children.append(child)
    everybody.wait(90)
    count = 0
    for seed in range(40):
        same_bits(work(seed), serial[seed], f"the parent's product {seed}")
        count += 1
    for n, (end, child) in enumerate(zip(ends, children, strict=True)):
        require(end.poll(90), f"spawned child {n} sends nothing")
        for seed, got in enumerate(end.recv()):
            require(
                got == serial[seed].tobytes(),
                f"spawned child {n}, product {seed}: other bits than the parent's",
            )
            count += 1
        child.join(30)
        require(child.exitcode == 0, f"spawned child {n}: {child.exitcode}")
    return count
