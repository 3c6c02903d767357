from __future__ import annotations

from pathlib import Path

import pytest

from moa.errors import ConfigError
from moa.storage.log_files import files_at
from moa.storage.object_store import Folder

FILES = [
    "2026-11-23/a.parquet", "2026-11-24/a.parquet", "2026-11-24/b.jsonl",
    "2026-11-24/old/a.parquet", "log1.parquet", "log[1].parquet", "notes.txt", "_SUCCESS",
    ".a.parquet.crc",
]  # fmt: skip
EMPTY = "2026-11-24/empty.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*FILES, EMPTY):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == EMPTY else b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "taken", "left_out"),
    [
        ("2026-11-23/a.parquet", [FILES[0]], []),
        ("2026-11-24", FILES[1:4], [EMPTY]),
        ("2026-11-24/", FILES[1:4], [EMPTY]),
        ("2026-*/*.parquet", FILES[:2], [EMPTY]),
        ("2026-*/**/*.parquet", [*FILES[:2], FILES[3]], [EMPTY]),
        ("**/a.parquet", [*FILES[:2], FILES[3]], []),
        ("2026-11-2[4-9]/?.jsonl", [FILES[2]], []),
        ("log[1].parquet", [FILES[5]], []),
        ("log[0-9].parquet", [FILES[4]], []),
        ("*", FILES[4:6], ["notes.txt"]),
        ("**", FILES[:6], [EMPTY, "notes.txt"]),
    ],
)
def test_a_path_finds_what_a_shell_would_find(
    folder: Path, path: str, taken: list[str], left_out: list[str]
) -> None:
    files, left = files_at(f"{folder}/{path}", None)

    assert sorted(files) == [f"{folder}/{name}" for name in taken]
    assert sorted(left) == [f"{folder}/{name}" for name in left_out]


def test_a_format_that_is_told_takes_every_extension(folder: Path) -> None:
    files, left = files_at(f"{folder}/*.txt", "openai_batch")

    assert (list(files), left) == ([f"{folder}/notes.txt"], [])


@pytest.mark.parametrize(
    ("path", "said"), [("nowhere", "no file at"), ("*.txt", "no file at .* but 1 of other kinds")]
)
def test_nothing_to_be_read_is_refused(folder: Path, path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        files_at(f"{folder}/{path}", None)


@pytest.mark.parametrize("path", ["logs", "logs/*/a.parquet", "**/*.parquet"])
def test_a_bucket_is_looked_through_alike(object_store: str, path: str) -> None:
    for name in ("logs/24/a.parquet", "logs/24/notes.txt"):
        Folder(object_store).put(name, b"x")

    files, left = files_at(f"{object_store}/{path}", None)

    assert list(files) == [f"{object_store}/logs/24/a.parquet"]
    assert left == ([f"{object_store}/logs/24/notes.txt"] if path == "logs" else [])
