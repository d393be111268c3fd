"""A day of one market: the stream beside the batch, and the batch beside the exchange's own candles.

What the stream had said wrong is put right in the store and told to live readers. Where the exchange's
candles differ and no ids prove ours, the day's trades are asked for once more. What stays wrong is said. The
result lies in the lake, one row a candle that differs; its figures go to the store, its story to the ledger.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any

import polars as pl

from marketdata import recording
from marketdata.backfill import DayReport, backfill
from marketdata.comparing import Compared, compare_sides, held, imported, proved, said, why
from marketdata.correcting import Corrected, correct
from marketdata.errors import CorruptFile, MarketDataError
from marketdata.lake import Lake
from marketdata.lake import reconciliation as in_lake
from marketdata.ledger import Entry
from marketdata.manifest import Status, day_window
from marketdata.market import Market
from marketdata.reconcile import BATCH, EXCHANGE, EXTRA, STREAM, Drift, Side
from marketdata.reconciliation_story import EXPLAINED, REPAIRED, WRONG, Story
from marketdata.settings import Settings

__all__ = [
    "EXPLAINED",
    "REPAIRED",
    "WRONG",
    "Reconciled",
    "known_result",
    "reconcile_day",
    "reconcile_days",
    "said",
]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """How a day compares, and what was done about it.

    Attributes:
        sides: ``stream`` and ``exchange``, each where there was something to compare with.
        differences: DIFFERENCE_SCHEMA; ``state`` is ``repaired``, ``explained`` or ``wrong``.
        settled: whether nothing stays wrong. sentence: all of it, for a person.
        known: whether the same had been compared before, so that nothing was done.
        published: corrected candles that live readers were told of.
    """

    market: Market
    day: date
    sides: Mapping[str, Side]
    differences: pl.DataFrame
    settled: bool
    sentence: str
    known: bool = False
    published: int = 0

    def wrong(self, side: str) -> int:
        """How many candles stay wrong of one comparison."""
        if self.settled:
            return 0
        stays = (pl.col("compared_with") == side) & (pl.col("state") == WRONG)
        return len(self.differences.filter(stays))


def reconcile_day(
    settings: Settings,
    lake: Lake,
    market: Market,
    day: date,
    *,
    now: datetime,
    run_id: str = "",
    streamed: pl.DataFrame | None = None,
    again: bool = False,
) -> Reconciled:
    """Compare a day, repair what can be repaired, and keep the result.

    A day of which nothing has changed since it was compared is not compared again.

    Args:
        now: when it is done (UTC). run_id: by which run, for the ledger.
        streamed: as :func:`marketdata.comparing.said` gives it; read from the store by default.
        again: compare and repair also what was compared before.

    Raises:
        NoData: the lake does not hold the day.
        TransientError: the exchange, the store or a broker is away; run it again.
        CorruptFile, StorageError, PermanentError: from the lake, the store or the exchange.
    """
    if streamed is None:
        streamed = said(settings, market, *day_window(day))
    judge = _Judge(settings, lake, now, run_id, again=again)
    judged = judge.of_day(market, day, streamed)
    if judged.entries:
        recording.record(settings, lake, judged.entries)
    judge.keep(judged)
    return judged.outcome


def reconcile_days(
    settings: Settings,
    lake: Lake,
    market: Market,
    days: Sequence[date],
    *,
    now: datetime,
    run_id: str = "",
    streamed: pl.DataFrame,
    again: bool = False,
    workers: int = 2,
) -> dict[date, Reconciled | MarketDataError]:
    """Reconcile some days of a market side by side, as :func:`reconcile_day`; one that fails stops no other.

    Args:
        streamed: as :func:`marketdata.comparing.said` gives it for all of them.

    Raises:
        StorageError: the ledger cannot be written; no result is kept then.
    """
    judge = _Judge(settings, lake, now, run_id, again=again)
    outcomes: dict[date, Reconciled | MarketDataError] = {}

    def judged(day: date) -> _Judged | MarketDataError:
        try:
            return judge.of_day(market, day, streamed)
        except MarketDataError as error:
            return error

    def kept(one: _Judged) -> MarketDataError | None:
        try:
            judge.keep(one)
        except MarketDataError as error:
            return error
        return None

    with ThreadPoolExecutor(workers, thread_name_prefix="reconcile") as pool:
        found = dict(zip(days, pool.map(judged, days), strict=True))
        good = {day: one for day, one in found.items() if isinstance(one, _Judged)}
        # The ledger before the results: what is killed between the two is found once more.
        if entries := [entry for one in good.values() for entry in one.entries]:
            recording.record(settings, lake, entries)
        errors = dict(zip(good, pool.map(kept, good.values()), strict=True))
    for day, one in found.items():
        outcomes[day] = one if isinstance(one, MarketDataError) else errors[day] or one.outcome
    return outcomes


@dataclass(frozen=True, slots=True)
class _Judged:
    """A day that was compared and put right, with what is to be written of it."""

    outcome: Reconciled
    entries: Sequence[Entry] = ()
    found: Compared | None = None
    asked_for: str = ""


@dataclass(frozen=True, slots=True)
class _Judge:
    """Compares days and puts right what was streamed; :meth:`keep` comes behind the ledger."""

    settings: Settings
    lake: Lake
    now: datetime
    run_id: str
    again: bool

    def of_day(self, market: Market, day: date, streamed: pl.DataFrame) -> _Judged:
        settings, lake, again = self.settings, self.lake, self.again
        there = held(lake, market, day, streamed)
        before = _held(lake, market, day)
        if before is not None and not again and before.get("inputs") == there.inputs:
            return _Judged(_known(lake, market, day, before))
        first = found = compare_sides(lake, there)
        asked = _must_ask(found) and (
            again or before is None or before.get("asked") != found.manifest.content_hash
        )
        if asked:
            _ask_again(settings, lake, market, day, self.now)
            found = compare_sides(lake, held(lake, market, day, streamed))
        earlier = {} if before is None or again else _sides_before(lake, market, day, before)
        # What the store no longer knows of the stream stays as it was found; what was put right is told once.
        forgotten = STREAM in earlier and not found.stream.compared
        new = {
            STREAM: not forgotten and not _same(earlier.get(STREAM), found.stream),
            EXCHANGE: asked or not _same(earlier.get(EXCHANGE), found.exchange),
        }
        differences, done = _repair(settings, found, put_right=new[STREAM])
        sides = _sides(found, earlier[STREAM] if forgotten else None)
        if forgotten:
            differences = pl.concat([earlier[STREAM].differences, differences])
        if len(differences):
            differences = differences.sort("open_time", "compared_with", maintain_order=True)
        settled = WRONG not in differences["state"].to_list()
        outcome = Reconciled(market, day, sides, differences, settled, _sentence(sides, differences, found))
        outcome = replace(outcome, published=done.published)
        story = Story(
            first,
            found,
            differences,
            done.published,
            asked,
            _left(lake, market, day, before),
            at=self.now,
            run_id=self.run_id,
        )
        entries = list(story.entries(settings.drift_alert_percent, new=new))
        return _Judged(outcome, entries, found, _asked_for(before, found, asked=asked))

    def keep(self, judged: _Judged) -> None:
        """Write the result of a day that was compared now."""
        if judged.found is not None:
            _keep(
                self.settings,
                self.lake,
                judged.outcome,
                judged.found,
                asked_for=judged.asked_for,
                now=self.now,
            )


# -- repairing ------------------------------------------------------------------------------------------


def _must_ask(found: Compared) -> bool:
    """Whether the exchange should be asked for the trades once more.

    Not where ids prove them, not for a day known to be incomplete, which is asked for anyway, and not in
    place of a file that somebody has imported.
    """
    manifest = found.manifest
    differs = len(found.exchange.differences) > 0
    unproved = manifest.status is Status.COMPLETE and not proved(manifest) and not manifest.not_served
    return differs and unproved and not imported(manifest)


def _ask_again(settings: Settings, lake: Lake, market: Market, day: date, now: datetime) -> None:
    (outcome,) = backfill(lake, [(market, day)], settings, now=now, refresh=True, fold=True)
    if not isinstance(outcome, DayReport):
        raise outcome[1]


def _repair(settings: Settings, found: Compared, *, put_right: bool) -> tuple[pl.DataFrame, Corrected]:
    """The differences with what became of each, and what was done in the store.

    Args:
        put_right: whether the store is to be changed; otherwise it was put right before.
    """
    manifest, stream = found.manifest, found.stream.differences
    complete = manifest.status is Status.COMPLETE
    # A batch that lacks trades itself is the truth only where it has more of them.
    better = pl.col("true_trades") > pl.col("said_trades").fill_null(0)
    right = pl.lit(complete) | better.fill_null(value=False)
    trusted = pl.lit(proved(manifest)) | (pl.col("alone") != BATCH)
    state = pl.when(right & trusted).then(pl.lit(REPAIRED)).otherwise(pl.lit(WRONG))
    done = Corrected(found.batch.clear())
    if not len(stream) and not len(found.exchange.differences):
        return stream, done
    stream = stream.with_columns(state.alias("state"))
    mended = stream.filter(pl.col("state") == REPAIRED)
    if put_right and len(mended):
        extra = mended.filter(pl.col("finding") == EXTRA)["open_time"].to_list()
        opens = mended.filter(pl.col("finding") != EXTRA).select("open_time")
        done = correct(
            settings,
            manifest.market,
            found.batch.join(opens, on="open_time", how="semi", maintain_order="left"),
            source="import" if imported(manifest) else "batch",
            coverage=manifest.status.value,
            remove=extra,
        )
    explained = proved(manifest) or (complete and bool(manifest.not_served))
    exchange = found.exchange.differences.with_columns(
        pl.lit(EXPLAINED if explained else WRONG).alias("state")
    )
    return pl.concat([stream, exchange]), done


# -- the result ------------------------------------------------------------------------------------------


def _held(lake: Lake, market: Market, day: date) -> dict[str, Any] | None:
    try:
        return in_lake.result(lake, market, day)
    except CorruptFile:  # it is written anew
        return None


def known_result(lake: Lake, market: Market, day: date) -> Reconciled | None:
    """The result that is kept of a day; ``None`` when it was not reconciled.

    Raises:
        CorruptFile: the file is cut or foreign.
    """
    result = in_lake.result(lake, market, day)
    return None if result is None else _known(lake, market, day, result)


def _known(lake: Lake, market: Market, day: date, result: Mapping[str, Any]) -> Reconciled:
    differences = in_lake.differences(lake, market, day)
    sides = _sides_before(lake, market, day, result)
    return Reconciled(market, day, sides, differences, result["settled"], result["sentence"], known=True)


def _left(lake: Lake, market: Market, day: date, before: Mapping[str, Any] | None) -> set[tuple[str, str]]:
    """Sides and classes of which something was left wrong before."""
    if before is None or before.get("settled", True):
        return set()
    differences = in_lake.differences(lake, market, day).filter(pl.col("state") == WRONG)
    return {(side, kind) for side, kind in differences.select("compared_with", "finding").rows()}


def _side_of(body: Mapping[str, Any], differences: pl.DataFrame, name: str) -> Side:
    mine = differences.filter(pl.col("compared_with") == name)
    return Side(body["compared"], body["equal"], dict(body["counts"]), Drift(**body["drift"]), mine)


def _sides_before(lake: Lake, market: Market, day: date, before: Mapping[str, Any]) -> dict[str, Side]:
    """How the day compared before."""
    differences = in_lake.differences(lake, market, day)
    return {name: _side_of(body, differences, name) for name, body in before["sides"].items()}


def _same(earlier: Side | None, now: Side) -> bool:
    """Whether the same was found before, and nothing of it is left wrong."""
    if earlier is None or earlier.counts != now.counts or WRONG in earlier.differences["state"].to_list():
        return False
    found = [side.differences.drop("alone", "state") for side in (earlier, now)]
    return found[0].equals(found[1])


def _sides(found: Compared, kept: Side | None) -> dict[str, Side]:
    sides = {STREAM: kept or found.stream, EXCHANGE: found.exchange}
    return {name: side for name, side in sides.items() if side.compared}


def _asked_for(before: Mapping[str, Any] | None, found: Compared, *, asked: bool) -> str:
    """The trades that are what the exchange serves, as it was asked once more; empty where it was not."""
    if asked:
        return found.manifest.content_hash
    return str(before.get("asked", "")) if before is not None else ""


def _keep(
    settings: Settings, lake: Lake, outcome: Reconciled, found: Compared, *, asked_for: str, now: datetime
) -> None:
    bodies = {
        name: {
            "compared": side.compared,
            "equal": side.equal,
            "counts": side.counts,
            "drift": asdict(side.drift),
            "wrong": outcome.wrong(name),
        }
        for name, side in outcome.sides.items()
    }
    result: in_lake.Result = {
        "inputs": found.inputs,
        "trades": found.manifest.content_hash,
        "asked": asked_for,
        "sides": bodies,
        "settled": outcome.settled,
        "sentence": outcome.sentence,
    }
    if settings.database_url is not None and outcome.sides:
        from marketdata.store import reconciliations  # the store is an optional part  # noqa: PLC0415

        sides = {name: (side, outcome.wrong(name)) for name, side in outcome.sides.items()}
        reconciliations.put(settings, outcome.market, outcome.day, sides, now)
    in_lake.write(lake, outcome.market, outcome.day, outcome.differences, result)


def _sentence(sides: Mapping[str, Side], differences: pl.DataFrame, found: Compared) -> str:
    told = []
    for name, nothing in ((STREAM, "Nothing was streamed"), (EXCHANGE, "The exchange's own are not held")):
        side = sides.get(name)
        if side is None:
            told.append(f"{nothing}.")
            continue
        who = "Of what was streamed" if name == STREAM else "Beside the exchange's own"
        text = f"{who} {side.equal:,} of {side.compared:,} candles are equal"
        if not side.counts:
            told.append(f"{text}.")
            continue
        mine = differences.filter(pl.col("compared_with") == name)
        states = Counter(mine["state"].to_list())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in side.counts.items())
        became = ", ".join(
            f"{states[state]:,} {state}" for state in (REPAIRED, EXPLAINED, WRONG) if states.get(state)
        )
        told.append(f"{text}; {kinds}: {became}.")
    if EXPLAINED in differences["state"].to_list():
        told.append(why(found.manifest))
    return " ".join(told)
