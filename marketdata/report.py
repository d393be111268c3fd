"""A day in one page, as Markdown and HTML: coverage, drift, late trades, rejects, findings, cases (pure)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from html import escape

import polars as pl

from marketdata import drawing, story
from marketdata.ledger import State
from marketdata.market import Market
from marketdata.report_style import STYLE

# By state: what it means. The page colours them in this order.
STATES = {
    "complete": "every trade that happened",
    "outage": "the exchange's own outage",
    "not-served": "some trades are not served",
    "gaps": "trades are missing",
    "unknown": "nothing proves it",
    "damaged": "the file is damaged",
    "missing": "not in the lake",
}
_COLUMNS = (
    "market", "state", "trades", "missing", "not served", "rejected", "findings", "late", "close drift",
    "volume drift",
)  # fmt: skip
_MOST_CASES = 40
_SMALLEST = 0.001
WHOLE = {"complete", "not-served", "outage"}


@dataclass(frozen=True, slots=True)
class MarketDay:
    """What is known of one market on the day.

    Attributes:
        state: one of :data:`STATES`; ``none`` where the market was not collected. reason: why, in a sentence.
        rejected: refused rows by reason. findings: of the quality rules, by rule.
        late: candles that were streamed without trades which came late; ``None`` when nothing was streamed
            or compared.
        close_drift, volume_drift: percent, of the candle that drifted most; ``None``: not compared.
        drifts: close drift of the last days by day.
    """

    market: Market
    state: str
    reason: str
    rows: int = 0
    missing: int = 0
    not_served: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    findings: Mapping[str, int] = field(default_factory=dict)
    late: int | None = None
    close_drift: float | None = None
    volume_drift: float | None = None
    drifts: tuple[tuple[date, float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report of a UTC day is made of.

    Attributes:
        written_at: when it was gathered (UTC).
        calendars: state and sentence of each day by market, from ``first`` to ``last`` (both inclusive).
        entries: of the ledger, of the cases that were written of on the day or about the day.
        open_cases: how many wait for a repair now.
        drift_limit: percent.
    """

    day: date
    written_at: datetime
    markets: tuple[MarketDay, ...]
    calendars: Mapping[Market, Mapping[date, tuple[str, str]]]
    first: date
    last: date
    entries: pl.DataFrame
    open_cases: int
    drift_limit: float

    @property
    def rejects(self) -> list[tuple[str, int]]:
        """Refused rows of all markets by reason, the most first."""
        total: Counter[str] = Counter()
        for each in self.markets:
            total.update(each.rejected)
        return total.most_common()

    @property
    def findings(self) -> list[tuple[str, int]]:
        """Findings of all markets by rule, the most first."""
        total: Counter[str] = Counter()
        for each in self.markets:
            total.update(each.findings)
        return total.most_common()

    def cases_of_the_day(self) -> dict[str, list[tuple[story.Row, list[story.Row]]]]:
        """Cases that were opened, repaired, given up on the day: by what happened to them then."""
        found: dict[str, list[tuple[story.Row, list[story.Row]]]] = {
            "opened": [],
            "repaired": [],
            "given up": [],
        }
        for case, steps in story.told(self.entries):
            if case["found"].date() == self.day and case["state"] != State.INFORMATION:
                found["opened"].append((case, steps))
            ends = {each["state"] for each in steps if each["at"].date() == self.day}
            if State.REPAIRED in ends:
                found["repaired"].append((case, steps))
            if State.EXHAUSTED in ends:
                found["given up"].append((case, steps))
        return found


def markdown(facts: Facts) -> str:
    """The report for Dagster's UI."""
    told = facts.cases_of_the_day()
    lines = [
        f"### {facts.day}: {_headline(facts)}",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"| --- | --- |{' ---: |' * (len(_COLUMNS) - 2)}",
    ]
    for each in facts.markets:
        cells = (str(each.market), each.state.replace("-", " "), *_figures(each))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"**Cases** {_counts(told, facts.open_cases)}", ""]
    shown = {case["case"]: case for cases in told.values() for case, _ in cases}
    for case in list(shown.values())[:_MOST_CASES]:
        lines.append(f"- {case['exchange']}:{case['symbol']} {story.headline(case)} (`{case['case'][:8]}`)")
    if len(shown) > _MOST_CASES:
        lines.append(f"- and {len(shown) - _MOST_CASES} more")
    for title, counts in (("Rejected rows", facts.rejects), ("Findings", facts.findings)):
        if counts:
            lines += [
                "",
                f"**{title}** {', '.join(f'{count:,} {story.safe(name)}' for name, count in counts)}",
            ]
    return "\n".join(lines)


def html(facts: Facts) -> str:
    """The report as one file that needs nothing else."""
    body = [
        f"<header><p class='kicker'>marketdata daily report</p><h1>{facts.day:%A, %d %B %Y}</h1>"
        f"<p class='said'>{escape(_headline(facts))}</p></header>",
        _tiles(facts),
        _section("The day", _day_table(facts)),
        _section("Coverage", _coverage(facts)),
        _section("Drift", _drift(facts)),
        "<div class='three'>",
        _section("Late trades", _late(facts)),
        _section("Rejected rows", _counted(facts.rejects, "No row was refused.")),
        _section("Findings by rule", _counted(facts.findings, "No rule found anything.")),
        "</div>",
        _section("Cases", _cases(facts)),
        f"<footer>Written {facts.written_at:%Y-%m-%d %H:%M} UTC. Figures are of the trades of that UTC day; "
        "cases are those that were opened or ended on it.</footer>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{facts.day} marketdata</title><style>{STYLE}</style></head><body><main>"
        f"{''.join(body)}</main></body></html>\n"
    )


def _headline(facts: Facts) -> str:
    good = sum(each.state in WHOLE for each in facts.markets)
    total = sum(each.state != "none" for each in facts.markets)
    whole = f"{good} of {total} markets complete" if total else "no market was collected"
    beyond = sum((each.close_drift or 0.0) > facts.drift_limit for each in facts.markets)
    drift = f", {beyond} beyond {facts.drift_limit:g} % drift" if beyond else ""
    return f"{whole}{drift}, {facts.open_cases} open case{'' if facts.open_cases == 1 else 's'} now"


def _figures(each: MarketDay) -> tuple[str, ...]:
    return (
        f"{each.rows:,}",
        _or_dash(each.missing),
        _or_dash(each.not_served),
        _or_dash(sum(each.rejected.values())),
        _or_dash(sum(each.findings.values())),
        "" if each.late is None else _or_dash(each.late),
        _percent(each.close_drift),
        _percent(each.volume_drift),
    )


def _or_dash(count: int) -> str:
    return f"{count:,}" if count else "-"


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g} %" if value >= _SMALLEST or not value else f"< {_SMALLEST:g} %"


def _counts(told: Mapping[str, Sequence[object]], open_cases: int) -> str:
    return ", ".join([*(f"{len(cases)} {name}" for name, cases in told.items()), f"{open_cases} open now"])


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _tiles(facts: Facts) -> str:
    told = facts.cases_of_the_day()
    drifts = [each.close_drift for each in facts.markets if each.close_drift is not None]
    tiles = [
        ("trades", f"{sum(each.rows for each in facts.markets):,}", ""),
        ("missing", f"{sum(each.missing for each in facts.markets):,}", "bad"),
        ("cases opened", str(len(told["opened"])), "warn"),
        ("repaired", str(len(told["repaired"])), "good"),
        ("given up", str(len(told["given up"])), "bad"),
        ("largest drift", _percent(max(drifts)) if drifts else "-", ""),
    ]
    cells = [
        f"<div class='tile {kind if value not in ('0', '-') else ''}'><b>{escape(value)}</b>"
        f"<span>{name}</span></div>"
        for name, value, kind in tiles
    ]
    return f"<div class='tiles'>{''.join(cells)}</div>"


def _day_table(facts: Facts) -> str:
    head = "".join(f"<th{' class=number' if n > 1 else ''}>{name}</th>" for n, name in enumerate(_COLUMNS))
    rows = []
    for each in facts.markets:
        figures = "".join(f"<td class='number'>{escape(value)}</td>" for value in _figures(each))
        rows.append(
            f"<tr><td>{escape(str(each.market))}</td><td title='{escape(each.reason, quote=True)}'>"
            f"<i class='dot {each.state}'></i>{each.state.replace('-', ' ')}</td>{figures}</tr>"
        )
    reasons = [
        f"<li><b>{escape(str(each.market))}</b> {escape(each.reason)}</li>"
        for each in facts.markets
        if each.state not in ("complete", "none")
    ]
    more = f"<ul class='reasons'>{''.join(reasons)}</ul>" if reasons else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div class='wide'>{table}</div>{more}"


def _coverage(facts: Facts) -> str:
    legend = "".join(f"<span><i class='dot {state}'></i>{state.replace('-', ' ')}</span>" for state in STATES)
    cards = []
    for market, states in facts.calendars.items():
        whole = sum(state in WHOLE for state, _ in states.values())
        drawn = drawing.calendar(states, facts.first, facts.last)
        cards.append(_card(market, f"{whole} of {len(states)} days", drawn))
    return f"<p class='legend'>{legend}</p><div class='cards'>{''.join(cards)}</div>"


def _card(market: Market, said: str, drawn: str) -> str:
    caption = f"<figcaption>{escape(str(market))}<span>{escape(said)}</span></figcaption>"
    return f"<figure>{caption}<div class='wide'>{drawn}</div></figure>"


def _drift(facts: Facts) -> str:
    compared = [each for each in facts.markets if any(value is not None for _, value in each.drifts)]
    if not compared:
        return "<p class='none'>No day was reconciled yet.</p>"
    cards = [
        _card(
            each.market,
            _percent(each.close_drift) or "not compared",
            drawing.strip(each.drifts, facts.drift_limit),
        )
        for each in compared
    ]
    said = (
        f"<p class='legend'>The close that was furthest from the truth, each day; the line is "
        f"{facts.drift_limit:g} %, and bars end at {2 * facts.drift_limit:g} %.</p>"
    )
    return f"{said}<div class='cards'>{''.join(cards)}</div>"


def _late(facts: Facts) -> str:
    known = [(str(each.market), each.late) for each in facts.markets if each.late is not None]
    if not known:
        return "<p class='none'>Nothing that was streamed was compared.</p>"
    counts = [(name, count) for name, count in known if count]
    return _counted(counts, "No candle lacked a trade that came late.")


def _counted(counts: Sequence[tuple[str, int]], nothing: str) -> str:
    return drawing.bars(counts) if counts else f"<p class='none'>{nothing}</p>"


def _cases(facts: Facts) -> str:
    told = facts.cases_of_the_day()
    shown = {case["case"]: (case, steps) for cases in told.values() for case, steps in cases}
    said = f"<p class='legend'>{_counts(told, facts.open_cases)}</p>"
    if not shown:
        return said
    rows = []
    for case, steps in list(shown.values())[:_MOST_CASES]:
        items = "".join(
            f"<li><time>{each['at']:%m-%d %H:%M:%S}</time><b>{escape(story.step(each))}</b>"
            f"<span>{escape(each['detail'])}{_changes(each)}</span></li>"
            for each in steps
        )
        market = escape(f"{case['exchange']}:{case['symbol']}")
        rows.append(
            f"<details class='{_kind(case)}'><summary><b>{market}</b> {escape(story.headline(case))}"
            f"<code>{case['case'][:8]}</code></summary><ol>{items}</ol></details>"
        )
    more = len(shown) - _MOST_CASES
    last = f"<p class='none'>and {more} more: marketdata repairs --since {facts.day}</p>" if more > 0 else ""
    return said + "".join(rows) + last


def _kind(case: story.Row) -> str:
    return {State.REPAIRED: "good", State.EXHAUSTED: "bad", State.NOT_SERVED: "dull"}.get(
        case["state"], "warn"
    )


def _changes(entry: story.Row) -> str:
    changes = story.changes(entry)
    return f"<em>{escape(', '.join(changes))}</em>" if changes else ""
