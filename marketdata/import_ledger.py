"""Which files have been imported to their end, so that an import that was killed does not read them again.

One small file of JSON a source file, in the lake's own folder ``_imports``: a source file is known again by
its path, size, time of writing and a digest of pieces of it (its end among them: there zip, gzip, feather and
parquet keep checksums or their table of contents). The entry counts only while its days are in the lake.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson

from marketdata.import_report import Tally
from marketdata.interval import Interval
from marketdata.lake import Lake, files, paths
from marketdata.lake.paths import Kind
from marketdata.market import Market
from marketdata.sources.files import Table
from marketdata.sources.formats import Known

# Raised when what an import makes of a file changes.
_VERSION = 1
_PIECE = 1 << 16
_PIECES = 16
_COUNTS = ("rows", "accepted", "repeated", "empty")


@dataclass(frozen=True, slots=True)
class Finished:
    """What an import made of a file: the rows by their fate and the days they lie in."""

    tally: Tally
    days: frozenset[date]


@dataclass(slots=True)
class Ledger:
    """The entries of one lake."""

    lake: Lake
    _entries: set[str] | None = None
    _stamps: tuple[Path, dict[str, Any]] | None = None
    _held: dict[tuple[Market, Interval | None], frozenset[date]] = field(default_factory=dict)

    def find(self, file: Known) -> Finished | None:
        """What an earlier import made of this very file; ``None`` when it has to be read."""
        key = _key(file.table)
        if self._entries is None:
            self._entries = set(self.lake.storage.files(paths.IMPORTS))
        if key not in self._entries:
            return None
        storage = self.lake.storage
        with storage.errors(key), storage.fs.open_input_file(storage.full(key)) as stream:
            body = stream.read()
        try:
            entry = orjson.loads(body)
        except orjson.JSONDecodeError:  # whoever wrote it, it proves nothing
            return None
        if entry.get("file") != self._described(file):
            return None
        tally = Tally(**{name: entry[name] for name in _COUNTS}, rejected=Counter(entry["rejected"]))
        days = frozenset(_unfolded(entry["days"]))
        return Finished(tally, days) if days <= self._days(file) else None

    def add(self, file: Known, tally: Tally, days: Iterable[date]) -> None:
        """Write down that a file is imported to its end; durable when this returns.

        Raises:
            StorageError: it could not be written.
        """
        entry = {
            "file": self._described(file),
            **{name: getattr(tally, name) for name in _COUNTS},
            "rejected": dict(tally.rejected),
            "days": _folded(days),
        }
        body = orjson.dumps(entry)
        files.put(self.lake.storage, _key(file.table), lambda stream: stream.write(body))

    def forget_market(self) -> None:
        """Let go of what was known of one market's days; files come market by market."""
        self._held.clear()

    def _described(self, file: Known) -> dict[str, Any]:
        path = file.table.path
        if self._stamps is None or self._stamps[0] != path:  # the members of a zip come one after the other
            self._stamps = (path, _stamp(path))
        return {
            "version": _VERSION,
            "path": str(path.absolute()).encode("utf-8", "backslashreplace").decode(),
            "member": file.table.member,
            "format": file.format.name,
            "market": str(file.market),
            **self._stamps[1],
        }

    def _days(self, file: Known) -> frozenset[date]:
        """Days of the file's market that the lake holds, as they were when the market was first asked for."""
        where = file.market, file.interval
        if where not in self._held:
            kind: Kind = "trades" if file.interval is None else "exchange_candles"
            parts = self.lake.parts(kind, file.market, file.interval)
            self._held[where] = frozenset(part.day for part in parts)
        return self._held[where]


def _key(table: Table) -> str:
    name = f"{table.path.absolute()}\0{table.member or ''}"
    return paths.import_key(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40])


def _stamp(path: Path) -> dict[str, Any]:
    """Size, time of writing and a digest of evenly spaced pieces, the first and the last among them."""
    status = path.stat()
    digest = hashlib.sha256()
    last = max(0, status.st_size - _PIECE)
    with path.open("rb") as stream:
        for piece in range(_PIECES):
            stream.seek(last * piece // (_PIECES - 1))
            digest.update(stream.read(_PIECE))
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256_of_pieces": digest.hexdigest()}


def _folded(days: Iterable[date]) -> list[tuple[date, int]]:
    """Days as runs: the first and how many."""
    runs: list[tuple[date, int]] = []
    for day in sorted(days):
        if runs and (day - runs[-1][0]).days == runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((day, 1))
    return runs


def _unfolded(runs: Iterable[tuple[str, int]]) -> Iterable[date]:
    for first, count in runs:
        for number in range(count):
            yield date.fromisoformat(first) + timedelta(days=number)
