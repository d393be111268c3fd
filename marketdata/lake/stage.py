"""The pages of a day that is being fetched, each durable with the cursor that follows it.

A page is one Arrow file. What is known so far (cursor, reached, ids around the day, evidence) travels in
the metadata of the page, so a page and its cursor appear together or not at all, and the last page tells
all. A fetch that was killed at any point is found again as the pages it had finished.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from pyarrow import ipc

from marketdata.errors import CorruptFile
from marketdata.lake import paths
from marketdata.lake.files import put
from marketdata.lake.filesystem import Storage
from marketdata.lake.parquet import is_damage
from marketdata.market import Market
from marketdata.sources.base import Page
from marketdata.trade import REJECT_SCHEMA, SIDE, TRADE_SCHEMA, empty_rejects, empty_trades

_STATE = b"marketdata.stage"
_REJECTS = b"marketdata.rejects"
_NO_SIDE = 255


@dataclass(frozen=True, slots=True)
class _State:
    """What is known after a page. ``before`` is the cursor the page was asked with."""

    pages: int = 0
    rows: int = 0
    rejected: int = 0
    before: str | None = None
    cursor: str | None = None
    reached: datetime | None = None
    previous_id: int | None = None
    following_id: int | None = None
    evidence: dict[str, str] = field(default_factory=dict)

    def after(self, page: Page) -> "_State":
        previous = self.previous_id if page.previous_id is None else page.previous_id
        following = self.following_id if page.following_id is None else page.following_id
        return _State(
            self.pages + 1,
            self.rows + len(page.trades),
            self.rejected + len(page.rejects),
            self.cursor,
            page.next_cursor,
            page.reached if self.reached is None else max(self.reached, page.reached),
            previous,
            following,
            {**self.evidence, **page.evidence},
        )

    @classmethod
    def load(cls, text: bytes) -> "_State":
        body = orjson.loads(text)
        body["reached"] = datetime.fromisoformat(body["reached"])
        return cls(**body)


class Stage:
    """Pages fetched so far of one market, day and source, in order of arrival."""

    def __init__(self, storage: Storage, market: Market, day: date, source: str) -> None:
        """Find the pages of an interrupted fetch again; pages of other sources are dropped."""
        self.market, self.day, self.source = market, day, source
        self._storage = storage
        self._folder = paths.stage_folder(market, day, source)
        self._state = self._recover()

    @property
    def pages(self) -> int:
        """Pages held."""
        return self._state.pages

    @property
    def rows(self) -> int:
        """Trades held, repeated ones included."""
        return self._state.rows

    @property
    def rejected(self) -> int:
        """Refused rows held."""
        return self._state.rejected

    @property
    def cursor(self) -> str | None:
        """Where the next page starts; ``None`` before the first page and when :attr:`finished`."""
        return self._state.cursor

    @property
    def last_cursor(self) -> str | None:
        """Where the newest page that has a cursor of its own started or ended."""
        return self._state.before if self._state.cursor is None else self._state.cursor

    @property
    def finished(self) -> bool:
        """Whether the source has said that there is no further page."""
        return self._state.pages > 0 and self._state.cursor is None

    @property
    def reached(self) -> datetime | None:
        """How far in time the pages are complete."""
        return self._state.reached

    @property
    def previous_id(self) -> int | None:
        """Id of the trade just before the day, when a page has shown it."""
        return self._state.previous_id

    @property
    def following_id(self) -> int | None:
        """Id of the first trade after the day, when a page has shown it."""
        return self._state.following_id

    @property
    def evidence(self) -> dict[str, str]:
        """Facts for the manifest, of all pages."""
        return dict(self._state.evidence)

    def append(self, page: Page) -> None:
        """Keep a page and the cursor after it; durable when this returns.

        Raises:
            StorageError: it could not be written; the stage is as it was.
        """
        state = self._state.after(page)
        metadata = {_STATE: orjson.dumps(state, option=orjson.OPT_UTC_Z)}
        if len(page.rejects):
            metadata[_REJECTS] = page.rejects.select(REJECT_SCHEMA.names()).write_ipc(None).getvalue()
        trades = page.trades
        if trades.schema != TRADE_SCHEMA:
            trades = trades.select(TRADE_SCHEMA.names()).cast(TRADE_SCHEMA)
        table = trades.rechunk().to_arrow()
        table = table.replace_schema_metadata(metadata)

        def write(stream: Any) -> None:
            with ipc.new_file(stream, table.schema) as writer:
                writer.write_table(table)

        put(self._storage, self._key(state.pages), write)
        self._state = state

    def trades(self) -> pl.DataFrame:
        """All trades staged, in order of arrival, TRADE_SCHEMA.

        Raises:
            CorruptFile: a page cannot be read any more; it and those after it are dropped, and the next
                fetch goes on before it.
        """
        return _trades(self._tables(), self.rows)

    def rejects(self) -> pl.DataFrame:
        """All refused rows staged, REJECT_SCHEMA."""
        if not self.rejected:
            return empty_rejects()
        bodies = [(table.schema.metadata or {}).get(_REJECTS) for table in self._tables()]
        return pl.concat([pl.read_ipc(body) for body in bodies if body is not None])

    def discard(self) -> None:
        """Remove all pages of the day."""
        self._storage.delete_folder(paths.staging_folder(self.market, self.day))
        self._state = _State()

    def _key(self, number: int) -> str:
        return f"{self._folder}/{paths.page_name(number)}"

    def _tables(self) -> Iterator[pa.Table]:
        cursor: str | None = None
        for number in range(1, self.pages + 1):
            try:
                table, state = _read(self._storage, self._key(number))
            except CorruptFile:
                self._cut(number)
                raise
            if state.before != cursor:
                self._cut(number)
                msg = f"{self._storage.show(self._key(number))!r} does not continue the page before it."
                raise CorruptFile(msg, hint="Run again: the fetch goes on before that page.")
            cursor = state.cursor
            yield table

    def _recover(self) -> _State:
        numbers = []
        for key in self._storage.files(paths.staging_folder(self.market, self.day)):
            folder, _, name = key.rpartition("/")
            match = paths.PAGE.fullmatch(name)
            if match and folder == self._folder:
                numbers.append(int(match[1]))
            else:  # another source's page, or what a killed writer left
                self._storage.delete(key)
        whole = next((n for n, found in enumerate(sorted(numbers)) if found != n + 1), len(numbers))
        for number in sorted(numbers)[whole:]:
            self._storage.delete(self._key(number))
        for number in range(whole, 0, -1):
            try:
                return _read(self._storage, self._key(number))[1]
            except CorruptFile:
                self._storage.delete(self._key(number))
        return _State()

    def _cut(self, number: int) -> None:
        for later in range(self.pages, number - 1, -1):
            self._storage.delete(self._key(later))
        self._state = self._recover()


def _read(storage: Storage, key: str) -> tuple[pa.Table, _State]:
    """A page and what is known after it.

    Raises:
        CorruptFile: it is damaged, or gone.
    """
    with storage.errors(key):
        try:
            with storage.fs.open_input_file(storage.full(key)) as file:
                table = ipc.open_file(file).read_all().select(TRADE_SCHEMA.names())
            table.validate(full=True)
            return table, _State.load(table.schema.metadata[_STATE])
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            if not (isinstance(error, FileNotFoundError) or is_damage(error)):
                raise
            msg = f"The staged page {storage.show(key)!r} cannot be read: {error}."
            raise CorruptFile(msg, hint="Run again: the fetch goes on before that page.") from error


def _trades(tables: Iterable[pa.Table], rows: int) -> pl.DataFrame:
    """One frame of many pages, each copied to its place and let go: a day is in memory once."""
    ints = {name: np.empty(rows, np.int64) for name in ("trade_id", "time")}
    floats = {name: np.empty(rows) for name in ("price", "amount")}
    sides, fills = np.empty(rows, np.uint8), np.empty(rows, np.int32)
    without_id = np.zeros(rows, np.bool_)
    at = 0
    for page in tables:
        table = page.combine_chunks()
        place = slice(at, at + table.num_rows)
        at += table.num_rows
        for name, column in ints.items():
            source = table.column(name).cast(pa.int64())
            if source.null_count:
                without_id[place] = source.is_null().to_numpy()
                source = source.fill_null(0)
            column[place] = source.to_numpy()
        for name, values in floats.items():
            values[place] = table.column(name).to_numpy()
        fills[place] = table.column("fills").to_numpy()
        for chunk in table.column("side").chunks:
            sides[place] = chunk.indices.fill_null(_NO_SIDE).to_numpy()
    side = pa.DictionaryArray.from_arrays(pa.array(sides, mask=sides == _NO_SIDE), list(SIDE.categories))
    columns = {
        "trade_id": pa.array(ints["trade_id"], mask=without_id if without_id.any() else None),
        "time": pa.array(ints["time"]).cast(pa.timestamp("us", "UTC")),
        "price": pa.array(floats["price"]),
        "amount": pa.array(floats["amount"]),
        "side": side,
        "fills": pa.array(fills),
    }
    frame = pl.from_arrow(pa.table(columns))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101
    return frame.cast(TRADE_SCHEMA)


def staged(storage: Storage, market: Market, day: date) -> pl.DataFrame:
    """Trades of the pages of a day that is being fetched, in order of arrival; changes nothing."""
    tables = []
    for key in storage.files(paths.staging_folder(market, day)):
        if paths.PAGE.fullmatch(key.rpartition("/")[2]):
            try:
                tables.append(_read(storage, key)[0])
            except CorruptFile:
                if storage.size(key) is None:  # the day was put in place just now
                    return empty_trades()
                raise
    return _trades(tables, sum(table.num_rows for table in tables))
