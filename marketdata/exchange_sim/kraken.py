"""Kraken's public REST endpoints, ``/0/public/...``."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from marketdata.exchange_sim.answer import Answer, Endpoint, Parameters, json_answer
from marketdata.exchange_sim.candles import Candles, Grid
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.listing import Asset, Listing
from marketdata.exchange_sim.market import Columns
from marketdata.exchange_sim.tape import Reader

_INVALID = "EGeneral:Invalid arguments"
_UNKNOWN_PAIR = "EQuery:Unknown asset pair"
_UNKNOWN_ASSET = "EQuery:Unknown asset"
_PAGE = 1_000
_CANDLES = 720
_MINUTE_NS = 60_000_000_000
_INTERVALS = (1, 5, 15, 30, 60, 240, 1_440, 10_080, 21_600)
_FEES = [[0, 0.4], [10_000, 0.35], [50_000, 0.24], [100_000, 0.22], [250_000, 0.2], [500_000, 0.18]]
_FEES_MAKER = [[0, 0.25], [10_000, 0.2], [50_000, 0.14], [100_000, 0.12], [250_000, 0.08], [500_000, 0.06]]
# A `since` below this is in seconds (until the year 33658), above it in nanoseconds (from 1970-01-12 on).
_LARGEST_SECONDS = 1_000_000_000_000


class _RefusedError(Exception):
    """Kraken says no: status 200 and its own error text."""


def _endpoint(result: Callable[[Exchange, Parameters], Any]) -> Endpoint:
    """An endpoint of a function that returns the ``result`` of an answer."""

    def answer(exchange: Exchange, parameters: Parameters) -> Answer:
        try:
            return json_answer({"error": [], "result": result(exchange, parameters)})
        except _RefusedError as error:
            return json_answer({"error": [str(error)]})

    return answer


def _time(exchange: Exchange, _: Parameters) -> Any:
    seconds = exchange.clock.now_ns() // 1_000_000_000
    return {
        "unixtime": seconds,
        "rfc1123": f"{datetime.fromtimestamp(seconds, UTC):%a, %d %b %y %H:%M:%S} +0000",
    }


def _system_status(exchange: Exchange, _: Parameters) -> Any:
    now = datetime.fromtimestamp(exchange.clock.now_ns() // 1_000_000_000, UTC)
    return {"status": "online", "timestamp": f"{now:%Y-%m-%dT%H:%M:%SZ}"}


def _assets(exchange: Exchange, parameters: Parameters) -> Any:
    listed: dict[str, Asset] = {}
    for listing in exchange.listings("kraken"):
        for asset in (listing.base, listing.quote):
            listed[asset.kraken_id] = asset
    wanted = listed
    if text := parameters.get("asset"):
        by_name = {name: asset for asset in listed.values() for name in (asset.kraken_id, asset.kraken_name)}
        try:
            wanted = {asset.kraken_id: asset for asset in (by_name[name] for name in text.split(","))}
        except KeyError:
            raise _RefusedError(_UNKNOWN_ASSET) from None
    return {
        key: {
            "aclass": "currency",
            "altname": asset.kraken_name,
            "decimals": 4 if asset.code in {"USD", "EUR"} else 10,
            "display_decimals": 2 if asset.code in {"USD", "EUR"} else 5,
            "status": "enabled",
        }
        for key, asset in wanted.items()
    }


def _asset_pairs(exchange: Exchange, parameters: Parameters) -> Any:
    if text := parameters.get("pair"):
        wanted = [_reader(exchange, name).listing for name in text.split(",")]
    else:
        wanted = list(exchange.listings("kraken"))
    return {listing.id: _pair(listing) for listing in wanted}


def _pair(listing: Listing) -> dict[str, Any]:
    return {
        "altname": listing.base.kraken_name + listing.quote.kraken_name,
        "wsname": f"{listing.base.kraken_name}/{listing.quote.kraken_name}",
        "aclass_base": "currency",
        "base": listing.base.kraken_id,
        "aclass_quote": "currency",
        "quote": listing.quote.kraken_id,
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": listing.tick,
        "lot_decimals": listing.lot,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": _FEES,
        "fees_maker": _FEES_MAKER,
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": "0.0001",
        "costmin": "0.5",
        "tick_size": f"{10.0**-listing.tick:.{listing.tick}f}",
        "status": "online",
    }


def _trades(exchange: Exchange, parameters: Parameters) -> Any:
    reader = _reader(exchange, parameters.get("pair"))
    count = min(max(_whole(parameters.get("count"), _PAGE), 1), _PAGE)
    since = parameters.get("since")
    if since is None:
        rows = reader.newest(count)
        last = str(exchange.clock.now_ns())
    else:
        cursor = since_ns(since)
        rows = reader.page(reader.tape.after(cursor), count)
        last = str(cursor)
    if len(rows):
        last = str(rows.time_ns[-1])
    return {reader.listing.id: trade_rows(rows, reader.listing, ids=reader.tape.shows_ids), "last": last}


def trade_rows(rows: Columns, listing: Listing, *, ids: bool = True) -> list[list[Any]]:
    """Rows as Kraken shows them: price, volume, time, side, order type, miscellaneous and the trade id."""
    price = f"%.{listing.price_text}f"
    amount = f"%.{listing.amount_text}f"
    tick, lot = 10**listing.tick, 10**listing.lot
    columns: list[list[Any]] = [
        [price % (ticks / tick) for ticks in rows.ticks.tolist()],
        [amount % (lots / lot) for lots in rows.lots.tolist()],
        # Seconds and the rest apart, or the sum would be rounded twice.
        [
            seconds + rest / 1e7
            for seconds, rest in (divmod(shown, 10_000_000) for shown in rows.shown.tolist())
        ],
        ["b" if buys else "s" for buys in rows.taker_buys.tolist()],
        ["l" if limit else "m" for limit in rows.limit.tolist()],
        [""] * len(rows),
    ]
    if ids:
        columns.append(rows.id.tolist())
    return [list(row) for row in zip(*columns, strict=True)]


def _ohlc(exchange: Exchange, parameters: Parameters) -> Any:
    reader = _reader(exchange, parameters.get("pair"))
    interval = _whole(parameters.get("interval"), 1)
    if interval not in _INTERVALS:
        raise _RefusedError(_INVALID)
    width = interval * _MINUTE_NS
    now = exchange.clock.now_ns()
    running = now // width * width
    start = running - (_CANDLES - 1) * width
    if (since := parameters.get("since")) is not None:
        # Candles that opened after `since`, and always the running one.
        start = max(start, min(running, since_ns(since) // width * width + width))
    candles = exchange.candles.regular(reader.tape, Grid(width), start, running + width, now_ns=now)
    return {
        reader.listing.id: candle_rows(candles, reader.listing),
        "last": (running - width) // 1_000_000_000,
    }


def candle_rows(candles: Candles, listing: Listing) -> list[list[Any]]:
    """Candles as Kraken shows them; one without trades has vwap 0."""
    price = f"%.{listing.tick}f"
    tick, lot = 10**listing.tick, 10**listing.lot
    return [
        [
            opened // 1_000_000_000,
            *(price % (ticks / tick) for ticks in ohlc),
            price % (quote / lots / tick if count else 0.0),
            f"{lots / lot:.8f}",
            count,
        ]
        for opened, *ohlc, lots, quote, count in zip(
            candles.open_ns.tolist(),
            candles.open.tolist(),
            candles.high.tolist(),
            candles.low.tolist(),
            candles.close.tolist(),
            candles.lots.tolist(),
            candles.quote.tolist(),
            candles.count.tolist(),
            strict=True,
        )
    ]


def since_ns(text: str) -> int:
    """Kraken's ``since``, given in seconds (also with a fraction) or nanoseconds, in nanoseconds."""
    try:
        value = int(text) if text.lstrip("-").isdigit() else float(text)
        return round(value * 1_000_000_000) if value < _LARGEST_SECONDS else int(value)
    except (ValueError, OverflowError):
        raise _RefusedError(_INVALID) from None


def _whole(text: str | None, default: int) -> int:
    try:
        return default if text is None else int(text)
    except ValueError:
        raise _RefusedError(_INVALID) from None


def _reader(exchange: Exchange, name: str | None) -> Reader:
    if not name:
        raise _RefusedError(_INVALID)
    reader = exchange.reader("kraken", name)
    if reader is None:
        raise _RefusedError(_UNKNOWN_PAIR)
    return reader


ENDPOINTS: dict[str, Endpoint] = {
    "Time": _endpoint(_time),
    "SystemStatus": _endpoint(_system_status),
    "Assets": _endpoint(_assets),
    "AssetPairs": _endpoint(_asset_pairs),
    "Trades": _endpoint(_trades),
    "OHLC": _endpoint(_ohlc),
}
