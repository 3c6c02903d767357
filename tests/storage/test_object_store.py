from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from moa.errors import ConfigError
from moa.replay.process import ReplayServer, replay_server
from moa.storage.object_store import Folder, filesystem_of


@pytest.fixture
def google_store(provider_server: ReplayServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket, and the environment in which it is found."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    return f"gs://bucket-{secrets.token_hex(6)}"


@pytest.fixture(params=["disk", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "runs"))
    if request.param == "gs":
        return Folder(f"{request.getfixturevalue('google_store')}/runs")
    return Folder(f"{request.getfixturevalue('object_store')}/runs")


def test_what_is_put_is_read(folder: Folder) -> None:
    folder.put("a/one", b"1")
    folder.put("a/one", b"2")

    assert folder.read("a/one") == b"2"
    assert folder.read("a/two") is None


def test_a_file_that_is_being_replaced_is_read_whole(folder: Folder) -> None:
    contents = [b"short", b"much longer than the other" * 40]
    folder.put("a", contents[0])
    reads: set[bytes | None] = set()
    with ThreadPoolExecutor(3) as pool:
        written = [pool.submit(folder.put, "a", contents[n % 2]) for n in range(150)]
        while not all(one.done() for one in written):
            reads.add(folder.read("a"))

    assert reads <= set(contents)


def test_a_file_is_created_by_one_of_many(folder: Folder) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: folder.create("lock", b"%d" % n), range(16)))

    assert won.count(True) == 1
    assert folder.read("lock") == b"%d" % won.index(True)


def test_a_table_comes_back_with_the_columns_and_rows_that_were_asked_for(folder: Folder) -> None:
    folder.put_table("t.parquet", pa.table({"n": [1, 2, 3], "name": ["a", "b", "c"]}))

    table = folder.read_table("t.parquet", columns=["name"], filters=[("n", ">", 1)])

    assert table.to_pydict() == {"name": ["b", "c"]}
    with pytest.raises(FileNotFoundError):
        folder.read_table("other.parquet")


def test_names_are_sorted_and_show_nothing_half_written(folder: Folder) -> None:
    for name in ("x/b", "x/a", "x/deep/c", "y/d"):
        folder.put(name, b"12")
    if folder.local is not None:
        (folder.local / "x" / ".writing-0123").write_bytes(b"1")

    assert folder.names("x") == ["a", "b", "deep/c"]
    assert folder.has("x/deep/c")
    assert not folder.has("x/deep")
    assert folder.names("nothing") == []
    assert folder.sizes("y") == [("d", 2)]


def test_a_removed_file_is_gone_and_may_be_removed_again(folder: Folder) -> None:
    folder.put("a", b"1")

    folder.remove("a")
    folder.remove("a")

    assert folder.read("a") is None


def test_all_of_a_folder_is_removed_and_may_be_removed_again(folder: Folder) -> None:
    for name in ("x/a", "x/deep/b", "xy"):
        folder.put(name, b"1")

    folder.remove_all("x")
    folder.remove_all("x")

    assert folder.names("") == ["xy"]


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_lines_come_in_blocks_and_none_is_cut(
    folder: Folder, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moa.storage.object_store._BLOCK_BYTES", block)
    folder.put("lines", b"one\n\n\xc3\xbc two\nthree")

    blocks = list(folder.line_blocks("lines"))

    assert [line for lines in blocks for line in lines] == [b"one", b"", b"\xc3\xbc two", b"three"]
    assert all(blocks)
    with pytest.raises(FileNotFoundError):
        list(folder.line_blocks("other"))


def test_two_emulators_of_google_storage_are_told_apart(
    google_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(google_store).put("a", b"1")

    with replay_server() as other:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", other.url)
        Folder(google_store).put("b", b"2")

        assert Folder(google_store).names("") == ["b"]


def test_nothing_is_left_of_a_creation_that_lost(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    assert folder.create("a", b"1")
    assert not folder.create("a", b"2")

    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_bucket_that_is_not_there_is_told_before_it_is_needed(object_store: str) -> None:
    Folder(f"{object_store}/runs/not/yet").check()

    with pytest.raises(ConfigError, match="no such bucket"):
        Folder(f"{object_store}-elsewhere/runs").check()


@pytest.mark.parametrize(
    ("url", "said"), [("ftp://host/x", "unknown scheme 'ftp'"), ("s3:///x", "no bucket")]
)
def test_an_address_that_cannot_be_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        filesystem_of(url)


def test_of_those_who_swap_from_one_state_one_succeeds(folder: Folder) -> None:
    folder.put("x", b"old")

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: folder.swap("x", b"old", b"%d" % n), range(8)))

    assert said.count(True) == 1
    assert folder.read("x") == b"%d" % said.index(True)
    assert not folder.swap("not there", b"", b"new")
