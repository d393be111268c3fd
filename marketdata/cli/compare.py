"""``marketdata compare``: our candles beside the exchange's own."""

from marketdata import sources
from marketdata.backfill import compare_day, fetch_exchange_candles
from marketdata.cli.context import context, held_market, warn_of_gaps
from marketdata.cli.output import sink
from marketdata.cli.times import Asked, day_range, days_between


def run_compare(text: str, asked: Asked) -> int:
    """Compare day by day; return 1 when a candle differs."""
    here = context()
    first, after = day_range(asked, here.now)
    market, held = held_market(here, text)
    warn_of_gaps(here, market, held, first, after)
    source = sources.candle_source(market.exchange, here.settings)
    different = False
    for day in [day for day in days_between(first, after) if day in set(held)]:
        fetch_exchange_candles(here.lake, source, market, day, now=here.now)
        found = compare_day(here.lake, market, day)
        if found.compared == 0 and found.different.is_empty():
            print(f"{market} {day}: the exchange no longer serves candles of this day")
            continue
        figures = f"{found.compared:,} compared, {found.equal:,} equal, {len(found.different):,} findings"
        print(f"{market} {day}: {figures}")
        if len(found.different):
            different = True
            with sink("table", None, rows=10) as target:
                target.write(found.different)
    return 1 if different else 0
