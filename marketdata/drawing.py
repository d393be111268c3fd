"""Plots of the report as SVG and HTML without a script; colours are classes of the page's style (pure)."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html import escape

_CELL, _STEP = 11, 13
_LEFT, _TOP = 30, 16
_WEEKDAYS = {0: "Mon", 2: "Wed", 4: "Fri"}
_BAR, _BAR_STEP, _BAR_HEIGHT = 11, 14, 44


def calendar(states: Mapping[date, tuple[str, str]], first: date, last: date) -> str:
    """Days from ``first`` to ``last`` (both inclusive) as a column a week, Monday on top.

    Args:
        states: of a day the class that colours it, and what a reader sees who rests on it; other days stay
            empty.
    """
    monday = first - timedelta(days=first.weekday())
    weeks = (last - monday).days // 7 + 1
    width, height = _LEFT + weeks * _STEP, _TOP + 7 * _STEP
    parts = [
        f'<svg class="calendar" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ]
    parts += [f'<text x="0" y="{_TOP + row * _STEP + 9}">{name}</text>' for row, name in _WEEKDAYS.items()]
    free = 0
    for week in range(weeks):
        begins = max(monday + timedelta(days=7 * week), first)
        opens = week == 0 or begins.day <= 7
        x = _LEFT + week * _STEP
        if opens and x >= free and x + 24 <= width:
            parts.append(f'<text x="{x}" y="10">{begins:%b}</text>')
            free = x + 28
    day = first
    while day <= last:
        week, row = divmod((day - monday).days, 7)
        state, said = states.get(day, ("none", "not collected"))
        parts.append(
            f'<rect class="{state}" x="{_LEFT + week * _STEP + 0.5}" y="{_TOP + row * _STEP + 0.5}"'
            f' width="{_CELL}" height="{_CELL}" rx="2"><title>{day} {escape(said)}</title></rect>'
        )
        day += timedelta(days=1)
    return "".join([*parts, "</svg>"])


def strip(values: Sequence[tuple[date, float | None]], limit: float, unit: str = "%") -> str:
    """A bar a day against a limit; days without a value are marked. What is beyond twice the limit is cut."""
    width, height = len(values) * _BAR_STEP, _BAR_HEIGHT + 14
    top = 2 * limit
    line = _BAR_HEIGHT * (1 - limit / top)
    parts = [
        f'<svg class="strip" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<line class="ground" x1="0" y1="{_BAR_HEIGHT}" x2="{width}" y2="{_BAR_HEIGHT}"/>',
    ]
    for number, (day, value) in enumerate(values):
        x = number * _BAR_STEP + 1
        if value is None:
            parts.append(
                f'<circle class="unknown" cx="{x + _BAR / 2}" cy="{_BAR_HEIGHT - 3}" r="1.5">'
                f"<title>{day} not compared</title></circle>"
            )
        else:
            tall = max(_BAR_HEIGHT * min(value, top) / top, 1.5)
            kind = "beyond" if value > limit else "within"
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{_BAR_HEIGHT - tall:.1f}" width="{_BAR}"'
                f' height="{tall:.1f}"><title>{day} {value:.4g} {escape(unit)}</title></rect>'
            )
        if number % 7 == 0:
            parts.append(f'<text x="{x}" y="{height - 2}">{day:%d %b}</text>')
    parts.append(f'<line class="limit" x1="0" y1="{line:.1f}" x2="{width}" y2="{line:.1f}"/>')
    return "".join([*parts, "</svg>"])


def bars(counts: Sequence[tuple[str, int]]) -> str:
    """Counts by name as bars, the longest across the whole width."""
    most = max((count for _, count in counts), default=0)
    rows = [
        f'<div class="bar"><span class="name">{escape(name)}</span>'
        f'<span class="track"><i style="width:{max(100 * count / most, 0.5) if most else 0:.1f}%"></i></span>'
        f'<span class="count">{count:,}</span></div>'
        for name, count in counts
    ]
    return f'<div class="bars">{"".join(rows)}</div>'
