"""Folders on a local disk, in S3 or in Google Cloud Storage, with one way to use them.

Files are whole: a reader sees all of a write or nothing. `create` tells two writers apart, which
pyarrow's file systems cannot; so writes go through each store's own client, and reads, which
should be columnar and concurrent, through `pyarrow.fs`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from moa.errors import ConfigError

if TYPE_CHECKING:  # half a second each to import, for those who use them only
    from botocore.client import BaseClient
    from google.cloud.storage import Blob, Client

_SCHEMES = ("s3", "gs")
_TEMPORARY = ".writing-"
Filters = Sequence[tuple[str, str, object]] | None
"""As pyarrow takes them: `[("partition", "=", 3)]`."""
_BLOCK_BYTES = 4 << 20
_CONFLICT = "ConditionalRequestConflict"


class _Store(Protocol):
    """Where bytes are put; keys are paths as `pyarrow.fs` has them."""

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in place of one that is there."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one: of all that try, one is told `True`."""
        ...

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """Write `new` in place of a file that holds `old`: of all that try, one is told `True`."""
        ...


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
    return _remote(scheme, bucket, _endpoint(scheme)), rest.rstrip("/")


def _endpoint(scheme: str) -> str | None:
    if scheme == "gs":
        return os.environ.get("STORAGE_EMULATOR_HOST") or None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


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
        self._store = _store_of(url)
        self.local = Path(self._root) if isinstance(self._store, _LocalDisk) else None
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
        """The bytes of a file; `None` when there is no such file."""
        try:
            with self._fs.open_input_file(self._path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

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
            if info.type == fs.FileType.File and not info.base_name.startswith(_TEMPORARY)
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


def _store_of(url: str) -> _Store:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _LocalDisk()
    return _S3() if scheme == "s3" else _GoogleStorage()


class _LocalDisk:
    """Files get their name when their bytes are on the disk."""

    def put(self, path: str, data: bytes) -> None:
        temporary = self._written(path, data)
        temporary.replace(path)
        _sync_folder(Path(path).parent)

    def create(self, path: str, data: bytes) -> bool:
        temporary = self._written(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(Path(path).parent)
        return True

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        try:
            folder = os.open(Path(path).parent, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not Path(path).is_file() or Path(path).read_bytes() != old:
                return False
            self.put(path, new)
            return True
        finally:
            os.close(folder)

    def _written(self, path: str, data: bytes) -> Path:
        temporary = Path(path).with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary


def _sync_folder(folder: Path) -> None:
    """A name is safe from a loss of power once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _S3:
    """boto3, which finds endpoint, region and credentials where the vendor's tools do."""

    def put(self, path: str, data: bytes) -> None:
        bucket, _, key = path.partition("/")
        _s3_client(os.getpid()).put_object(Bucket=bucket, Key=key, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        bucket, _, key = path.partition("/")
        client = _s3_client(os.getpid())
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            # 409: a conditional write to the same key is under way, which wins if it succeeds.
            if error.response["Error"]["Code"] not in ("PreconditionFailed", _CONFLICT):
                raise
            return self._holds(client, bucket, key, data)
        return True

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        from botocore.exceptions import ClientError

        bucket, _, key = path.partition("/")
        client = _s3_client(os.getpid())
        try:
            found = client.get_object(Bucket=bucket, Key=key)
            if found["Body"].read() != old:
                return False
            client.put_object(Bucket=bucket, Key=key, Body=new, IfMatch=found["ETag"])
        except client.exceptions.NoSuchKey:
            return False
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", _CONFLICT):
                raise
            return self._holds(client, bucket, key, new)
        return True

    @staticmethod
    def _holds(client: BaseClient, bucket: str, key: str, data: bytes) -> bool:
        """A put that the client repeated because its first answer was lost has met itself."""
        try:
            found = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return False
        return bool(found == data)


_ONE_MAKES_IT = threading.Lock()
"""boto3's default session cannot make two clients at once."""


@lru_cache(maxsize=2)
def _s3_client(process: int) -> BaseClient:
    """One a process: boto3's clients may be shared by threads, not across a fork."""
    with _ONE_MAKES_IT:
        import boto3

        return boto3.client("s3")


class _GoogleStorage:
    """google-cloud-storage, which finds project and credentials where the vendor's tools do."""

    def put(self, path: str, data: bytes) -> None:
        self._blob(path).upload_from_string(data, content_type="application/octet-stream")

    def create(self, path: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._blob(path).upload_from_string(
                data, content_type="application/octet-stream", if_generation_match=0
            )
        except PreconditionFailed:
            return bool(self._blob(path).download_as_bytes() == data)
        return True

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        blob = self._blob(path)
        try:
            if blob.download_as_bytes() != old:
                return False
            blob.upload_from_string(
                new, content_type="application/octet-stream", if_generation_match=blob.generation
            )
        except NotFound:
            return False
        except PreconditionFailed:
            return bool(self._blob(path).download_as_bytes() == new)
        return True

    def _blob(self, path: str) -> Blob:
        bucket, _, key = path.partition("/")
        return _google_client(os.getpid(), _endpoint("gs")).bucket(bucket).blob(key)


@lru_cache(maxsize=2)
def _google_client(process: int, emulator: str | None) -> Client:
    """One a process, for the vendor or for an emulator, which wants no credentials."""
    from google.cloud import storage

    return storage.Client.create_anonymous_client() if emulator else storage.Client()
