"""The synthetic market: the trades of any day as a pure function of (seed, listing, day).

A day costs O(its rows), whatever day it is. Rows are numbered without a break across days: the number of
rows before a day is a formula (:func:`rows_before`), so nothing has to be generated to know an id. Prices
are value noise over absolute time in octaves from 97 days to 8 seconds, hence continuous across midnight
and coherent between markets: BTC/USD and BTC/EUR see the same bitcoin.

Random numbers come from PCG64's uniform doubles only, whose stream numpy keeps stable.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from marketdata.exchange_sim.listing import Asset, Listing

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DAY_NS = 86_400_000_000_000
_MINUTES = 1_440
# Monday to Sunday; they sum to 7, so that seven days in a row hold seven times the rate.
_WEEKDAY = (1.06, 1.10, 1.12, 1.08, 1.06, 0.80, 0.78)
_WEEK_BEFORE = tuple(sum(_WEEKDAY[:i]) for i in range(8))
_MONDAY = 4  # 1970-01-05
_WIGGLE = 0.18
_ORDER_SHARE = 0.62  # orders a row: bursts have 1.6 rows on average
_LONGEST_OCTAVE = 20  # 2**20 * 8 s = 97 days
_FIRST_SLOW_OCTAVE = 10  # 2**10 * 8 s, more than two hours
_SHORTEST_S = 8


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of one market in exchange order, as parallel arrays.

    Attributes:
        id: trade id (Kraken) or aggTrade id (Binance), ascending.
        time_ns: the exchange's clock, ascending; on Kraken what its cursor counts.
        shown: the time that rows show, in units of 100 ns. On Kraken rows of one order show one time.
        ticks, lots: price and amount on the listing's grid, as integers.
        taker_buys: whether the taker bought.
        limit: whether the taker's order was a limit order (Kraken's ``l``).
        fills: raw trades in the row. first_fill: id of the first of them; they are contiguous.
    """

    id: Ints
    time_ns: Ints
    shown: Ints
    ticks: Ints
    lots: Ints
    taker_buys: Bools
    limit: Bools
    fills: Ints
    first_fill: Ints

    def __len__(self) -> int:
        """Rows."""
        return len(self.id)

    def take(self, where: "slice | npt.NDArray[Any]") -> "Columns":
        """The rows of a slice, a mask or an index."""
        return Columns(*(getattr(self, name)[where] for name in _NAMES))


_NAMES = tuple(Columns.__dataclass_fields__)


def concat(parts: list[Columns]) -> Columns:
    """Rows of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none, no = np.empty(0, np.int64), np.empty(0, np.bool_)
        return Columns(none, none, none, none, none, no, no, none, none)
    return Columns(*(np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES))


def rows_before(seed: int, listing: Listing, day: int) -> int:
    """Number of rows the market has had before the UTC day (days since 1970); O(1)."""
    return _before(seed, listing, day, listing.rate, "rows")


def fills_before(seed: int, listing: Listing, day: int) -> int:
    """Number of raw trades before the UTC day; O(1), never fewer than the rows."""
    rows = rows_before(seed, listing, day)
    extra = listing.rate * (listing.fills - 1.0)
    return rows + _before(seed, listing, day, extra, "fills")


def _before(seed: int, listing: Listing, day: int, rate: float, what: str) -> int:
    if day <= listing.first_day:
        return 0
    key = _key(seed, listing.market, what)
    return int(
        rate * (_weighted_days(day) - _weighted_days(listing.first_day))
        + rate * _WIGGLE * (_unit(key, day) - _unit(key, listing.first_day))
    )


def _weighted_days(day: int) -> float:
    week, weekday = divmod(day - _MONDAY, 7)
    return 7 * week + _WEEK_BEFORE[weekday]


def trades_of_day(seed: int, listing: Listing, day: int) -> Columns:
    """All rows of one UTC day (days since 1970) of a market; empty before it was listed."""
    before = rows_before(seed, listing, day)
    rows = rows_before(seed, listing, day + 1) - before
    if rows <= 0:
        return concat([])
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(listing.market.encode()), day]))
    orders = max(1, round(rows * _ORDER_SHARE))
    sizes = 1 + _spread(rows - orders, orders, 0.25, rng)
    starts = np.cumsum(sizes) - sizes
    order = np.repeat(np.arange(orders), sizes)
    place = np.arange(rows) - starts[order]

    order_time = _order_times(seed, listing, day, orders, rng)
    buys = _sides(orders, rng)
    ticks = _prices(seed, listing, order_time, buys, rng)[order]
    # Each fill goes deeper into the book. Fills of one aggTrade have one price, so on Binance every row of
    # an order has its own; Kraken reports several resting orders at one price one by one.
    depth = place if listing.exchange == "binance" else place * (rng.random(orders)[order] < 0.6) // 2
    step = max(1, round(_tick_share(ticks[0]) * ticks[0]))
    ticks = np.maximum(1, ticks + np.where(buys[order], depth, -depth) * step)

    fill_rows = fills_before(seed, listing, day)
    fills_today = fills_before(seed, listing, day + 1) - fill_rows
    fills = 1 + _spread(fills_today - rows, rows, 0.2, rng)
    lots = np.maximum(_lots(listing, ticks, rng), fills)
    first_fill = 1 + fill_rows + np.cumsum(fills) - fills
    shown = order_time[order] // 100
    return Columns(
        id=np.arange(before + 1, before + 1 + rows, dtype=np.int64),
        # The exchange's own clock tells rows of one order apart by a nanosecond each.
        time_ns=shown * 100 + (place if listing.exchange == "kraken" else 0),
        shown=shown,
        ticks=ticks,
        lots=lots,
        taker_buys=buys[order],
        limit=(rng.random(orders) < 0.55)[order],
        fills=fills,
        first_fill=first_fill.astype(np.int64),
    )


def _spread(total: int, parts: int, share: float, rng: np.random.Generator) -> Ints:
    """Deal ``total`` out over a ``share`` of the parts, unevenly and exactly."""
    if total <= 0:
        return np.zeros(parts, dtype=np.int64)
    weights = np.where(rng.random(parts) < share, -np.log1p(-rng.random(parts)), 0.0)
    whole = float(weights.sum())
    if whole == 0.0:
        return np.diff(np.full(parts, total), prepend=0)
    dealt = np.floor(np.cumsum(weights) / whole * total).astype(np.int64)
    dealt[-1] = total
    # Rounding may put the last unit past the end of a sum that fell short by an ulp.
    return np.diff(np.minimum(dealt, total), prepend=0)


def _order_times(seed: int, listing: Listing, day: int, orders: int, rng: np.random.Generator) -> Ints:
    """Strictly ascending times of orders, ns since the epoch, on the grid that the exchange can show."""
    start = day * DAY_NS
    minute = np.arange(_MINUTES)
    hours = minute / 60.0
    # Busy when Europe and America overlap, calm in the small hours.
    profile = (
        0.55 + 0.9 * np.exp(-(((hours - 15.0) / 4.5) ** 2)) + 0.25 * np.exp(-(((hours - 8.5) / 2.5) ** 2))
    )
    key = _key(seed, listing.market, "activity")
    seconds = np.asarray(start / 1e9 + minute * 60.0, dtype=np.float64)
    waves = np.sum([_noise(key, 60 * 4**octave, seconds, octave) for octave in range(5)], axis=0)
    activity = profile * np.exp(0.55 * waves)
    # Lulls: in a thin market some minutes pass without a trade.
    quiet_share = min(0.25, 250.0 / listing.rate)
    activity[rng.random(_MINUTES) < quiet_share] = 0.0
    if not activity.any():
        activity[:] = 1.0
    edges = np.concatenate([[0.0], np.cumsum(activity)])
    at = np.sort(rng.random(orders)) * edges[-1]
    grid = 1_000  # one microsecond
    time = np.interp(at, edges, np.arange(_MINUTES + 1) * 60e9).astype(np.int64) // 100 * 100
    steps = np.arange(orders, dtype=np.int64) * grid
    # Apart by at least a microsecond, and inside the day.
    time = np.maximum.accumulate(time - steps) + steps
    time = np.minimum(time, DAY_NS - grid - steps[::-1])
    if rng.random() < 0.5:
        time[0] = 0  # the first trade of half the days is at midnight sharp
    if rng.random() < 0.5:
        time[-1] = DAY_NS - grid
    if listing.exchange == "binance":
        return np.asarray(start + time // grid * grid)
    return np.asarray(start + showable(start // 1_000_000_000, time))


def showable(start_s: int, offset_ns: Ints) -> Ints:
    """Move offsets to times whose shortest decimal text as a float of seconds is exact to 100 ns.

    A double near 1.7e9 has steps of 0.24 us, so what a client reads is the text, not the clock.
    """
    seconds, rest = np.divmod(offset_ns, 1_000_000_000)
    whole = (start_s + seconds).astype(np.float64)
    number = whole + (rest // 100) / 1e7
    fraction = number - whole
    micros = np.rint(fraction * 1e6)
    text = np.where(whole + micros / 1e6 == number, micros * 10, np.rint(fraction * 1e7)).astype(np.int64)
    return np.asarray(seconds * 1_000_000_000 + text * 100)


def _sides(orders: int, rng: np.random.Generator) -> Bools:
    """Taker sides in runs: the same side follows in two of three cases."""
    flips = rng.random(orders) < 0.34
    return np.asarray(np.cumsum(flips) % 2 == 0)


def _prices(seed: int, listing: Listing, time_ns: Ints, buys: Bools, rng: np.random.Generator) -> Ints:
    """Price of each order's first fill, in ticks: the mid, half a spread, and on to the grid."""
    day = int(time_ns[0] // DAY_NS)
    grid = day * 86_400.0 + np.arange(0.0, 86_401.0, _SHORTEST_S)
    seconds = time_ns / 1e9
    if len(seconds) * 4 < len(grid):  # a quiet day: only where it is looked at, with the same result
        at = np.searchsorted(grid, seconds, side="right")
        grid = grid[np.unique(np.concatenate((at - 1, np.minimum(at, len(grid) - 1))))]
    level = np.log(listing.base.level / listing.quote.level)
    path = level + _wander(seed, listing.base, grid) - _wander(seed, listing.quote, grid)
    # Venues differ a little.
    path += 0.0003 * _noise(_key(seed, listing.market, "basis"), 3_600, grid, 0)
    mid = np.interp(seconds, grid, np.exp(path)) * 10.0**listing.tick
    half = mid * 0.00002 * (0.5 + rng.random(len(mid)))
    ticks = np.where(buys, np.ceil(mid + half), np.floor(mid - half))
    return np.asarray(np.maximum(1, ticks).astype(np.int64))


def _tick_share(ticks: int) -> float:
    """How far apart price levels of the book are, relative to the price."""
    return 0.000015 if ticks > 100_000 else 0.0


def _lots(listing: Listing, ticks: Ints, rng: np.random.Generator) -> Ints:
    """Amounts, in lots: log-normal in value, one in six a round number."""
    count = len(ticks)
    normal = np.sqrt(-2.0 * np.log1p(-rng.random(count))) * np.cos(2 * np.pi * rng.random(count))
    value = listing.order_value / listing.quote.level * np.exp(1.4 * normal - 1.0)
    lots = np.maximum(1.0, np.rint(value * 10.0 ** (listing.tick + listing.lot) / ticks))
    rounded = np.flatnonzero(rng.random(count) < 1 / 6)
    unit = 10.0 ** np.floor(np.log10(lots[rounded]))
    lots[rounded] = np.rint(lots[rounded] / unit) * unit
    return np.asarray(lots.astype(np.int64))


def _wander(seed: int, asset: Asset, grid: Floats) -> Floats:
    """Log price of an asset around its level at the grid's seconds: Brownian to the eye, yet bounded.

    Slow octaves are computed on a coarser grid; both grids meet at midnight, so days fit together.
    """
    if asset.volatility == 0.0:
        return np.zeros(len(grid))
    key = _key(seed, asset.code, "price")
    fast = np.zeros(len(grid))
    for octave in range(_FIRST_SLOW_OCTAVE):
        fast += _weight(asset, octave) * _noise(key, _SHORTEST_S * 2**octave, grid, octave)
    return np.asarray(fast + np.interp(grid, *_slow(key, asset, int(grid[0] // 86_400.0))))


@lru_cache(maxsize=256)
def _slow(key: int, asset: Asset, day: int) -> tuple[Floats, Floats]:
    """The coarse grid of a day and what the slow octaves are there; the same for all markets of an asset."""
    grid = day * 86_400.0 + np.arange(0.0, 86_401.0, 240.0)
    slow = np.zeros(len(grid))
    for octave in range(_FIRST_SLOW_OCTAVE, _LONGEST_OCTAVE + 1):
        slow += _weight(asset, octave) * _noise(key, _SHORTEST_S * 2**octave, grid, octave)
    return grid, slow


def _weight(asset: Asset, octave: int) -> float:
    return float(asset.volatility * 0.8 * (_SHORTEST_S * 2**octave / 86_400) ** 0.5)


def _noise(key: int, period: int, seconds: Floats, octave: int) -> Floats:
    """Smooth value noise in -1..1 with a knot each ``period`` seconds; ``seconds`` ascending."""
    at = seconds / period
    cell = np.floor(at).astype(np.int64)
    part = at - cell
    part = part * part * (3.0 - 2.0 * part)
    first, cells = int(cell[0]), int(cell[-1] - cell[0]) + 2
    if cells > 2 * len(cell):
        left, right = _units(key + octave, cell), _units(key + octave, cell + 1)
    else:
        knots = _units(key + octave, np.arange(first, first + cells, dtype=np.int64))
        left, right = knots[cell - first], knots[cell - first + 1]
    return np.asarray(left + (right - left) * part)


def _key(seed: int, *names: str) -> int:
    return (seed * 1_000_003 + zlib.crc32("/".join(names).encode())) & 0xFFFF_FFFF_FFFF


@lru_cache(maxsize=65_536)
def _unit(key: int, index: int) -> float:
    return float(_units(key, np.array([index], dtype=np.int64))[0])


def _units(key: int, index: Ints) -> Floats:
    """Numbers in -1..1 that depend on nothing but key and index (a splitmix64 of both)."""
    word = index.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key * 0x632BE59BD9B4E019 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    return np.asarray((word >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0)
