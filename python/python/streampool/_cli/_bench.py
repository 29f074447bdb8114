"""`bench`: calls per second at several thread counts."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import streampool as sp

from .._load import Outcome, Spread, cores, measure, percentile
from .._table import digits, human_bytes, percent, seconds, table
from . import _plot
from ._options import (
    Progress,
    Report,
    add_device,
    add_report,
    between,
    open_device,
    thread_counts,
    write_text,
)
from ._synthetic import mlp

NAME = "bench"
HELP = "measure calls per second at several thread counts on a model made for it"
EXAMPLES = """\
Set-up is not timed. Thread counts take turns, --repeats times, each turn --seconds long; the table gives the
median with the least and the greatest, and the processor time used over the wall time, so that a disturbed
run shows. A call uses one core, unless it is the row "1*": one caller, all cores.

examples:
  python -m streampool bench linear --threads 1,2,4,8 --json -
  python -m streampool bench micro --plot micro.svg
  python -m streampool bench mlp --seconds 0.5 --repeats 3"""


@dataclass(frozen=True)
class Workload:
    """Linear layers with ReLU between them."""

    name: str
    widths: tuple[int, ...]
    batch: int

    @property
    def flop(self) -> float:
        """Floating-point operations of a call: a multiplication and an addition per weight and row."""
        return 2.0 * self.batch * sum(a * b for a, b in itertools.pairwise(self.widths))

    def __str__(self) -> str:
        return f"linear {'-'.join(map(str, self.widths))}, batch {self.batch}, float32"


WORKLOADS = {
    w.name: w
    for w in (
        Workload("linear", (2048, 2048), 64),
        Workload("micro", (64, 64, 64, 64), 1),
        Workload("mlp", (512, 1024, 1024, 512), 1),
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "workload", nargs="?", choices=WORKLOADS, default="linear", help="what to call [default: %(default)s]"
    )
    parser.add_argument(
        "-t",
        "--threads",
        type=thread_counts,
        default=[1, 2, 4, 8],
        metavar="N,...",
        help="thread counts [default: 1,2,4,8]",
    )
    parser.add_argument(
        "--seconds",
        type=between(0.001, 3600, float),
        default=1.0,
        metavar="S",
        help="of each turn [default: 1]",
    )
    parser.add_argument(
        "--repeats",
        type=between(1, 1000),
        default=10,
        metavar="N",
        help="turns of each thread count [default: 10]",
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="draw calls per second over threads")
    add_device(parser)
    add_report(parser)


class Bed:
    """A model on a device of its own."""

    def __init__(self, options: argparse.Namespace, workload: Workload, *, all_cores: bool) -> None:
        self.workload = workload
        self.device = open_device(options, cores=None if all_cores else 1)
        self.model = sp.load(mlp(workload.widths), device=self.device)

    def call(self, thread: int) -> Callable[[int], object]:
        """A thread's call: an input of its own, and three calls outside the clock, so that plan and memory
        are there.
        """
        shape = (self.workload.batch, self.workload.widths[0])
        x = np.random.default_rng(1000 + thread).standard_normal(shape, np.float32)
        model = self.model
        inputs = {"x": x}

        def run(_: int) -> None:
            model.run(inputs)

        for i in range(3):
            run(i)
        return run


@dataclass
class Point:
    """A thread count, or one caller with all cores; and what it did."""

    threads: int
    bed: Bed
    all_cores: bool
    outcomes: list[Outcome] = field(default_factory=list)
    peak: int = 0

    def turn(self, for_seconds: float) -> None:
        """Measures once more."""
        self.bed.device.reset_peak_memory_stats()
        self.outcomes.append(measure(self.threads, self.bed.call, seconds=for_seconds))
        self.peak = max(self.peak, self.bed.device.memory_stats()["peak_live"])

    def summary(self, base: float | None) -> dict[str, Any]:
        """A row of the report."""
        rate = Spread.of([o.rate for o in self.outcomes])
        latencies = [n for o in self.outcomes for n in o.latencies]
        speed_up = rate.median / base if base else None
        share = cores() if self.all_cores else min(self.threads, cores())
        return {
            "threads": self.threads,
            "all_cores": self.all_cores,
            "calls_per_second": rate.as_json(),
            "p50_us": percentile(latencies, 50) * 1e6,
            "p99_us": percentile(latencies, 99) * 1e6,
            "speed_up": speed_up,
            "efficiency": speed_up / share if speed_up else None,
            "busy_cores": Spread.of([o.busy for o in self.outcomes]).as_json(),
            "gflop_per_second": rate.median * self.bed.workload.flop / 1e9,
            "peak_memory_bytes": self.peak,
        }


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    report, workload = Report(options), WORKLOADS[options.workload]
    one_core = Bed(options, workload, all_cores=False)
    points = [Point(n, one_core, False) for n in dict.fromkeys(options.threads)]
    if workload.name == "linear" and options.device == "cpu" and cores() > 1:
        points.append(Point(1, Bed(options, workload, all_cores=True), True))
    progress = Progress()
    for repeat in range(options.repeats):
        # In turn, so that a disturbance of the machine hits all alike.
        for point in points:
            progress.show(f"repeat {repeat + 1} of {options.repeats}, {point.threads} threads")
            point.turn(options.seconds)
    progress.clear()
    alone = [p for p in points if p.threads == 1 and not p.all_cores]
    base = Spread.of([o.rate for o in alone[0].outcomes]).median if alone else None
    rows = [p.summary(base) for p in points]
    device = one_core.device
    report.say(f"{workload} on {device.name} ({device.description}), called from Python")
    report.say(show(rows))
    if options.plot:
        drawn = [(r["threads"], Spread(**r["calls_per_second"])) for r in rows if not r["all_cores"]]
        write_text(options.plot, _plot.throughput(f"{workload} on {device.name}, from Python", drawn, cores()))
    report.write(
        {
            "workload": str(workload),
            "device": device.name,
            "description": device.description,
            "cores": cores(),
            "seconds": options.seconds,
            "repeats": options.repeats,
            "rows": rows,
        }
    )
    return 0


def show(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        [
            f"{r['threads']}{'*' if r['all_cores'] else ''}",
            *(digits(r["calls_per_second"][k]) for k in ("median", "min", "max")),
            *(seconds(r[k] / 1e6) for k in ("p50_us", "p99_us")),
            f"{r['speed_up']:.2f}x" if r["speed_up"] else "-",
            percent(r["efficiency"]) if r["efficiency"] else "-",
            f"{r['busy_cores']['median']:.2f}",
            digits(r["gflop_per_second"]),
            human_bytes(r["peak_memory_bytes"]),
        ]
        for r in rows
    ]
    head = [
        "threads",
        "calls/s",
        "min",
        "max",
        "p50",
        "p99",
        "speed-up",
        "efficiency",
        "busy cores",
        "GFLOP/s",
        "peak memory",
    ]
    note = "1*: one caller, all cores\n" if any(r["all_cores"] for r in rows) else ""
    return table(head, lines) + note
