"""Fresh processes: for fork, exit and spawn, what counts is how a process of its own ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .check import CheckFailed, NotRun, require
from .context import Context

__all__ = ["in_fresh_process", "many_fresh_processes"]

MARK = "streampool-child "


def explain(code: int) -> str:
    """An exit status in words."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit status {code}"


def start(arguments: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """A Python process with this package; its end is waited for."""
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as e:
        said = (e.stderr or b"").decode(errors="replace") if isinstance(e.stderr, bytes) else (e.stderr or "")
        raise CheckFailed(f"the process hangs: not done after {limit:g} s\n{said[-4000:]}") from None


def in_fresh_process(context: Context, function: str, *, limit: float = 60.0, **arguments: Any) -> Any:
    """Calls `module:function(context, **arguments)` in a new process of its own and returns what it returns
    (as JSON).

    The process has to end with status 0 by itself. What it has on standard error after a failure is in the
    error.
    """
    spec = {
        "function": function,
        "device": context.device_name,
        "quick": context.quick,
        "plant": context.plant,
        "limit": limit * 0.8,
        "switch_interval": sys.getswitchinterval(),
        "arguments": arguments,
    }
    done = start(["-m", "streampool.verify.child", json.dumps(spec)], limit)
    answers = [line[len(MARK) :] for line in done.stdout.splitlines() if line.startswith(MARK)]
    said = done.stderr[-4000:].strip()
    if len(answers) == 1:
        answer = json.loads(answers[0])
        if "not_run" in answer:
            raise NotRun(answer["not_run"])
        require(
            "failed" not in answer,
            f"in the fresh process: {answer.get('failed')}\n{answer.get('detail', '')}",
        )
        require(
            done.returncode == 0,
            f"the process did its work, but ended with {explain(done.returncode)}: {said}",
        )
        return answer["result"]
    raise CheckFailed(f"the process gave {len(answers)} answers and ended with {explain(done.returncode)}: {said}")


def many_fresh_processes(arguments: list[str], count: int, *, expect: Iterable[str], limit: float = 30.0) -> int:
    """Starts the same Python process `count` times, two at once; each has to end with 0 and print each line
    of `expect` once.

    Returns how many did. The first that does not fails, with what it said.
    """
    wanted = list(expect)

    def one(n: int) -> int:
        done = start(arguments, limit)
        said = (done.stdout[-1000:] + done.stderr[-3000:]).strip()
        require(done.returncode == 0, f"process {n + 1} of {count}: {explain(done.returncode)}: {said}")
        lines = done.stdout.splitlines()
        for line in wanted:
            require(lines.count(line) == 1, f"process {n + 1} of {count} did not print '{line}' once: {said}")
        return 1

    with ThreadPoolExecutor(2, thread_name_prefix="starter") as pool:
        return sum(pool.map(one, range(count)))
