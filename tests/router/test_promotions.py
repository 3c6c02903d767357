from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moa.errors import ArtifactError
from moa.router.artifact import CARDS, DESCRIPTION, WEIGHTS, read_artifact
from moa.router.facts import read_facts
from moa.router.promotions import (
    Promotion,
    add,
    artifact_of,
    before,
    history,
    keep,
    latest,
    promoted,
)
from moa.router.router import Router
from moa.storage.object_store import Folder
from tests.router.artifacts import another_router

EMBEDDED = "moa/router/embedded"


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "routers"))
    return Folder(f"{request.getfixturevalue('object_store')}/routers")


def promotion(number: int, version: str, *, restores: int | None = None) -> Promotion:
    return Promotion(
        number=number, artifact=f"routers/{version}", version=version, verdict=None,
        verdict_sha256=None, promoted_at=datetime(2026, 11, number, tzinfo=UTC), by="ops",
        reason="a test", restores=restores,
    )  # fmt: skip


def promote(folder: Folder, url: str) -> str:
    last = latest(folder)
    artifact = read_artifact(url)
    place = keep(artifact, folder)
    one = promotion(last.number + 1 if last else 1, artifact.version)
    assert add(folder, one)
    assert place == one.artifact
    return artifact.version


def test_the_last_number_counts(folder: Folder) -> None:
    assert latest(folder) is None

    for number in (1, 2, 10, 9):
        assert add(folder, promotion(number, f"v{number}"))

    found = latest(folder)
    assert found == promotion(10, "v10")
    assert [one.number for one in history(folder)] == [1, 2, 9, 10]


def test_of_many_that_promote_at_once_one_is_told_yes(folder: Folder) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: add(folder, promotion(1, f"v{n}")), range(8)))

    assert won.count(True) == 1
    assert [one.version for one in history(folder)] == [f"v{won.index(True)}"]


def test_what_is_promoted_is_a_copy_that_its_maker_cannot_change(
    folder: Folder, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    version = another_router(mine)

    promote(folder, str(mine))
    another_router(mine, seed=2)

    assert read_facts(folder.url).version == version
    assert Router.load(folder.url).facts.version == version
    kept = Folder(promoted(folder.url))
    assert all(kept.has(name) for name in (DESCRIPTION, WEIGHTS, *CARDS))


def test_a_promotion_changes_what_the_folder_means_and_not_what_a_run_began_with(
    folder: Folder, tmp_path: Path
) -> None:
    first = promote(folder, EMBEDDED)
    second = another_router(tmp_path / "other")
    promote(folder, str(tmp_path / "other"))

    assert read_facts(folder.url).version == second
    assert read_facts(folder.url, version=first).version == first
    assert read_facts(folder.url, version="never").version == second


def test_an_artifact_is_itself_and_an_empty_folder_no_router(tmp_path: Path) -> None:
    assert promoted(EMBEDDED) == EMBEDDED
    with pytest.raises(ArtifactError, match=r"one of promotions \(jobs/promote_router.py\)"):
        read_facts(str(tmp_path))


def test_a_promoted_router_that_was_replaced_is_not_used(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "routers"))
    version = promote(folder, EMBEDDED)
    other = another_router(tmp_path / "routers/routers" / version)

    with pytest.raises(ArtifactError, match=f"is of the router {other}, and promotion 1 of"):
        read_facts(folder.url)


def test_a_damaged_router_is_not_kept(tmp_path: Path) -> None:
    another_router(tmp_path / "mine")
    (tmp_path / "mine" / CARDS[0]).write_text("other words")

    with pytest.raises(ArtifactError, match=rf"{CARDS[0]} is damaged"):
        keep(read_artifact(str(tmp_path / "mine")), Folder(str(tmp_path / "routers")))

    assert not (tmp_path / f"routers/routers/{read_facts(EMBEDDED).version}/artifact.json").exists()


def test_what_was_kept_half_is_mended(tmp_path: Path) -> None:
    folder, artifact = Folder(str(tmp_path)), read_artifact(EMBEDDED)
    place = keep(artifact, folder)
    folder.put(f"{place}/{WEIGHTS}", b"half of it")

    assert keep(artifact, folder) == place

    assert read_artifact(f"{folder.url}/{place}").version == artifact.version


def test_an_address_may_be_absolute() -> None:
    url = "s3://bucket/routers"
    elsewhere = promotion(1, "v").model_copy(update={"artifact": "s3://other/router"})

    assert artifact_of(url, elsewhere) == "s3://other/router"
    assert artifact_of(url, promotion(1, "v")) == "s3://bucket/routers/routers/v"


@pytest.mark.parametrize(
    ("versions", "goes_back_to"),
    [("", None), ("a", None), ("aa", None), ("ab", 1), ("abb", 1), ("aba", 2)],
)
def test_a_rollback_goes_to_the_last_other_router(versions: str, goes_back_to: int | None) -> None:
    found = before([promotion(number, one) for number, one in enumerate(versions, start=1)])

    assert (found and found.number) == goes_back_to


def test_a_second_rollback_goes_further_back() -> None:
    promotions = [promotion(1, "a"), promotion(2, "b"), promotion(3, "c")]

    first = before(promotions)
    assert first is not None
    promotions.append(promotion(4, first.version, restores=first.number))
    second = before(promotions)
    assert second is not None
    promotions.append(promotion(5, second.version, restores=second.number))

    assert (first.version, second.version) == ("b", "a")
    assert before(promotions) is None


def test_a_rollback_never_goes_back_to_what_was_rolled_back_from() -> None:
    promotions = [promotion(1, "a"), promotion(2, "bad"), promotion(3, "a", restores=1)]
    promotions.append(promotion(4, "c"))

    first = before(promotions)
    assert first is not None
    promotions.append(promotion(5, first.version, restores=first.number))

    assert (first.version, first.number) == ("a", 1)
    assert before(promotions) is None


def test_a_router_that_is_trained_anew_while_it_is_kept_leaves_the_kept_one_as_it_is(
    tmp_path: Path,
) -> None:
    folder, mine = Folder(str(tmp_path / "routers")), tmp_path / "mine"
    another_router(mine)
    artifact = read_artifact(str(mine))
    place = keep(artifact, folder)
    document = json.loads((mine / DESCRIPTION).read_bytes())
    (mine / DESCRIPTION).write_text(json.dumps(document))  # the same words, other bytes

    with pytest.raises(
        ArtifactError, match=f"changed while it was copied, from {artifact.version}"
    ):
        keep(artifact, folder)

    assert read_artifact(f"{folder.url}/{place}").version == artifact.version


@pytest.mark.parametrize("text", [b"", b"{}", b'{"number": 0}'])
def test_what_is_no_promotion_is_told(tmp_path: Path, text: bytes) -> None:
    folder = Folder(str(tmp_path))
    folder.put("promotions/000001.json", text)

    with pytest.raises(ArtifactError, match=r"000001.json is no promotion"):
        latest(folder)


def test_a_promotion_under_another_number_is_told(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.put("promotions/000002.json", promotion(1, "a").model_dump_json().encode())

    with pytest.raises(ArtifactError, match="says that its number is 1"):
        latest(folder)
