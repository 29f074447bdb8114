"""Options that several commands share, and where results go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streampool as sp

__all__ = [
    "EXIT_CODES",
    "CheckFailed",
    "Report",
    "add_device",
    "add_report",
    "between",
    "open_device",
    "thread_counts",
    "write_text",
]

EXIT_CODES = """\
exit codes:
  0  done; with --check, every answer equals the serial one
  1  a check failed: an answer differs from the serial one, or a row of verify failed
  2  usage: unknown option or value
  3  model or data: file missing, damaged, unsupported, or inputs that do not fit the model
  4  device: no such device, out of memory, pool exhausted, timeout, device lost
  5  internal: a promise inside streampool was broken; please report it"""


class CheckFailed(Exception):
    """A check failed; it was said where."""


def between(low: float, high: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """A number in a range, for argparse."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is no number from {low:,} to {high:,}")
        return value

    return parse


def thread_counts(text: str) -> list[int]:
    """`1,2,4`"""
    return [between(1, 1024)(part) for part in text.split(",")]


def add_device(parser: argparse.ArgumentParser) -> None:
    """Which device, and its settings."""
    parser.add_argument(
        "-d",
        "--device",
        choices=sp.available_devices(),
        default="cpu",
        help="where to run [default: %(default)s]",
    )
    parser.add_argument(
        "--streams",
        type=between(1, 1024),
        default=32,
        metavar="N",
        help="streams of the pool [default: %(default)s]",
    )
    parser.add_argument(
        "--memory-limit",
        type=between(1, 1 << 40),
        metavar="MIB",
        help="the most device memory to use, in MiB [default: 90 %% of what the device has]",
    )


def open_device(options: argparse.Namespace, *, cores: int | None = None) -> sp.Device:
    """The device that the options describe; `cores` is the most that one call may use, and a setting of the
    CPU.
    """
    settings: dict[str, Any] = {"streams": options.streams}
    if options.memory_limit is not None:
        settings["memory_limit"] = options.memory_limit << 20
    if options.device == "cpu" and cores is not None:
        settings["cores"] = cores
    return sp.Device(options.device, **settings)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Where the machine-readable result goes."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        help='write the result as JSON; "-" is standard output, in place of the table',
    )


class Report:
    """A table for people, JSON for programs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path: str | None = options.json

    def say(self, text: str) -> None:
        """Says something to people, unless standard output is the JSON's."""
        if self.path != "-":
            print(text.rstrip("\n"), flush=True)

    def write(self, value: Any) -> None:
        """Writes the JSON, if it is wanted."""
        if self.path == "-":
            print(json.dumps(value, indent=2), flush=True)
        elif self.path is not None:
            write_text(self.path, json.dumps(value, indent=2) + "\n")


def write_text(path: str, text: str) -> None:
    """A whole file, or an error that names it."""
    try:
        Path(path).write_text(text)
    except OSError as e:
        raise OSError(f"{path}: cannot write: {e.strerror or e}") from e


class Progress:
    """A line on standard error that is written anew, if that is a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """In place of what was there."""
        if self.shown:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Nothing is left of it."""
        self.show("")
        if self.shown:
            sys.stderr.write("\r")
