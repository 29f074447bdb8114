"""The report: each row on each device, with its figure."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import streampool as sp

from .._load import cores
from .._table import table
from .row import Outcome, Row, run
from .rows import ROWS

__all__ = ["add_arguments", "main"]

# Devices that rows are for; a build need not have them all.
KNOWN = ("cpu", "sim", "cuda", "metal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    parser.add_argument(
        "-d",
        "--device",
        action="append",
        metavar="D",
        help="on this device; may be given more than once [default: all]",
    )
    parser.add_argument("--rows", metavar="N,...", type=numbers, help="these rows only")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help='write the report as JSON; "-" is standard output, in place of the table',
    )
    parser.add_argument(
        "--quick", action="store_true", help="shorter measurements, smaller large tensors, fewer processes"
    )
    parser.add_argument(
        "--switch-interval",
        metavar="SECONDS",
        type=positive,
        help="have the interpreter switch threads so often (sys.setswitchinterval), say 1e-6",
    )


def positive(text: str) -> float:
    """A number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 60:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds between 0 and 60")
    return seconds


def numbers(text: str) -> list[int]:
    """`1,5,12-14`"""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            found += range(int(first), int(last or first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{part}' is no row; rows are 1 to {len(ROWS)}") from None
    if not found or not set(found) <= {r.number for r in ROWS}:
        raise argparse.ArgumentTypeError(f"'{text}': rows are 1 to {len(ROWS)}")
    return found


def main(options: argparse.Namespace) -> int:
    """Runs the rows, prints the report. 0 only if none failed."""
    devices: list[str] = [d for given in options.device or [] for d in given.split(",")] or list(KNOWN)
    rows = [r for r in ROWS if options.rows is None or r.number in options.rows]
    if options.switch_interval is not None:
        sys.setswitchinterval(options.switch_interval)
    to_stdout = options.json == "-"
    out = sys.stderr if to_stdout else sys.stdout
    facts = system()
    print(f"streampool {facts['streampool']}: verification report of {facts['date']}", file=out)
    print(
        f"{facts['system']}, {facts['cores']} cores, Python {facts['python']}, NumPy {facts['numpy']}\n",
        file=out,
    )
    begin = time.monotonic()
    outcomes = run_all(rows, devices, named=bool(options.device), quick=options.quick, out=out)
    counts = {status: sum(o.status == status for o in outcomes) for status in ("passed", "failed", "not run")}
    print(f"\n{summary(rows, outcomes)}", file=out)
    for device in devices:
        own = [o for o in outcomes if o.device == device]
        print(f"{device}: {sum(o.status == 'passed' for o in own)} of {len(rows)} passed", file=out)
    took = time.monotonic() - begin
    print(
        f"{counts['passed']} passed, {counts['failed']} failed, {counts['not run']} not run in {took:.0f} s",
        file=out,
        flush=True,
    )
    if options.json:
        report = facts | {
            "quick": options.quick,
            "switch_interval": sys.getswitchinterval(),
            "seconds": round(took, 1),
            "counts": counts,
        }
        write(options.json, report | {"rows": [o.as_json() for o in outcomes]})
    status = 1 if counts["failed"] else 0
    if any(o.figure.startswith("hangs") for o in outcomes):
        # What hangs may hold the interpreter's end up, too.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def system() -> dict[str, Any]:
    """When, where and with what."""
    return {
        "streampool": sp.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def run_all(rows: Iterable[Row], devices: Sequence[str], *, named: bool, quick: bool, out: TextIO) -> list[Outcome]:
    """Every row on every device, said as it is done."""
    # GPUs are numbered; the name without a number is the first.
    available = sp.available_devices()
    available += sorted({name.partition(":")[0] for name in available if name.endswith(":0")})
    outcomes: list[Outcome] = []
    for device in devices:
        if device not in available:
            why = f"no device '{device}' here; this build has {', '.join(available)}"
            outcomes += [Outcome(r.number, r.name, device, "not run", why, 0.0) for r in rows]
            print(f"--    not run on {device}: {why}", file=out, flush=True)
    progress = sys.stderr if sys.stderr.isatty() else None
    for which in rows:
        for device in (d for d in devices if d in available):
            if progress:
                progress.write(f"\r{which.number:2} {which.name} on {device} ...\x1b[K")
                progress.flush()
            outcome = run(which, device, quick=quick)
            outcomes.append(outcome)
            if progress:
                progress.write("\r\x1b[K")
                progress.flush()
            tell(outcome, out)
    return outcomes


def tell(outcome: Outcome, out: TextIO) -> None:
    """A line for what passed; all that is known for what did not."""
    verdict = {"passed": "ok", "failed": "FAIL", "not run": "--"}[outcome.status]
    first, *more = outcome.figure.splitlines() or [""]
    print(
        f"{verdict:4} {outcome.number:2} {outcome.name:27} {outcome.device:5} {outcome.seconds:6.1f} s ",
        first,
        file=out,
    )
    if outcome.status == "failed" and outcome.detail:
        print(outcome.detail.rstrip(), file=out)
    else:
        for line in more:
            print(f"{'':18}{line}", file=out)
    out.flush()


def summary(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    """A row's verdict on each device."""
    devices = list(dict.fromkeys(o.device for o in outcomes))
    verdict = {
        (o.number, o.device): {"passed": "pass", "failed": "FAIL", "not run": "not run"}[o.status] for o in outcomes
    }
    lines = [[f"{r.number:2} {r.name}", *(verdict[r.number, d] for d in devices)] for r in rows]
    return table(["row", *devices], lines, left=1 + len(devices))


def write(where: str, report: dict[str, Any]) -> None:
    """Whole or not at all: an interrupted run leaves no half of a report."""
    text = json.dumps(report, indent=2)
    if where == "-":
        print(text, flush=True)
        return
    path = Path(where)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n")
    partial.replace(path)
