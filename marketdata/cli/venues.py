"""``marketdata compare-venues``: one thing at two venues, as information."""

from marketdata.cli.context import context
from marketdata.cli.times import Asked, show, time_range
from marketdata.interval import Interval
from marketdata.provider import Provider
from marketdata.venues import Venues, compare_venues


def run_compare_venues(one: str, other: str, interval_name: str, asked: Asked) -> int:
    """Print how far apart two markets are; that they are is no fault, so this returns 0."""
    interval = Interval.parse(interval_name)
    here = context()
    begin, finish = time_range(asked, here.now)
    with Provider(here.settings, clock=lambda: here.now) as provider:
        first, second = (provider.candles(market, interval, begin, finish) for market in (one, other))
    print("\n".join(_lines(one, other, interval.name, compare_venues(first, second))))
    return 0


def _lines(one: str, other: str, interval: str, found: Venues) -> list[str]:
    facts = [
        ("both have traded", f"{found.both:,} candles"),
        (f"only {one}", f"{found.only_one:,}"),
        (f"only {other}", f"{found.only_other:,}"),
    ]
    if found.apart_median is not None and found.apart_max is not None and found.at_max is not None:
        most = f"{found.apart_max:.4f} % at most, at {show(found.at_max)}"
        facts.append(("closes apart", f"{found.apart_median:.4f} % in the middle, {most}"))
    if found.bias is not None:
        dearer = other if found.bias > 0 else one
        facts.append(("dearer", f"{dearer}, by {abs(found.bias):.4f} % in the middle"))
    if found.correlation is not None:
        facts.append(("returns correlate", f"{found.correlation:.4f}"))
    if found.volume_ratio is not None:
        facts.append(("volume", f"{found.volume_ratio:.3g} at {other} for 1 at {one}"))
    width = max(len(name) for name, _ in facts)
    return [
        f"{one} beside {other}, candles of {interval}",
        *(f"  {name:<{width}}  {what}" for name, what in facts),
    ]
