"""Calls per second over threads as an SVG picture that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from .._load import Spread
from .._table import digits

__all__ = ["throughput"]

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 50, 50


def nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 5, 10) if m * power >= value * 0.999), 10 * power)


def throughput(title: str, points: Sequence[tuple[int, Spread]], cores: int) -> str:
    """Median with least and greatest at each thread count, and the dashed line of perfect scaling up to
    `cores` threads.
    """
    most = max((n for n, _ in points), default=1)
    one = next((s.median for n, s in points if n == 1), None)
    ideal = one * min(most, cores) if one else 0.0
    step = nice(max([ideal, *(s.max for _, s in points)]) / 5)
    top = max(math.ceil(max([ideal, *(s.max for _, s in points)]) / step), 1) * step

    def x(n: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * n / most

    def y(v: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * v / top

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" font-size="16" text-anchor="middle">{html.escape(title)}</text>',
    ]
    for k in range(round(top / step) + 1):
        at = y(k * step)
        out.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{digits(k * step) if k else "0"}</text>'
        )
    for n, _ in points:
        out.append(f'<text x="{x(n):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{n}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">threads</text>'
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">calls per second</text>'
    )
    if one:
        corner = min(cores, most)
        line = " ".join(f"{x(n):.1f},{y(one * min(n, corner)):.1f}" for n in (1, corner, most))
        out.append(f'<polyline points="{line}" fill="none" stroke="#888" stroke-dasharray="5 4"/>')
    line = " ".join(f"{x(n):.1f},{y(s.median):.1f}" for n, s in points)
    out.append(f'<polyline points="{line}" fill="none" stroke="#1565c0" stroke-width="2"/>')
    for n, s in points:
        out.append(
            f'<line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{y(s.min):.1f}" y2="{y(s.max):.1f}" '
            'stroke="#1565c0"/>'
            f'<circle cx="{x(n):.1f}" cy="{y(s.median):.1f}" r="4" fill="#1565c0">'
            f"<title>{n} threads: {digits(s.median)} per second ({digits(s.min)} to {digits(s.max)})</title>"
            "</circle>"
        )
    return "\n".join([*out, "</svg>\n"])
