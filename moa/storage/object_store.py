"""Folders on a local disk, in S3 or in Google Cloud Storage, with one way to use them.

Files are whole: a reader sees all of a write or nothing. `create` tells two writers apart, which
pyarrow's file systems cannot; so writes go through each store's own client, and reads, which
should be columnar and concurrent, through `pyarrow.fs`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from moa.errors import ConfigError
from moa.storage.stores import TEMPORARY, endpoint, store_of

_SCHEMES = ("s3", "gs")
Filters = Sequence[tuple[str, str, object]] | None
"""As pyarrow takes them: `[("partition", "=", 3)]`."""
_BLOCK_BYTES = 4 << 20


def filesystem_of(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a local path, `s3://bucket/…` or `gs://bucket/…`, and the path in it.

    S3 takes its endpoint from `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` where they are set, as
    the vendor's own tools do; Google Cloud Storage is the emulator that `STORAGE_EMULATOR_HOST`
    names, where it does.

    Raises:
        ConfigError: another scheme, or the bucket's region cannot be found out.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return fs.LocalFileSystem(), str(Path(url).absolute())
    if scheme not in _SCHEMES:
        raise ConfigError(f"{url}: unknown scheme {scheme!r}; give a local path, s3://… or gs://…")
    bucket = rest.partition("/")[0]
    if not bucket:
        raise ConfigError(f"{url}: no bucket; write {scheme}://BUCKET/FOLDER")
    return _remote(scheme, bucket, endpoint(scheme)), rest.rstrip("/")


@lru_cache(maxsize=64)
def _remote(scheme: str, bucket: str, endpoint: str | None) -> fs.FileSystem:
    if scheme == "s3" and endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return fs.S3FileSystem(endpoint_override=endpoint, region=region or "us-east-1")
    if scheme == "gs" and endpoint:
        kind, _, host = endpoint.rpartition("://")
        return fs.GcsFileSystem(
            anonymous=True, scheme=kind or "http", endpoint_override=host.rstrip("/")
        )
    try:
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    except OSError as error:  # S3: its region is asked for
        raise ConfigError(
            f"{scheme}://{bucket} cannot be reached: {' '.join(str(error).split())}. Correct the "
            "address, or the region and the credentials in the environment"
        ) from None


class Folder:
    """A folder of files; names inside it are relative and use `/`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = filesystem_of(url)
        self._store = store_of(url)
        self.local = None if "://" in url else Path(self._root)
        """The folder's path where it is on a local disk."""

    def check(self) -> None:
        """Check that the folder can be used: a local one that it is there or can be made, and may
        be written to; one in a bucket that the bucket is there and may be looked into.

        Raises:
            ConfigError: it cannot.
        """
        if self.local is not None:
            _check_local(self.local)
            return
        bucket = self._root.partition("/")[0]
        try:
            (info,) = self._fs.get_file_info([bucket])
            reason = "there is no such bucket" if info.type == fs.FileType.NotFound else None
        except OSError as error:
            reason = str(error)
        if reason:
            raise ConfigError(
                f"{self.url} cannot be used: {reason}. Correct the address or the "
                "credentials in the environment"
            )

    def put(self, name: str, data: bytes) -> None:
        """Write a file, in place of one that is there."""
        self._store.put(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; of all that try at once, one is told `True`."""
        return self._store.create(self._path(name), data)

    def swap(self, name: str, old: bytes, new: bytes) -> bool:
        """Write `new` if the file holds `old`; of all that try at once, one is told `True`."""
        return self._store.swap(self._path(name), old, new)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; `None` when there is no such file.

        Not by pyarrow, which asks a bucket for the size first and then for so many bytes: of a file
        that is replaced in between it gives a part, or what was in memory before.
        """
        return self._store.get(self._path(name))

    def line_blocks(self, name: str) -> Iterator[list[bytes]]:
        """The lines of a file without their breaks, some megabytes of them at a time.

        Raises:
            FileNotFoundError: there is no such file.
        """
        pending = b""
        with self._fs.open_input_stream(self._path(name), compression=None) as file:
            while block := file.read(_BLOCK_BYTES):
                *lines, pending = (pending + block).split(b"\n")
                if lines:
                    yield lines
        if pending:
            yield [pending]

    def put_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.put(name, sink.getvalue().to_pybytes())

    def read_table(
        self, name: str, *, columns: Sequence[str] | None = None, filters: Filters = None
    ) -> pa.Table:
        """Read a Parquet file, of which `columns` and what passes pyarrow's `filters`.

        Raises:
            FileNotFoundError: there is no such file.
        """
        names = None if columns is None else list(columns)
        path = self._path(name)
        return pq.read_table(path, columns=names, filters=filters, filesystem=self._fs)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        (info,) = self._fs.get_file_info([self._path(name)])
        return bool(info.type == fs.FileType.File)

    def names(self, folder: str) -> list[str]:
        """Names of the files below a folder, sorted; without the folder."""
        return [name for name, _ in self.sizes(folder)]

    def sizes(self, folder: str) -> list[tuple[str, int]]:
        """The files below a folder (`""`: all), sorted by name, with their sizes in bytes."""
        base = self._path(folder).rstrip("/")
        selector = fs.FileSelector(base, allow_not_found=True, recursive=True)
        return sorted(
            (info.path[len(base) + 1 :], info.size)
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File and not info.base_name.startswith(TEMPORARY)
        )

    def remove(self, name: str) -> None:
        """Delete a file; one that is not there is none already."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def remove_all(self, folder: str) -> None:
        """Delete all files below a folder."""
        path = self._path(folder)
        try:
            self._fs.delete_dir(path)
        except OSError:  # Google's says no FileNotFoundError
            (info,) = self._fs.get_file_info([path])
            if info.type != fs.FileType.NotFound:
                raise

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _check_local(folder: Path) -> None:
    nearest = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not nearest.is_dir():
        raise ConfigError(f"{folder} cannot be a folder: {nearest} is none. Name another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder} cannot be written: {nearest} does not allow it. Change its permissions, or "
            "name another one"
        )
