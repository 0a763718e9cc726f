"""Plots as SVG, small and without a library: what an asset shows of its numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

COLOURS = ("#4f63d2", "#e07a3f", "#3f9e7a", "#a0519e")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 220, 62, 46, 28, 12


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Groups of bars over an axis that starts at 0: one group for each label, one bar for each of at most four series."""
    top = max([1.0, *(value for values in series.values() for value in values)])
    room = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    width = room * 0.8 / max(len(series), 1)
    floor, tall = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - _TOP
    parts = [
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_WIDTH - _RIGHT}" y2="{floor}" stroke="#9aa1b3"/>',
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 6}" text-anchor="end">{top:,.0f}</text>',
    ]
    for place, ((name, values), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        x = _LEFT + place * 150
        parts.append(
            f'<rect x="{x}" y="6" width="10" height="10" fill="{colour}"/><text x="{x + 15}" y="15">{escape(name)}</text>'
        )
        for number, value in enumerate(values):
            height = max(0.0, value) / top * tall
            left = _LEFT + number * room + room * 0.1 + place * width
            parts.append(
                f'<rect x="{left:.1f}" y="{floor - height:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">'
                f"<title>{escape(labels[number])}: {value:,.0f} {escape(name)}</title></rect>"
            )
    every = -(-len(labels) // 8) or 1
    for number in range(0, len(labels), every):
        parts.append(
            f'<text x="{_LEFT + (number + 0.5) * room:.1f}" y="{floor + 18}" text-anchor="middle">{escape(labels[number])}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">'
        f"{''.join(parts)}</svg>"
    )


def image(title: str, svg: str) -> str:
    """Markdown that holds the picture itself."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
