"""The file system under the lake: a local path or s3://, and errors that name the path and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from marketdata.errors import MarketDataError, StorageError, UsageError
from marketdata.lake import paths
from marketdata.settings import Settings, lake_place

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LOOKS = 10


@dataclass(frozen=True, slots=True)
class Storage:
    """A file system and the folder in it that is the lake. Keys are relative to that folder."""

    url: str
    fs: Any  # pyarrow.fs.FileSystem
    root: str
    is_local: bool

    def full(self, key: str) -> str:
        """The key as the file system wants it."""
        return f"{self.root}/{key}" if key else self.root

    def show(self, key: str) -> str:
        """The key as a person would write it."""
        return f"{self.url}/{key}"

    def local(self, key: str) -> Path:
        """The key as a path on this machine."""
        return Path(self.full(key))

    def size(self, key: str) -> int | None:
        """Bytes of a file; ``None`` when there is none."""
        with self.errors(key):
            info = self.fs.get_file_info(self.full(key))
        return int(info.size) if _is_file(info) else None

    def modified(self, keys: list[str]) -> dict[str, int]:
        """Those of the keys that are files, in the order given, with the time of writing in ns."""
        with self.errors(keys[0] if keys else ""):
            found = self.fs.get_file_info([self.full(key) for key in keys])
        return {key: info.mtime_ns for key, info in zip(keys, found, strict=True) if _is_file(info)}

    def listed(self, folder: str) -> dict[str, int]:
        """All files below a folder, sorted, with the time of writing in ns; none when it is absent.

        A file that is being written is not there yet: it has another name until it is whole.
        """
        return {key: written for key, (written, _) in self.stamps(folder).items()}

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        """The same with the size in bytes: both together tell whether a file has changed."""
        selector = pafs.FileSelector(self.full(folder), recursive=True, allow_not_found=True)
        with self.errors(folder):
            found = self._list(selector)
        cut = len(self.root) + 1
        return dict(sorted((info.path[cut:], (info.mtime_ns, info.size)) for info in found if _is_file(info)))

    def _list(self, selector: pafs.FileSelector) -> list[Any]:
        # A folder that is made between Arrow's attempt to list it and its look whether it is absent is an
        # error there; then it is listed again.
        for _ in range(_LOOKS - 1):
            with suppress(FileNotFoundError):
                return list(self.fs.get_file_info(selector))
        return list(self.fs.get_file_info(selector))

    def files(self, folder: str) -> list[str]:
        """Keys of all files below a folder, sorted; none when the folder is absent."""
        return list(self.listed(folder))

    def delete(self, key: str) -> None:
        """Remove a file; absent is fine."""
        with self.errors(key, "removed from"):
            if self.is_local:
                self.local(key).unlink(missing_ok=True)
            elif self.size(key) is not None:
                self.fs.delete_file(self.full(key))

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and what is in it; absent is fine."""
        with self.errors(folder, "removed from"):
            try:
                self.fs.delete_dir(self.full(folder))
            except FileNotFoundError:
                return

    @contextmanager
    def errors(self, key: str, doing: str = "read") -> Iterator[None]:
        """Turn errors of the file system into :class:`StorageError` with the path in it."""
        try:
            yield
        except MarketDataError:
            raise
        except OSError as error:
            raise storage_error(error, self.show(key) if key else self.url, doing) from error


def _is_file(info: Any) -> bool:
    return bool(info.type == pafs.FileType.File) and not paths.is_temporary(info.base_name)


def open_storage(url: str, settings: Settings) -> Storage:
    """Open a local folder or ``s3://bucket/prefix``; nothing is created yet.

    Raises:
        UsageError: the URL is of another kind, or half of a key is set.
        StorageError: the bucket does not exist or refuses the key.
    """
    try:
        scheme, mark, rest = lake_place(url).partition("://")
    except ValueError as error:
        msg = f"A lake cannot lie at {url!r}: {error}."
        raise UsageError(msg, hint="Use a path on this machine or s3://bucket/prefix.") from None
    if mark and scheme == "s3":
        root = rest.strip("/")
        if not root:
            msg = f"{url!r} names no bucket."
            raise UsageError(msg, hint="Write it as s3://bucket/prefix.")
        storage = Storage(f"s3://{root}", _s3(settings, f"s3://{root}"), root, is_local=False)
        _check_bucket(storage)
        return storage
    if mark and scheme != "file":
        msg = f"A lake cannot lie at {url!r}: {scheme!r} is not known."
        raise UsageError(msg, hint="Use a path on this machine or s3://bucket/prefix.")
    path = Path(rest if mark else scheme)
    return Storage(path.as_posix(), pafs.LocalFileSystem(), path.as_posix(), is_local=True)


def _check_bucket(storage: Storage) -> None:
    """Ask for the bucket once: reading from one that is not there would look like an empty lake."""
    bucket = storage.root.partition("/")[0]
    with storage.errors(""):
        info = storage.fs.get_file_info(bucket)
        if info.type == pafs.FileType.NotFound:
            msg = f"NoSuchBucket: {bucket}"
            raise OSError(msg)


def _s3(settings: Settings, url: str) -> Any:
    secret = settings.s3_secret_access_key
    if (settings.s3_access_key_id is None) != (secret is None):
        msg = f"Only one half of the key for {url} is set."
        hint = "Set MARKETDATA_S3_ACCESS_KEY_ID and MARKETDATA_S3_SECRET_ACCESS_KEY, or neither."
        raise UsageError(msg, hint=hint)
    endpoint = settings.s3_endpoint_url
    try:
        return pafs.S3FileSystem(
            access_key=settings.s3_access_key_id,
            secret_key=secret.get_secret_value() if secret is not None else None,
            region=settings.s3_region,
            endpoint_override=endpoint,
            scheme="http" if endpoint is not None and endpoint.startswith("http://") else "https",
            connect_timeout=10,
            request_timeout=60,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=4),
        )
    except (OSError, ValueError) as error:
        raise storage_error(OSError(str(error)), url, "read") from error


def storage_error(error: OSError, path: str, doing: str) -> StorageError:
    """The error as one sentence: which path, what happened, what to do."""
    text = str(error)
    upper = text.upper().replace(" ", "").replace("_", "")
    if error.errno in _FULL:
        what, hint = "the disk is full", "Free some space and run again: it goes on where it stopped."
    elif error.errno in _DENIED:
        what, hint = "permission denied", "Set MARKETDATA_LAKE to a folder you may write to."
    elif error.errno == errno.ENOTDIR or isinstance(error, NotADirectoryError | FileExistsError):
        what, hint = "a file stands where a folder should be", "Set MARKETDATA_LAKE to another folder."
    elif "NOSUCHBUCKET" in upper or "BUCKETDOESNOTEXIST" in upper:
        what, hint = "the bucket does not exist", "Create it, or correct MARKETDATA_LAKE."
    elif any(
        word in upper for word in ("ACCESSDENIED", "FORBIDDEN", "INVALIDACCESSKEY", "SIGNATURE", "CREDENTIAL")
    ):
        what = "the bucket refuses the key"
        hint = (
            "Set MARKETDATA_S3_ACCESS_KEY_ID and MARKETDATA_S3_SECRET_ACCESS_KEY, and MARKETDATA_S3_REGION."
        )
    elif path.startswith("s3://"):
        what, hint = _short(text), "Check MARKETDATA_S3_ENDPOINT_URL, the network and the bucket."
    else:
        what, hint = _short(error.strerror or text), None
    return StorageError(f"{path!r} cannot be {doing}: {what}.", hint=hint)


def _short(text: str) -> str:
    """The first line, without the file system's own location in its source."""
    return text.strip().splitlines()[0].split(" Detail:")[0].rstrip(".") if text.strip() else "unknown error"
