"""Bytes under a name: on a local disk, in S3 or in Google Cloud Storage, by their own clients."""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from moa.errors import ConfigError

if TYPE_CHECKING:  # half a second each to import, for those who use them only
    from botocore.client import BaseClient
    from google.cloud.storage import Blob, Client

TEMPORARY = ".writing-"
"""How names of files begin that are being written."""
_CONFLICT = "ConditionalRequestConflict"
_DENIED = "AccessDenied"


class Store(Protocol):
    """Where bytes are put; keys are paths as `pyarrow.fs` has them."""

    def get(self, path: str) -> bytes | None:
        """All of a file as it is at one moment; `None` when it is not there."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in place of one that is there."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one: of all that try, one is told `True`."""
        ...

    def swap(self, path: str, old: bytes, new: bytes) -> bool:
        """Write `new` in place of a file that holds `old`: of all that try, one is told `True`."""
        ...


def endpoint(scheme: str) -> str | None:
    """Where a kind of bucket is, if not with its vendor, as the vendors' own tools are told."""
    if scheme == "gs":
        return os.environ.get("STORAGE_EMULATOR_HOST") or None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def store_of(url: str) -> Store:
    """By a URL's scheme; a path has none."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _LocalDisk()
    return _S3() if scheme == "s3" else _GoogleStorage()


class _LocalDisk:
    """Files get their name when their bytes are on the disk."""

    def get(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

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
        temporary = Path(path).with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
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

    def get(self, path: str) -> bytes | None:
        from botocore.exceptions import ClientError

        bucket, _, key = path.partition("/")
        try:
            found = _s3_client(os.getpid()).get_object(Bucket=bucket, Key=key)
            return bytes(found["Body"].read())
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "NoSuchBucket"):
                return None
            if code == _DENIED:
                raise _not_permitted(path, error) from None
            raise

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


def _not_permitted(path: str, error: Exception) -> ConfigError:
    """S3 says the same of what may not be read, and of what is not there where names may not be
    listed.
    """
    return ConfigError(
        f"s3://{path} may not be read: {error}. Permit s3:GetObject on it and s3:ListBucket on its "
        "bucket, or correct the credentials in the environment"
    )


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

    def get(self, path: str) -> bytes | None:
        from google.api_core.exceptions import NotFound

        try:
            return bytes(self._blob(path).download_as_bytes())
        except NotFound:
            return None

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
        return _google_client(os.getpid(), endpoint("gs")).bucket(bucket).blob(key)


@lru_cache(maxsize=2)
def _google_client(process: int, emulator: str | None) -> Client:
    """One a process, for the vendor or for an emulator, which wants no credentials."""
    from google.cloud import storage

    return storage.Client.create_anonymous_client() if emulator else storage.Client()
