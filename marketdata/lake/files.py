"""One way to write a file: whole or not at all."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from marketdata.errors import TransientError
from marketdata.lake import paths
from marketdata.lake.filesystem import Storage

_serial = count()
# A writer that died leaves its temporary file; one this old belongs to nobody.
_LEFT_OVER_S = 3600.0
_LOCK_POLL_S = 0.2


def put(storage: Storage, key: str, write: Callable[[Any], None]) -> int:
    """Put a file in place in one step and return its size in bytes.

    ``write`` gets an open Arrow output stream. Locally the bytes go to a hidden temporary file next to the
    target, are made durable (file, then folder) and are renamed over it: a reader sees the old file or the
    new one, and one that has the old file open keeps it. On S3 the bytes are sent by one upload, which
    becomes visible only when it is complete.

    Raises:
        StorageError: the disk is full, the place not writable; what was there before is still there.
    """
    with storage.errors(key, "written"):
        if storage.is_local:
            return _put_local(storage.local(key), write)
        # Built in memory first: closing an upload that failed half-way would publish the half.
        sink = pa.BufferOutputStream()
        write(sink)
        body = sink.getvalue()
        with storage.fs.open_output_stream(storage.full(key)) as stream:
            stream.write(body)
        return int(body.size)


def _put_local(target: Path, write: Callable[[Any], None]) -> int:
    _make_folder(target.parent)
    temporary = target.with_name(paths.temporary(target.name, f"{os.getpid()}-{next(_serial)}"))
    try:
        with pa.OSFile(str(temporary), "wb") as stream:
            write(stream)
            handle = stream.fileno()
            os.fsync(handle)
            size = os.fstat(handle).st_size
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)
    return size


def remove_left_overs(folder: Path) -> None:
    """Remove temporary files in a folder that a writer left behind when it was killed."""
    for path in filter(lambda path: paths.is_temporary(path.name), folder.glob(".*")):
        try:
            if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; each new name is made durable in its parent."""
    if folder.is_dir():
        return
    missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(path: Path, *, patience_s: float, waiting: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold a lock file between processes and threads; the system lets go of it when its holder dies.

    Args:
        path: the lock file; its folder is made. The holder's process id is written in it. Nobody else
            removes it: a file of that name would be another lock.
        patience_s: how long to wait for another holder that does not come on.
        waiting: called while waiting; says whether the holder has come on.

    Raises:
        TransientError: another process held it all the time; names that process.
    """
    deadline = time.monotonic() + patience_s
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # its folder was removed in between
            continue
        try:
            if _try_lock(handle):
                if not _is_at(handle, path):
                    continue  # its holder has removed it since it was opened
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                try:
                    yield
                finally:
                    # While it is still held: whoever has opened it sees that it is not the lock any more.
                    with suppress(OSError):
                        path.unlink()
                return
            holder = os.pread(handle, 20, 0).decode()
        finally:
            os.close(handle)
        if time.monotonic() >= deadline:
            msg = f"{str(path)!r} has been in use by process {holder or '?'} for {patience_s:.0f} s."
            raise TransientError(msg, hint="Wait until it is done, or stop it.")
        if waiting is not None and waiting():
            deadline = time.monotonic() + patience_s
        time.sleep(_LOCK_POLL_S)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
