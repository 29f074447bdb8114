"""The rows of section A, in the report's order."""

from __future__ import annotations

from ..row import Row
from . import compiling, exits, forks, handover, linalg, memory, parallel, speed, streams, waiting

MODULES = (compiling, exits, forks, handover, linalg, memory, parallel, speed, streams, waiting)

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (value for module in MODULES for value in vars(module).values() if isinstance(value, Row)),
        key=lambda r: r.number,
    )
)

if [r.number for r in ROWS] != list(range(1, 25)):
    raise ImportError(f"rows 1 to 24 are not all there, once: {[r.number for r in ROWS]}")


def by_number(number: int) -> Row:
    """Row 1 to 24."""
    return ROWS[number - 1]
