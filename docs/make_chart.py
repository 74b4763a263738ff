"""The chart of docs/speed.md, drawn from the table that stands there: where the seconds of a whole process go."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

PAGE = Path(__file__).with_name("speed.md")
CHART = Path(__file__).with_name("pictures") / "speed.svg"
PARTS = (("until the first step", "#8ecae6"), ("training", "#219ebc"), ("the end", "#023047"))
WIDTH, LABEL, BAR, GAP = 860, 210, 30, 16


def rows() -> list[tuple[str, tuple[float, float, float]]]:
    """(what, (seconds until the first step, of the other steps, of the end)) of each command whose first step was timed."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and all(re.fullmatch(r"[0-9.]+", cell) for cell in cells[1:]):
            training, first, whole = map(float, cells[1:4])
            found.append((cells[0].replace("`", ""), (first, training, whole - first - training)))
    return found


def main() -> None:
    """Write the chart."""
    told = rows()
    scale = (WIDTH - LABEL - 70) / max(sum(parts) for _what, parts in told)
    height = 50 + len(told) * (BAR + GAP)
    drawn = []
    for place, (name, colour) in enumerate(PARTS):
        x = LABEL + place * 180
        drawn.append(f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}"/><text x="{x + 18}" y="23">{name}</text>')
    for place, (what, parts) in enumerate(told):
        x, y = float(LABEL), 40 + place * (BAR + GAP)
        drawn.append(f'<text x="{LABEL - 12}" y="{y + 20}" text-anchor="end">{escape(what)}</text>')
        for seconds, (_name, colour) in zip(parts, PARTS, strict=True):
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{seconds * scale:.1f}" height="{BAR}" fill="{colour}"/>')
            x += seconds * scale
        drawn.append(f'<text x="{x + 8:.1f}" y="{y + 20}">{sum(parts):.1f} s</text>')
    CHART.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="14"><rect width="100%" height="100%" fill="#ffffff"/>'
        + "".join(drawn)
        + "</svg>\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
