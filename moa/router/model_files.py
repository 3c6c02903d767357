"""A language model's folder is found, and copied out of a bucket once; another's is refused."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.fs
import structlog

from moa.config import ModelSource
from moa.errors import ArtifactError, ConfigError, MoaError
from moa.router.backbone_spec import LanguageModelSpec
from moa.router.model_folder import ADAPTER_CONFIG, CONFIG, WEIGHTS, verify_adapter, verify_model
from moa.storage.object_store import Folder, filesystem_of

ADAPTER = "adapter"
"""Folder of a LoRA adapter inside an artifact, as peft saves it."""
_COPY_BYTES = 8 << 20

log = structlog.get_logger()


def find_model(spec: LanguageModelSpec, source: ModelSource, *, artifact: str) -> Path:
    """The local folder of a router's language model, verified.

    Args:
        spec: of the artifact.
        source: what the job's config says.
        artifact: the artifact's own folder: a path, `s3://…` or `gs://…`.

    Raises:
        ConfigError: it is nowhere, or not to be had.
        ArtifactError: its hashes are not the spec's.
    """
    url = _url(spec, source, artifact) or str(_from_hub(spec, source))
    hashes = f"{spec.weights_sha256} {spec.tokenizer_sha256}"
    return _local(url, source, hashes, CONFIG, partial(verify_model, spec))


def _url(spec: LanguageModelSpec, source: ModelSource, artifact: str) -> str | None:
    """The one that was named; without one, the first that there is."""
    if source.folder is not None:
        return source.folder
    inside = f"{artifact.rstrip('/')}/{spec.name}"
    if Folder(inside).has(CONFIG):
        return inside
    there = "://" in spec.name or (Path(spec.name) / CONFIG).is_file()
    return spec.name if there else None


def find_adapter(spec: LanguageModelSpec, source: ModelSource, *, artifact: str) -> Path | None:
    """The local folder of a router's LoRA adapter, verified; `None` when it has none.

    Args:
        spec: of the artifact.
        source: what the job's config says.
        artifact: the artifact's own folder: a path, `s3://…` or `gs://…`.

    Raises:
        ConfigError: it is not there.
        ArtifactError: its hash is not the spec's.
    """
    if spec.adapter_sha256 is None:
        return None
    url, wants = f"{artifact.rstrip('/')}/{ADAPTER}", spec.adapter_sha256
    return _local(url, source, wants, ADAPTER_CONFIG, partial(verify_adapter, wants))


def bring_along(
    spec: LanguageModelSpec, source: ModelSource, *, artifact: str, target: Path
) -> None:
    """Copy the model and the adapter that lie in an artifact's folder into another's.

    Args:
        spec: of both artifacts.
        source: what the job's config says.
        artifact: the folder that they may lie in: a path, `s3://…` or `gs://…`.
        target: the other artifact's.

    Raises:
        ArtifactError: their hashes are not the spec's.
    """
    if Folder(f"{artifact.rstrip('/')}/{spec.name}").has(CONFIG):
        inside = source.model_copy(update={"folder": None})
        model = find_model(spec, inside, artifact=artifact)
        shutil.copytree(model, target / spec.name, dirs_exist_ok=True)
    adapter = find_adapter(spec, source, artifact=artifact)
    if adapter is not None:
        shutil.copytree(adapter, target / ADAPTER, dirs_exist_ok=True)


def _local(
    url: str, source: ModelSource, hashes: str, needs: str, verify: Callable[[Path], None]
) -> Path:
    """A folder that has been verified. One in a bucket is copied, and gets its name when it is
    whole and verified: replicas that start together copy it once each at worst, and none sees half
    of it."""
    if "://" not in url:
        verify(Path(url))
        return Path(url)
    cache = Path(source.cache).expanduser()
    target = cache / hashlib.sha256(f"{url} {hashes}".encode()).hexdigest()[:24]
    if target.is_dir():
        try:
            verify(target)
        except MoaError as error:
            raise ArtifactError(
                f"{target}, the copy of {url}, is damaged: {error}. Remove this folder, and it is "
                "copied again"
            ) from None
        return target
    sizes = Folder(url).sizes("")
    if needs not in [name for name, _ in sizes]:
        raise ConfigError(f"{url} is no model: it has no {needs}. Name the folder of a model")
    temporary = cache / f".writing-{secrets.token_hex(8)}"
    try:
        _copy(url, temporary)
        verify(temporary)
        try:
            temporary.rename(target)
        except OSError:  # another replica was quicker
            verify(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("router.model_copied", url=url, folder=str(target), bytes=sum(n for _, n in sizes))
    return target


def _copy(url: str, target: Path) -> None:
    filesystem, root = filesystem_of(url)
    target.mkdir(parents=True)
    try:
        pyarrow.fs.copy_files(
            root,
            str(target),
            source_filesystem=filesystem,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
            chunk_size=_COPY_BYTES,
        )
    except OSError as error:
        raise ConfigError(
            f"{url} cannot be copied to {target.parent}: {' '.join(str(error).split())}. Correct "
            "the address or the credentials, or make room there (router.model.cache)"
        ) from None


def _from_hub(spec: LanguageModelSpec, source: ModelSource) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            f"the model {spec.name} is in no folder, and the Hugging Face cache cannot be looked "
            "into without the extra gpu or cpu: give its folder (router.model.folder)"
        ) from None
    offline = os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True")
    last: Exception | None = None
    for local_only in (True, False) if source.download and not offline else (True,):
        try:
            return Path(
                snapshot_download(
                    spec.name,
                    revision=spec.revision,
                    local_files_only=local_only,
                    allow_patterns=[WEIGHTS, "*.json", "*.txt"],
                )
            )
        except Exception as error:  # its own, the network's, the disk's: each means "not to be had"
            last = error
    how = "" if source.download else ", or allow a download (router.model.download = true)"
    raise ConfigError(
        f"the model {spec.name} is not to be had ({type(last).__name__}): it is in no folder of "
        f"that name and not in the Hugging Face cache. Give its folder (router.model.folder){how}"
    )
