"""Which files a query log is: a file, a folder or a glob, on a local disk or in a bucket."""

from __future__ import annotations

import fnmatch

from pyarrow import fs

from moa.errors import ConfigError
from moa.storage.object_store import filesystem_of

FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "openai_batch",
    ".jsonl.gz": "openai_batch",
}
"""By extension."""


def files_at(path: str, known_format: str | None) -> tuple[dict[str, fs.FileInfo], list[str]]:
    """The files behind one entry of `queries.path`, and those there that are left out.

    Args:
        path: a file, a folder or a glob; a name with `*`, `?` or `[` in it is tried as it stands
            before it is a pattern.
        known_format: of all files, whatever their extension; `None`: it tells which are read.

    Returns:
        URL → what the file system says of the file; the URLs of the files left out.

    Raises:
        ConfigError: there is no file to be read.
        OSError: the file system cannot be asked.
    """
    filesystem, place = filesystem_of(path)
    prefix = path.partition("://")[0] + "://" if "://" in path else ""
    taken: list[fs.FileInfo] = []
    left_out: list[fs.FileInfo] = []
    (info,) = filesystem.get_file_info([place])
    found: list[fs.FileInfo] = []
    if info.type == fs.FileType.File:
        taken = [info]
    elif info.type == fs.FileType.NotFound and any(mark in place for mark in "*?["):
        base = place[: min(place.index(m) for m in "*?[" if m in place)].rpartition("/")[0]
        pattern = place.split("/")
        found = [one for one in _below(filesystem, base) if _matches(one.path.split("/"), pattern)]
    else:
        found = _below(filesystem, place)
    for one in found:
        known = known_format or extension(one.path)
        (taken if one.size and known else left_out).append(one)
    if not taken:
        left = f" but {len(left_out)} of other kinds (see queries.format)" if left_out else ""
        raise ConfigError(
            f"queries.path: no file at {path}{left}. Give a Parquet or JSONL file, a folder of "
            "them, or a glob"
        )
    return {prefix + one.path: one for one in taken}, [prefix + one.path for one in left_out]


def _matches(names: list[str], patterns: list[str]) -> bool:
    """As a shell has it: `*` stays inside a folder, `**` is any number of folders."""
    if not patterns:
        return not names
    first, rest = patterns[0], patterns[1:]
    if first == "**":
        return any(_matches(names[n:], rest) for n in range(len(names))) or not rest
    return bool(names) and fnmatch.fnmatchcase(names[0], first) and _matches(names[1:], rest)


def _below(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """Files below a folder, without those that other tools hide there (`_SUCCESS`, `.crc`)."""
    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    return [
        info
        for info in filesystem.get_file_info(selector)
        if info.type == fs.FileType.File
        and not any(part.startswith(("_", ".")) for part in info.path[len(folder) :].split("/"))
    ]


def extension(name: str) -> str | None:
    """Which of `FORMATS` a file has; `None` for another one."""
    return next((ending for ending in FORMATS if name.endswith(ending)), None)
