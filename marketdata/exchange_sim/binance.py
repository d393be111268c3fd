"""Binance's public spot REST endpoints, ``/api/v3/...``."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from marketdata.exchange_sim.answer import Answer, Endpoint, Parameters, json_answer
from marketdata.exchange_sim.candles import Candles, Grid
from marketdata.exchange_sim.exchange import Exchange
from marketdata.exchange_sim.listing import Listing
from marketdata.exchange_sim.market import Columns, Ints
from marketdata.exchange_sim.tape import Reader

_MS = 1_000_000
_SECOND = 1_000_000_000
_DEFAULT_LIMIT, _MAX_LIMIT = 500, 1_000
INTERVALS = {
    f"{count}{unit}": count * width * _SECOND
    for unit, width, counts in (
        ("s", 1, (1,)),
        ("m", 60, (1, 3, 5, 15, 30)),
        ("h", 3_600, (1, 2, 4, 6, 8, 12)),
        ("d", 86_400, (1, 3)),
        ("w", 604_800, (1,)),
    )
    for count in counts
}
MONDAY_NS = 4 * 86_400 * _SECOND
WEIGHTS = {"ping": 1, "time": 1, "exchangeInfo": 20, "aggTrades": 4, "klines": 2, "trades": 25}
# The header that asks for microseconds, passed on as a parameter.
TIME_UNIT = "X-MBX-TIME-UNIT"


class _RefusedError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _endpoint(result: Callable[[Exchange, Parameters], Any]) -> Endpoint:
    def answer(exchange: Exchange, parameters: Parameters) -> Answer:
        try:
            return json_answer(result(exchange, parameters))
        except _RefusedError as error:
            return json_answer({"code": error.code, "msg": str(error)}, 400)

    return answer


def _ping(_exchange: Exchange, _: Parameters) -> Any:
    return {}


def _time(exchange: Exchange, parameters: Parameters) -> Any:
    return {"serverTime": exchange.clock.now_ns() // _unit(parameters)}


def _exchange_info(exchange: Exchange, parameters: Parameters) -> Any:
    listings = list(exchange.listings("binance"))
    if name := parameters.get("symbol"):
        listings = [_reader(exchange, name).listing]
    return {
        "timezone": "UTC",
        "serverTime": exchange.clock.now_ns() // _MS,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61_000},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(listing) for listing in listings],
    }


def _symbol(listing: Listing) -> dict[str, Any]:
    tick, lot = (f"{10.0**-places:.8f}" for places in (listing.tick, listing.lot))
    return {
        "symbol": listing.id,
        "status": "TRADING",
        "baseAsset": listing.base.code,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote.code,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": "1000000.00000000",
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000.00000000", "stepSize": lot},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "maxNotional": "9000000.00000000"},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def _agg_trades(exchange: Exchange, parameters: Parameters) -> Any:
    reader = _reader(exchange, parameters.get("symbol"))
    limit = _limit(parameters)
    from_id, start, stop = (_whole(parameters, name) for name in ("fromId", "startTime", "endTime"))
    if from_id is not None:
        if start is not None or stop is not None:
            raise _RefusedError(-1128, "Combination of optional parameters invalid.")
        rows = reader.page(reader.tape.at_id(from_id), limit)
    else:
        end = None if stop is None else reader.tape.after((stop + 1) * _MS - 1)
        if start is None:
            rows = reader.newest(limit, end)
        else:
            rows = reader.page(reader.tape.after(start * _MS - 1), limit, end)
    return list(agg_rows(rows, reader.listing, _unit(parameters)))


def agg_rows(rows: Columns, listing: Listing, unit_ns: int = _MS) -> Iterable[dict[str, Any]]:
    """Rows as ``aggTrades`` shows them; ``m`` says that the buyer was the maker."""
    price, amount = f"%.{listing.price_text}f", f"%.{listing.amount_text}f"
    tick, lot = 10**listing.tick, 10**listing.lot
    for row_id, ticks, lots, first, fills, time, buys in zip(
        rows.id.tolist(),
        rows.ticks.tolist(),
        rows.lots.tolist(),
        rows.first_fill.tolist(),
        rows.fills.tolist(),
        (rows.time_ns // unit_ns).tolist(),
        rows.taker_buys.tolist(),
        strict=True,
    ):
        yield {
            "a": row_id,
            "p": price % (ticks / tick),
            "q": amount % (lots / lot),
            "f": first,
            "l": first + fills - 1,
            "T": time,
            "m": not buys,
            "M": True,
        }


def _recent_trades(exchange: Exchange, parameters: Parameters) -> Any:
    reader = _reader(exchange, parameters.get("symbol"))
    limit = _limit(parameters)
    ids, lots, at, rows = raw_fills(reader.newest(limit))
    listing, unit = reader.listing, _unit(parameters)
    price = f"%.{listing.price_text}f"
    return [
        {
            "id": fill,
            "price": price % (ticks / 10**listing.tick),
            "qty": f"{amount / 10**listing.lot:.8f}",
            "quoteQty": f"{ticks * amount / 10 ** (listing.tick + listing.lot):.8f}",
            "time": time,
            "isBuyerMaker": not buys,
            "isBestMatch": True,
        }
        for fill, ticks, amount, time, buys in zip(
            ids.tolist(),
            rows.ticks[at].tolist(),
            lots.tolist(),
            (rows.time_ns[at] // unit).tolist(),
            rows.taker_buys[at].tolist(),
            strict=True,
        )
    ][-limit:]


def raw_fills(rows: Columns) -> tuple[Ints, Ints, Ints, Columns]:
    """The raw trades behind aggTrades: their ids, their lots, and the index of the row of each.

    A row's lots are dealt out evenly and the first fill takes the remainder.
    """
    at = np.repeat(np.arange(len(rows)), rows.fills)
    place = np.arange(len(at)) - (np.cumsum(rows.fills) - rows.fills)[at]
    share, rest = np.divmod(rows.lots, np.maximum(rows.fills, 1))
    return rows.first_fill[at] + place, share[at] + np.where(place == 0, rest[at], 0), at, rows


def _klines(exchange: Exchange, parameters: Parameters) -> Any:
    reader = _reader(exchange, parameters.get("symbol"))
    width = INTERVALS.get(parameters.get("interval", ""))
    if width is None:
        raise _RefusedError(-1120, "Invalid interval.")
    limit, now = _limit(parameters), exchange.clock.now_ns()
    offset = MONDAY_NS if width == INTERVALS["1w"] else 0
    start, stop = (_whole(parameters, name) for name in ("startTime", "endTime"))
    # Candles that open in [first, end): those after now do not exist yet.
    end = now if stop is None else min(now, stop * _MS)
    end = (end - offset) // width * width + offset + width
    if start is None:
        first = end - limit * width
    else:
        first = -(-(start * _MS - offset) // width) * width + offset
        end = min(end, first + limit * width)
    first = max(first, offset)
    candles = exchange.candles.regular(reader.tape, Grid(width, offset), first, end, now_ns=now)
    return kline_rows(candles, reader.listing, width, _unit(parameters))


def kline_rows(candles: Candles, listing: Listing, width_ns: int, unit_ns: int = _MS) -> list[list[Any]]:
    """Candles as ``klines`` shows them."""
    price = f"%.{listing.price_text}f"
    tick, lot = 10**listing.tick, 10**listing.lot
    value = tick * lot
    none = f"{0.0:.8f}"
    rows: list[list[Any]] = []
    columns = (getattr(candles, name).tolist() for name in candles.__slots__)
    for opened, *ohlc, lots, quote, count, buy_lots, buy_quote in zip(*columns, strict=True):
        closed = (opened + width_ns) // unit_ns - 1
        if not count:  # most minutes of a quiet market
            close = price % (ohlc[3] / tick)
            rows.append([opened // unit_ns, *(close,) * 4, none, closed, none, 0, none, none, "0"])
            continue
        rows.append(
            [
                opened // unit_ns,
                *(price % (ticks / tick) for ticks in ohlc),
                f"{lots / lot:.8f}",
                closed,
                f"{quote / value:.8f}",
                count,
                f"{buy_lots / lot:.8f}",
                f"{buy_quote / value:.8f}",
                "0",
            ]
        )
    return rows


def _limit(parameters: Parameters) -> int:
    limit = _whole(parameters, "limit")
    if limit is None:
        return _DEFAULT_LIMIT
    if limit < 1:
        raise _RefusedError(-1130, "Data sent for parameter 'limit' is not valid.")
    return min(limit, _MAX_LIMIT)


def _whole(parameters: Parameters, name: str) -> int | None:
    text = parameters.get(name)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise _RefusedError(-1100, f"Illegal characters found in parameter '{name}'.")
    return int(text)


def _unit(parameters: Parameters) -> int:
    return 1_000 if parameters.get(TIME_UNIT, "").upper() == "MICROSECOND" else _MS


def _reader(exchange: Exchange, name: str | None) -> Reader:
    if not name:
        raise _RefusedError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    reader = exchange.reader("binance", name)
    if reader is None:
        raise _RefusedError(-1121, "Invalid symbol.")
    return reader


ENDPOINTS: dict[str, Endpoint] = {
    "ping": _endpoint(_ping),
    "time": _endpoint(_time),
    "exchangeInfo": _endpoint(_exchange_info),
    "aggTrades": _endpoint(_agg_trades),
    "trades": _endpoint(_recent_trades),
    "klines": _endpoint(_klines),
}
