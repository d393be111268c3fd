"""The file formats that can be imported, and how a file is recognised by its name and first line."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from marketdata.errors import UnknownName, UsageError
from marketdata.interval import Interval
from marketdata.manifest import Ids
from marketdata.market import Market, market_from_spelling
from marketdata.sources import binance_csv, freqtrade, freqtrade_cells, kraken_csv
from marketdata.sources.files import Table, parse


@dataclass(frozen=True, slots=True)
class Format:
    """One layout of rows.

    Attributes:
        exchange: whose it is; empty for a program that keeps data of many.
        ids: which ids the rows carry; ``FINGERPRINT`` also where each day may differ, see :meth:`day_ids`.
        id_space: rows of two spaces are never mixed in one day. Empty for candles.
        is_text: whether it is a table of lines and commas.
        proves_time: whether a stretch inside a file is known to hold every trade of its time.
    """

    name: str
    exchange: str
    columns: pl.Schema
    rows: Callable[[pl.DataFrame], pl.DataFrame]
    ids: Ids
    id_space: str = ""
    is_text: bool = True
    proves_time: bool = True

    @property
    def is_candles(self) -> bool:
        """Whether the rows are candles; otherwise they are trades."""
        return not self.id_space

    def day_ids(
        self, market: Market, rows: pl.DataFrame, around: tuple[int | None, int | None]
    ) -> tuple[Ids, str]:
        """Which ids the trades of one day have, and their space. ``around``: ids before and after it."""
        if self.is_text:
            return self.ids, self.id_space
        return freqtrade.day_ids(market, rows, around, whole=self.name == _CCXT_TRADES)


_CCXT_TRADES = "ccxt-trades"
FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format(
            "kraken-trades",
            "kraken",
            kraken_csv.TRADE_COLUMNS,
            kraken_csv.trades,
            Ids.FINGERPRINT,
            "fingerprint of seconds",
        ),
        Format("kraken-ohlcvt", "kraken", kraken_csv.CANDLE_COLUMNS, kraken_csv.candles, Ids.FINGERPRINT),
        Format(
            "binance-aggtrades",
            "binance",
            binance_csv.AGG_TRADE_COLUMNS,
            binance_csv.agg_trades,
            Ids.SEQUENTIAL,
            "aggTrade",
        ),
        Format(
            "binance-trades",
            "binance",
            binance_csv.TRADE_COLUMNS,
            binance_csv.trades,
            Ids.SEQUENTIAL,
            "trade",
        ),
        Format("binance-klines", "binance", binance_csv.KLINE_COLUMNS, binance_csv.klines, Ids.SEQUENTIAL),
        *(
            Format(
                name,
                "",
                freqtrade_cells.TRADE_COLUMNS,
                freqtrade.trades,
                Ids.FINGERPRINT,
                "by day",
                is_text=False,
                proves_time=False,
            )
            for name in ("freqtrade-trades", _CCXT_TRADES)
        ),
        Format(
            "freqtrade-candles",
            "",
            freqtrade_cells.CANDLE_COLUMNS,
            freqtrade.candles,
            Ids.FINGERPRINT,
            is_text=False,
            proves_time=False,
        ),
    )
}
_FIRST_BYTES = 1 << 16
_FUTURES_FOLDERS = {"futures", "um", "usdm"}
_COIN_MARGINED_FOLDERS = {"cm", "coinm"}


@dataclass(frozen=True, slots=True)
class Known:
    """A file of which it is known how to read it.

    Attributes:
        columns: those of the format, or of its futures variant.
        header: whether the first line names the columns.
        first_time: of the first row that can be read, else the epoch; decides which file comes first.
        interval: of candles; otherwise ``None``.
        window: the days that the name promises, half-open; ``None`` when it promises none.
    """

    table: Table
    format: Format
    market: Market
    columns: pl.Schema
    header: bool
    first_time: datetime
    interval: Interval | None = None
    window: tuple[date, date] | None = None

    @property
    def label(self) -> str:
        """The file as manifests name it: without the folders it happened to lie in."""
        return (
            self.table.path.name
            if self.table.member is None
            else f"{self.table.path.name}/{self.table.member}"
        )

    @property
    def bounds(self) -> tuple[datetime, datetime] | None:
        """The window as times, half-open."""
        if self.window is None:
            return None
        start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in self.window)
        return start, end


def recognise(table: Table, *, format: str | None = None, market: Market | None = None) -> Known:  # noqa: A002
    """Find out how to read a file.

    Args:
        table: the file.
        format: one of FORMATS when it is already known; the columns must still fit.
        market: when it is already known; otherwise the name must say it.

    Raises:
        UnknownName: there is no such format.
        UsageError: the file is none of the formats, or does not say what it is of. Names the file and its
            first line.
        CorruptFile: the zip or gzip is cut or foreign.
    """
    if format is not None and format not in FORMATS:
        raise UnknownName(format, kind="format", known=FORMATS, hint=f"Formats: {', '.join(FORMATS)}.")
    if table.is_rows:
        known = _freqtrade(table, market)
        if format not in {None, known.format.name}:
            msg = f"{str(table)!r} is {known.format.name}, not {format}."
            raise UsageError(msg)
        return known
    lines = table.first_lines(2)
    if not lines:
        msg = f"{str(table)!r} is empty."
        raise UsageError(msg)
    line = lines[0]
    header = binance_csv.is_header(line)
    name = _by_header(line) if header else _by_cells(line)
    if name is None and format is not None and not header and lines[1:]:
        # The first row may be spoilt as any other; where the format is known, the next one tells as well.
        name = _by_cells(lines[1]) if lines[1].count(b",") == line.count(b",") else None
    if name is None or (format is not None and name != format):
        raise _foreign(table, line, format)
    chosen = FORMATS[name]
    cells = line.count(b",") + 1
    columns = chosen.columns if len(chosen.columns) == cells else binance_csv.without_best(chosen.columns)
    of = _kraken if chosen.exchange == "kraken" else _binance
    named, interval, window = of(table, chosen, market, header)
    first_time = _first_time(chosen, columns, lines[1:] if header else lines)
    return Known(table, chosen, named, columns, header, first_time, interval, window)


def _freqtrade(table: Table, market: Market | None) -> Known:
    name = freqtrade.parse_name(table)
    first = freqtrade_cells.first_row(table)
    if name.interval is not None:
        chosen = FORMATS["freqtrade-candles"]
    else:
        chosen = FORMATS[_CCXT_TRADES if freqtrade.is_whole(first) else "freqtrade-trades"]
    start = next(freqtrade_cells.cells(table, chosen.columns, _FIRST_BYTES), None)
    if start is None or start.frame.is_empty():
        msg = f"{str(table)!r} is empty."
        raise UsageError(msg)
    if market is None:
        market = freqtrade.market_of(table, name, first.get("symbol") if isinstance(first, dict) else None)
    time = start.frame["time"].min()
    first_time = time if isinstance(time, datetime) else datetime.fromtimestamp(0, UTC)
    return Known(table, chosen, market, chosen.columns, False, first_time, name.interval)


def _by_header(line: bytes) -> str | None:
    cells = [cell.strip().lower() for cell in line.split(b",")]
    if cells[0] == b"open_time" and len(cells) == 12:
        return "binance-klines"
    if cells[0] in {b"agg_trade_id", b"agg_id"} and len(cells) in {7, 8}:
        return "binance-aggtrades"
    if cells[0] in {b"id", b"trade_id"} and len(cells) in {6, 7} and b"is_buyer_maker" in cells:
        return "binance-trades"
    return None


def _by_cells(line: bytes) -> str | None:
    cells = [cell.strip().lower() for cell in line.split(b",")]
    flags = 0
    while cells and cells[-1] in {b"true", b"false"}:
        cells.pop()
        flags += 1
    if not all(_is_number(cell) for cell in cells):
        return None
    # Of a futures file the last flag is absent.
    shapes = {
        (3, 0): "kraken-trades",
        (7, 0): "kraken-ohlcvt",
        (6, 2): "binance-aggtrades",
        (6, 1): "binance-aggtrades",
        (5, 2): "binance-trades",
        (5, 1): "binance-trades",
        (12, 0): "binance-klines",
    }
    return shapes.get((len(cells), flags))


def _is_number(cell: bytes) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_time(chosen: Format, columns: pl.Schema, lines: list[bytes]) -> datetime:
    cells, _ = parse(b"\n".join(lines) + b"\n", columns)
    time = chosen.rows(cells)["open_time" if chosen.is_candles else "time"].min()
    return time if isinstance(time, datetime) else datetime.fromtimestamp(0, UTC)


_Named = tuple[Market, Interval | None, tuple[date, date] | None]


def _kraken(table: Table, chosen: Format, market: Market | None, _header: bool) -> _Named:
    interval = None
    spelled = table.stem
    if chosen.is_candles:
        name = kraken_csv.candle_name(table.stem)
        if name is None or name[1] is None:
            msg = f"The name of {str(table)!r} does not say the width of its candles in minutes."
            hint = "Kraken names them XBTUSD_1.csv, XBTUSD_60.csv and so on."
            raise UsageError(msg, hint=hint)
        spelled, interval = name
    return market or _market("kraken", spelled, table), interval, None


def _binance(table: Table, chosen: Format, market: Market | None, header: bool) -> _Named:
    name = binance_csv.parse_name(table.stem)
    interval = None
    if chosen.is_candles:
        if name is None or name.kind in {"aggTrades", "trades"}:
            msg = f"The name of {str(table)!r} does not say the interval of its candles."
            raise UsageError(msg, hint="Binance names them BTCUSDT-1m-2025-06-08.csv.")
        interval = Interval.parse(name.kind)
    if market is None:
        market = _binance_market(table, name, header=header)
    return market, interval, None if name is None else (name.start, name.end)


def _binance_market(table: Table, name: binance_csv.Name | None, *, header: bool) -> Market:
    folders = set(table.folders)
    if name is None or "_" in name.spelled or folders & _COIN_MARGINED_FOLDERS:
        msg = f"{str(table)!r} does not say of which market it is."
        raise UsageError(msg, hint="Say the market, for example binance:BTC/USDT.")
    futures = bool(folders & _FUTURES_FOLDERS)
    if header and not futures and "spot" not in folders:
        msg = f"{str(table)!r} has a header row, as futures files of Binance have; spot files have none."
        raise UsageError(
            msg, hint="Say the market: binance:BTC/USDT is spot, binance:BTC/USDT:USDT a future."
        )
    spot = _market("binance", name.spelled, table)
    return Market(spot.exchange, f"{spot.symbol}:{spot.quote}") if futures else spot


def _market(exchange: str, spelled: str, table: Table) -> Market:
    try:
        return market_from_spelling(exchange, spelled)
    except UsageError as error:
        msg = f"{str(table)!r} does not say of which market it is: {error.message}"
        raise UsageError(msg, hint=f"Say the market, for example {exchange}:BTC/USD.") from error


def _foreign(table: Table, line: bytes, wanted: str | None) -> UsageError:
    shown = ascii(line[:80].decode("utf-8", "replace"))
    what = "of no known format" if wanted is None else f"not {wanted}"
    msg = f"{str(table)!r} is {what}; its first line is {shown}."
    return UsageError(msg, hint=f"Known formats: {', '.join(FORMATS)}.")
