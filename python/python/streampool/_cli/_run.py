"""`run`: a data set answered from many threads."""

from __future__ import annotations

import argparse
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import streampool as sp

from .._load import Outcome, cores, measure, percentile
from .._table import digits, human_bytes, percent, seconds, table
from ._options import (
    CheckFailed,
    Progress,
    Report,
    add_device,
    add_report,
    between,
    open_device,
    thread_counts,
)

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

NAME = "run"
HELP = "answer a data set with a model, from many threads at once"
EXAMPLES = """\
The data are the arrays of an .npz file, named as the model's inputs. Where the model's first axis is free (or
divides the data's), the data are split along it into requests of --batch rows; the threads share the requests
out. Every thread count answers the whole data, again and again for about a second. Outputs and accuracy are
of the data once. The first table row is the serial run that speed-up is measured against.

examples:
  python -m streampool run models/digits/digits.onnx --input models/digits/test.npz --threads 8 --check
  python -m streampool run model.onnx --input x.npz --threads 1,2,4,8 --requests 10000 --json -
  python -m streampool run model.onnx --input x.npz --device sim --output y.npz"""

LABELS = "labels"
"""The array that is not an input but the right answers."""

ROW_SECONDS = 1.0
"""How long a thread count is measured if nobody says how many requests."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("model", help="the model, an ONNX file")
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="X.npz",
        help='arrays named as the model\'s inputs; an array "labels" gives the accuracy',
    )
    parser.add_argument(
        "-t",
        "--threads",
        type=thread_counts,
        default=[1],
        metavar="N,...",
        help="threads that call the model at once [default: 1]",
    )
    parser.add_argument(
        "--requests",
        type=between(1, 1_000_000_000),
        metavar="M",
        help="how many requests each thread count answers, going round the data "
        "[default: whole rounds for about a second]",
    )
    parser.add_argument(
        "--batch",
        type=between(1, 1 << 32),
        default=1,
        metavar="ROWS",
        help="rows of the data per request [default: 1]",
    )
    parser.add_argument(
        "--cores",
        type=between(1, 1024),
        default=1,
        metavar="N",
        help="cores that one request may use; more make a lone thread faster on large requests, and many "
        "threads no faster [default: 1]",
    )
    parser.add_argument(
        "-o", "--output", metavar="Y.npz", help="write the outputs for the whole data, in the data's order"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare every answer of every thread with the serial one, bit for bit",
    )
    add_device(parser)
    add_report(parser)


def read_data(path: str) -> Arrays:
    """The arrays of a file. Pickles are refused: reading one runs code."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if not isinstance(data, np.lib.npyio.NpzFile):
                raise sp.InvalidModel(f"{path}: this is no .npz file")
            return {name: data[name] for name in data.files}
    except (ValueError, EOFError) as e:
        raise sp.InvalidModel(f"{path}: {e}") from e
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{path}: no such file") from e


@dataclass(frozen=True)
class Requests:
    """A data set cut into requests."""

    inputs: list[Arrays]
    rows: list[int] | None
    """For each request how many rows of the data it holds; None if the data could not be cut."""

    @classmethod
    def of(
        cls, interface: Mapping[str, tuple[Any, tuple[int | str, ...] | None]], data: Arrays, batch: int
    ) -> Requests:
        """Requests of `batch` rows, or of as many as the model wants if its first axis is not free."""
        missing = [name for name in interface if name not in data]
        if missing:
            have, want = (", ".join(f"'{n}'" for n in names) or "none" for names in (data, interface))
            raise sp.InvalidArgument(
                f"the data have no array '{missing[0]}'; they have {have}, the model's inputs are {want}"
            )
        arrays = {name: np.ascontiguousarray(data[name]) for name in interface}
        cut = cls._cut(interface, arrays, batch)
        if cut is None:
            return cls([arrays], None)
        n, rows = cut
        if n == 0:
            raise sp.InvalidArgument("the data have no rows")
        starts = range(0, n, rows)
        inputs = [{name: a[start : start + rows] for name, a in arrays.items()} for start in starts]
        return cls(inputs, [min(rows, n - start) for start in starts])

    @staticmethod
    def _cut(interface: Mapping[str, tuple[Any, Any]], arrays: Arrays, batch: int) -> tuple[int, int] | None:
        """Rows of the data and rows per request; None if the data are one request."""
        lengths = {a.shape[:1] for a in arrays.values()}
        if len(lengths) != 1 or lengths == {()}:
            return None
        n, rows, fixed = next(iter(lengths))[0], batch, None
        for _, dims in interface.values():
            first = None if dims is None else dims[0] if dims else ()
            if first == ():
                return None
            if isinstance(first, int):
                if first == 0 or n % first or (fixed is not None and fixed != first):
                    return None
                fixed = rows = first
        return n, rows

    def join(self, answers: Sequence[Arrays]) -> dict[str, Array | None]:
        """The answers of all requests along the first axis; None where an output has no axis of the request's
        rows.
        """
        return {name: self._join([a[name] for a in answers]) for name in answers[0]}

    def _join(self, parts: list[Array]) -> Array | None:
        if self.rows is None:
            return parts[0]
        first = parts[0]
        for part, rows in zip(parts, self.rows, strict=True):
            if (
                part.ndim == 0
                or part.shape[0] != rows
                or part.shape[1:] != first.shape[1:]
                or part.dtype != first.dtype
            ):
                return None
        return np.concatenate(parts)


def accuracy(scores: Array | None, labels: Array | None) -> tuple[int, int] | None:
    """How many labels are where the last axis of the scores is greatest, and of how many; None if they do not
    belong together.
    """
    if (
        scores is None
        or labels is None
        or scores.ndim != 2
        or scores.shape[0] != labels.size
        or labels.dtype.kind not in "iu"
    ):
        return None
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    return int((best == labels.reshape(-1)).sum()), labels.size


class Job:
    """A model with the requests that it is to answer."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.cores: int = min(options.cores, cores())
        self.device = open_device(options, cores=self.cores)
        self.model = sp.load(options.model, device=self.device)
        self.requests = Requests.of(self.model.inputs, read_data(options.input), options.batch)

    def share(self, threads: int) -> int:
        """The cores that threads can keep busy."""
        return min(threads * self.cores, cores())

    def answer(self, i: int) -> Arrays:
        """Request i, going round."""
        inputs = self.requests.inputs
        return self.model.run(inputs[i % len(inputs)])

    def measure(
        self, threads: int, count: int | None, truth: Sequence[Arrays] | None, progress: Progress
    ) -> dict[str, Any]:
        """One thread count; a row of the report but for what compares it with others."""
        self.device.reset_peak_memory_stats()
        differing, streams, lock = 0, set(), threading.Lock()
        distinct = len(self.requests.inputs)
        requests_done = 0

        def make(_: int) -> Callable[[int], object]:
            self.answer(distinct - 1)
            self.answer(0)
            with lock:
                streams.add(sp.current_stream(self.device).id)
            return call

        def call(i: int) -> None:
            nonlocal differing
            got = self.answer(i)
            if truth is not None and not same(got, truth[i % distinct]):
                with lock:
                    differing += 1

        def done(n: int) -> None:
            nonlocal requests_done
            requests_done += n
            progress.show(f"{threads} threads: {requests_done:,} requests")

        def rounds(n: int) -> Outcome:
            return measure(threads, make, calls=n * distinct, done=done if progress.shown else None)

        if count is not None:
            outcome = measure(threads, make, calls=count, done=done if progress.shown else None)
        else:
            # Whole rounds for about a second: a first one tells how many those are.
            outcome = rounds(1)
            if outcome.wall < ROW_SECONDS:
                outcome = rounds(math.ceil(ROW_SECONDS / outcome.wall))
        return {
            "threads": threads,
            "requests": outcome.calls,
            "seconds": outcome.wall,
            "requests_per_second": outcome.rate,
            "p50_us": percentile(outcome.latencies, 50) * 1e6,
            "p99_us": percentile(outcome.latencies, 99) * 1e6,
            "streams": len(streams),
            "peak_memory_bytes": self.device.memory_stats()["peak_live"],
            "busy_cores": outcome.busy,
        } | ({"answers_differing": differing} if truth is not None else {})


def same(got: Arrays, want: Arrays) -> bool:
    """Same names, dtypes, shapes and bits."""
    return got.keys() == want.keys() and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
        for a, b in ((got[n], want[n]) for n in got)
    )


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    report, job = Report(options), Job(options)
    distinct = len(job.requests.inputs)
    # The serial answers are the truth for --check, the outputs, and the accuracy.
    answers = [job.answer(i) for i in range(distinct)]
    counts: list[int] = options.threads if options.threads[0] == 1 else [1, *options.threads]
    progress = Progress()
    rows = [job.measure(n, options.requests, answers if options.check else None, progress) for n in counts]
    progress.clear()
    for r in rows:
        r["speed_up"] = r["requests_per_second"] / rows[0]["requests_per_second"]
        r["efficiency"] = r["speed_up"] * job.share(1) / job.share(r["threads"])
    joined = job.requests.join(answers)
    data = read_data(options.input)
    right = accuracy(next(iter(joined.values()), None), data.get(LABELS))
    if right:
        report.say(f"accuracy: {right[0]} of {right[1]} right, {percent(right[0] / right[1])}")
    differing = sum(r.get("answers_differing", 0) for r in rows)
    if options.check:
        made = sum(r["requests"] for r in rows)
        if differing:
            report.say(f"check: FAILED: {differing:,} of {made:,} answers differ from the serial ones")
        else:
            report.say(f"check: all {made:,} answers equal the serial ones, bit for bit")
    report.say(show(rows))
    each = "one core" if job.cores == 1 else f"{job.cores} cores"
    report.say(f"efficiency is speed-up over cores in use; this machine has {cores()}, a request may use {each}")
    if options.output:
        write_outputs(options.output, joined)
    report.write(
        {
            "model": options.model,
            "device": job.device.name,
            "cores": cores(),
            "cores_per_request": job.cores,
            "requests_in_data": distinct,
            "weights_bytes": job.device.memory_stats()["frozen"],
        }
        | ({"accuracy": right[0] / right[1]} if right else {})
        | ({"all_equal_serial": differing == 0} if options.check else {})
        | {"rows": rows}
    )
    if differing:
        raise CheckFailed
    return 0


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        [
            str(r["threads"]),
            f"{r['requests']:,}",
            digits(r["requests_per_second"]),
            seconds(r["p50_us"] / 1e6),
            seconds(r["p99_us"] / 1e6),
            f"{r['speed_up']:.2f}x",
            percent(r["efficiency"]),
            str(r["streams"]),
            human_bytes(r["peak_memory_bytes"]),
        ]
        for r in rows
    ]
    return table(
        ["threads", "requests", "req/s", "p50", "p99", "speed-up", "efficiency", "streams", "peak memory"],
        lines,
    )


def write_outputs(path: str, joined: Mapping[str, Array | None]) -> None:
    """All outputs for the whole data."""
    arrays: Arrays = {}
    for name, array in joined.items():
        if array is None:
            raise sp.InvalidArgument(
                f"output '{name}' has no axis of the requests' rows, so the answers cannot be put together; "
                "use --batch with all rows"
            )
        arrays[name] = array
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
