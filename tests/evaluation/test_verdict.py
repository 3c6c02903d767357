from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from moa.errors import ConfigError
from moa.evaluation.verdict import CheckVerdict, PoolVerdict, Verdict, objections, read_verdict

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
WORTH = CheckVerdict(what="worth", wanted="above 0", measured="1.2", passed=True)


def verdict(
    *, taught: int = 0, current: str | None = "old", checks: tuple[CheckVerdict, ...] = (WORTH,)
) -> Verdict:
    passed = not taught and all(one.passed for one in checks)
    pool = PoolVerdict(passed=passed, verdict="It is worth it.", checks=list(checks))
    return Verdict(
        passed=passed, router="new", current=current, data="queries", data_sha256="0" * 64,
        made_at=NOW - timedelta(hours=1), taught=taught, pools={"P": pool},
    )  # fmt: skip


def against(one: Verdict, *, candidate: str = "new", now: datetime = NOW) -> list[str]:
    return objections(one, candidate=candidate, current="old", now=now, max_age=timedelta(days=7))


def test_a_verdict_that_passed_permits_what_it_is_of() -> None:
    assert against(verdict()) == []


def test_a_verdict_comes_back_as_it_was_written() -> None:
    one = verdict(checks=(WORTH, WORTH.model_copy(update={"passed": False})))

    assert read_verdict(one.json_bytes(), where="here") == one


@pytest.mark.parametrize("text", [b"", b"[]", b'{"passed": true}'])
def test_what_is_no_verdict_is_told(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"there/verdict.json is none of this version"):
        read_verdict(text, where="there/verdict.json")


def test_another_router_an_old_verdict_and_another_one_in_use_are_each_told() -> None:
    late = NOW + timedelta(days=8)

    (other,) = against(verdict(), candidate="newer")
    (old,) = against(verdict(), now=late)
    (moved,) = against(verdict(current="older"))
    (first,) = against(verdict(current=None))

    assert other.startswith("the verdict is of router new, not of newer")
    assert "8.0 days old, at most 7" in old
    assert "compared with older, and old is in use by now" in moved
    assert "compared with no router" in first


def test_what_was_missed_is_named_with_what_was_wanted() -> None:
    missed = CheckVerdict(what="flip rate", wanted="at most 0.1", measured="0.3", passed=False)

    assert against(verdict(checks=(WORTH, missed))) == ["P: flip rate 0.3, wanted at most 0.1"]
    assert against(verdict(taught=1200)) == ["it was fitted on 1,200 of the queries that judge it"]


def test_a_gate_that_was_asked_nothing_lets_nobody_through() -> None:
    (said,) = against(verdict(checks=()))

    assert "was asked nothing" in said
