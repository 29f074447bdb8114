"""Tables for people, and numbers as they like them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["human_bytes", "digits", "percent", "seconds", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lines of equal columns, the first `left` of them to the left, the others, numbers, to the right."""
    widths = [max(len(row[i]) for row in (head, *rows) if i < len(row)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=False)))
        return "  ".join(padded).rstrip() + "\n"

    return "".join(line(cells) for cells in (head, *rows))


def digits(value: float) -> str:
    """Three digits that count: `0.123`, `1.23`, `12.3`, `123`; from 1,000 on with separators."""
    size = abs(value)
    if size < 0.9995:
        return f"{value:.3f}"
    if size < 9.995:
        return f"{value:.2f}"
    if size < 99.95:
        return f"{value:.1f}"
    return f"{round(value):,}"


def seconds(value: float) -> str:
    """`1.50 us`, `23.4 ms`: three digits."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{digits(value * factor)} {unit}"
    return f"{digits(value)} s"


def human_bytes(count: int) -> str:
    """`512 B`, `1.50 MiB`."""
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{digits(value)} {unit}"


def percent(share: float) -> str:
    """`97.5 %`."""
    return f"{share * 100:.1f} %"
