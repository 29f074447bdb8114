"""The insides of the processes of rows 20 and 21. Imports nothing but the package itself: they are started
hundreds of times.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import NoReturn

import streampool as sp


def at_exit(name: str) -> Callable[[str], None]:
    """Registers a handler that syncs and computes, and returns it for another registration."""
    device = sp.Device(name)
    a = sp.randn(64, 64, device=device, generator=sp.Generator(3))
    want = sp.mm(a, a).sum().item()

    def handler(when: str) -> None:
        sp.synchronize(device)
        device.synchronize()
        got = sp.mm(a, a).sum().item()
        print(f"{when}: {'right' if got == want else f'{got} instead of {want}'}", flush=True)

    atexit.register(handler, "registered after the package")
    print("main is done", flush=True)
    return handler


def still_computing(name: str) -> None:
    """Returns, and thereby ends the interpreter, while 8 threads compute: eagerly, with a layer, and waiting
    for each other.
    """
    device = sp.Device(name)
    layer = sp.nn.Linear(64, 64, device=device).eval()
    begun = threading.Barrier(9)
    all_again = threading.Barrier(8)

    def work(t: int) -> NoReturn:
        x = sp.randn(64, 64, device=device, generator=sp.Generator(t))
        sp.mm(x, x).sum().item()
        begun.wait()
        n = 0
        while True:
            y = layer(x) if t % 2 else sp.mm(x, x)
            sp.synchronize(device)
            y.sum().item()
            n += 1
            if n % 64 == 0:
                all_again.wait()

    for t in range(8):
        threading.Thread(target=work, args=(t,), daemon=True).start()
    begun.wait()
    print("8 threads compute", flush=True)
