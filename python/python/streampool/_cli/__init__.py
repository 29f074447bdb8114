"""The command line: `run`, `bench`, `inspect`, `info` as the `streampool` program has them, and `verify`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ._options import EXIT_CODES, CheckFailed

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    from . import _bench, _info, _inspect, _run, _verify

    top = argparse.ArgumentParser(
        prog="python -m streampool",
        description="Model inference from many threads of one process on one device.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"streampool {version()}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in (_run, _bench, _inspect, _info, _verify):
        command = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"{module.EXAMPLES}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(work=module.main)
    return top


def version() -> str:
    """Of the package."""
    import streampool as sp

    return sp.__version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status. Wrong usage ends with 2 at once."""
    options = parser().parse_args(arguments)
    work: Callable[[argparse.Namespace], int] = options.work
    try:
        return work(options)
    except CheckFailed:
        return 1  # Said where it was found.
    except BrokenPipeError:
        sys.stderr.close()  # A reader that went away (`| head`) is no error of ours.
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        code = exit_code(e)
        if code is None:
            raise
        print(f"error: {e}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int | None:
    """The documented status of an error; None for what is none of the package's."""
    import streampool as sp

    if isinstance(error, sp.InternalError):
        return 5
    device = (
        sp.OutOfMemoryError,
        sp.PoolExhaustedError,
        sp.ForkError,
        sp.ShutDownError,
        sp.DeviceLostError,
        TimeoutError,
    )
    if isinstance(error, device):
        return 4
    return 3 if isinstance(error, (sp.StreampoolError, OSError)) else None
