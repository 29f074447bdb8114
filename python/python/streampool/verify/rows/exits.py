"""Rows 20 and 21: how the interpreter ends."""

from __future__ import annotations

import sys

from ..children import many_fresh_processes
from ..context import Context
from ..row import row

PROCESSES = 50
PROCESSES_QUICK = 15

SWITCHING = """
import sys
sys.setswitchinterval({interval!r})
"""

AT_EXIT = """
import atexit
late = []
atexit.register(lambda: late[0]('registered before the package'))
from streampool.verify import endings
late.append(endings.at_exit({device!r}))
"""

STILL_COMPUTING = """
from streampool.verify import endings
endings.still_computing({device!r})
"""


@row(20, "Static Atexit")
def static_atexit(context: Context) -> str:
    """Handlers, registered before and after the import, sync and compute while the interpreter ends."""
    code, count = code_and_count(context, AT_EXIT)
    lines = ["main is done", "registered before the package: right", "registered after the package: right"]
    n = many_fresh_processes(["-c", code], count, expect=lines)
    return f"{n} of {count} processes in a row: handlers' results right, ended with 0"


@row(21, "Static Thread Cleanup")
def static_thread_cleanup(context: Context) -> str:
    """8 threads compute without end while the interpreter ends."""
    code, count = code_and_count(context, STILL_COMPUTING)
    n = many_fresh_processes(["-c", code], count, expect=["8 threads compute"])
    return f"{n} of {count} processes in a row ended with 0 under 8 computing threads"


def code_and_count(context: Context, code: str) -> tuple[str, int]:
    """The processes' code, or a test's that ends otherwise, and how many of them."""
    code = SWITCHING + (plant(context) or code)
    count = PROCESSES_QUICK if context.quick else PROCESSES
    return code.format(device=context.device_name, interval=sys.getswitchinterval()), count


def plant(context: Context) -> str | None:
    """The code of a process that ends otherwise: for tests of these rows."""
    return context.plant
