"""`verify`: the report of the contract's rows on this machine."""

from __future__ import annotations

import argparse

NAME = "verify"
HELP = "check this installation: 24 rows on every device, each compared with a serial run"
EXAMPLES = """\
examples:
  python -m streampool verify
  python -m streampool verify --quick --device cpu --json report.json
  python -m streampool verify --rows 1,20-24"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    from ..verify import report

    report.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    from ..verify import report

    return report.main(options)
