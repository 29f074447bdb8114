"""`info`: devices, processor features and versions."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import streampool as sp

from .._load import cores
from .._table import human_bytes, table
from ._options import Report, add_report

NAME = "info"
HELP = "show devices, processor features and versions"
EXAMPLES = """\
examples:
  python -m streampool info
  python -m streampool info --json -"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_report(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    report = Report(options)
    devices = [describe(name) for name in sp.available_devices()]
    summary = {
        "version": sp.__version__,
        "system": f"{platform.system().lower()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": cores(),
        "devices": devices,
    }
    report.say(
        f"streampool {summary['version']} on {summary['system']}, {summary['cores']} cores, "
        f"Python {summary['python']}\n"
    )
    lines = [
        [
            d["name"],
            str(d["streams"]),
            human_bytes(d["memory_bytes"]),
            human_bytes(d["memory_limit_bytes"]),
            d["description"],
        ]
        for d in devices
    ]
    report.say(table(["device", "streams", "memory", "limit", "description"], lines))
    report.write(summary)
    return 0


def describe(name: str) -> dict[str, Any]:
    """One device, opened for it."""
    with sp.Device(name) as device:
        return {
            "name": device.name,
            "description": device.description,
            "memory_bytes": device.memory_bytes,
            "memory_limit_bytes": device.memory_stats()["limit"],
            "streams": device.pool_stats()["size"],
        }
