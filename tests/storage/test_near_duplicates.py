from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.storage.near_duplicates import (
    ALIKE,
    Fingerprint,
    NearDuplicates,
    fingerprint,
    is_held_out,
    text_group,
)

QUESTION = "A train leaves the station at nine and travels at sixty miles an hour to the next town"


def known(*prompts: str) -> NearDuplicates:
    found = NearDuplicates()
    for prompt in prompts:
        found.add(fingerprint(prompt), text_group(prompt), "train")
    return found


def alike(one: Fingerprint, other: Fingerprint) -> float:
    return float((one.signature == other.signature).mean())


def test_a_prompt_that_differs_in_a_word_joins_the_group_of_the_first() -> None:
    place = known(QUESTION).place(fingerprint(QUESTION + " nearby"))

    assert place.group == text_group(QUESTION)
    assert place.sides == {"train"}


def test_case_and_spaces_tell_nothing() -> None:
    place = known(QUESTION).place(fingerprint(QUESTION.upper().replace(" ", "  ")))

    assert place.group == text_group(QUESTION)


def test_another_question_of_one_template_has_a_group_of_its_own() -> None:
    place = known(f"{QUESTION}. How far is it?").place(
        fingerprint(f"Answer with a number. {QUESTION.replace('sixty', 'ten')[20:60]} by noon?")
    )

    assert place.sides == frozenset()


def test_the_most_alike_of_several_is_joined_and_all_sides_are_told() -> None:
    found = known(QUESTION)
    near = QUESTION + " nearby today"
    found.add(fingerprint(near), "other", "held_out")

    place = found.place(fingerprint(QUESTION + " nearby"))

    assert place.group in (text_group(QUESTION), "other")
    assert place.sides == {"train", "held_out"}


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_are_as_alike_the_one_way_as_the_other(one: str, other: str) -> None:
    first, second = fingerprint(one), fingerprint(other)

    assert alike(first, second) == alike(second, first)
    assert alike(first, first) == 1.0
    assert first.text == second.text or one.lower().split() != other.lower().split()


def test_the_estimate_is_that_of_the_sequences_in_common() -> None:
    words = [f"w{n}" for n in range(400)]
    for kept in (100, 200, 300):
        one, other = " ".join(words), " ".join(words[:kept] + [f"v{n}" for n in range(400 - kept)])
        exact = (kept - 2) / (2 * 398 - (kept - 2))

        assert alike(fingerprint(one), fingerprint(other)) == pytest.approx(exact, abs=0.13)


def test_recorded_prompts_that_are_called_equal_are_found() -> None:
    table = pq.read_table(
        "moa/recordings/queries.parquet", filters=[("source", "=", "zeroeval-numersense-v2")]
    )
    found = NearDuplicates()
    places: dict[str, set[str]] = {}
    for prompt, group in zip(
        table["prompt"].to_pylist(), table["duplicate_group"].to_pylist(), strict=True
    ):
        mark = fingerprint(prompt)
        place = found.place(mark)
        found.add(mark, place.group, "train")
        places.setdefault(group, set()).add(place.group)

    assert all(len(mine) == 1 for mine in places.values())
    assert len(places) > len({one for mine in places.values() for one in mine})
    assert 0.5 < ALIKE < 1


def test_a_share_of_the_groups_is_held_out() -> None:
    groups = [text_group(str(n)) for n in range(4000)]

    held = {group for group in groups if is_held_out(group, 0.2)}

    assert len(held) == pytest.approx(800, abs=110)
    assert held <= {group for group in groups if is_held_out(group, 0.3)}
    assert not any(is_held_out(group, 0.0) for group in groups)
