"""``marketdata coverage --evidence``: what speaks for each day, and what against it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
from rich.text import Text

from marketdata.cli.context import context, held_market
from marketdata.cli.output import choose_format, destination, sink
from marketdata.cli.table import draw
from marketdata.cli.times import Asked, day_range
from marketdata.errors import MarketDataError
from marketdata.evidence import OUTAGE, Evidence, evidence_of_day

_FORMATS = ("text", "csv", "json", "parquet")
_SCHEMA = pl.Schema(
    {
        "exchange": pl.String(),
        "symbol": pl.String(),
        "day": pl.Date(),
        "status": pl.String(),
        "kind": pl.String(),
        "verdict": pl.String(),
        "sentence": pl.String(),
    }
)
_WORDS = {True: "agrees", False: "contradicts", None: "proves nothing"}
_SIGNS = {"agrees": "+", "contradicts": "-", "proves nothing": "?"}
_STYLES = {"agrees": "green", "contradicts": "red", "proves nothing": "dim"}
_KIND_WIDTH = 17


def run_evidence(
    text: str | None,
    asked: Asked,
    *,
    format: str | None,  # noqa: A002
    output: Path | None,
) -> int:
    """Print a paragraph a day, or write a row a fact."""
    chosen = choose_format(format, output, _FORMATS)
    here = context()
    held = here.lake.days() if text is None else dict([held_market(here, text)])
    first, after = day_range(asked, here.now) if asked else (None, None)
    days = [
        (market, day)
        for market, found in held.items()
        for day in found
        if (first is None or day >= first) and (after is None or day < after)
    ]
    if not days:
        msg = f"The lake {here.lake.url!r} holds none of these days."
        raise MarketDataError(msg, hint="To see what it holds: marketdata coverage")
    found = (evidence_of_day(here.lake, market, day) for market, day in days)
    if chosen == "text":
        with destination(output) as file:
            for evidence in found:
                draw(_paragraph(evidence), file)
        return 0
    with sink(chosen, output) as target:
        for evidence in found:
            target.write(evidence_frame([evidence]))
    return 0


def evidence_frame(evidence: Iterable[Evidence]) -> pl.DataFrame:
    """One row a fact; ``verdict`` is agrees, contradicts or proves nothing."""
    rows = [
        (each.market.exchange, each.market.symbol, each.day, each.status.value, kind, verdict, sentence)
        for each in evidence
        for kind, verdict, sentence in _facts(each)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _facts(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for fact in evidence.facts:
        yield fact.kind, _WORDS[fact.agrees], fact.sentence
    for each in evidence.outages:
        told = f"From {each.start:%H:%M:%S} to {each.end:%H:%M:%S} UTC. {each.evidence}"
        yield OUTAGE, _WORDS[True], told


def _paragraph(evidence: Evidence) -> Text:
    text = Text(f"{evidence.market} {evidence.day} {evidence.status}: {evidence.reason}\n")
    for kind, verdict, sentence in _facts(evidence):
        text.append(f"  {_SIGNS[verdict]} {kind:<{_KIND_WIDTH}}", style=_STYLES[verdict])
        text.append(f"{sentence}\n")
    return text
