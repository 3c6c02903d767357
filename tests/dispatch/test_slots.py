from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from moa.dispatch.slots import Slots


def test_the_only_holder_may_have_all_of_them() -> None:
    assert Slots().share("a", 0, ["a"], 10) == 10


def test_shares_differ_by_one_at_most_and_the_first_get_the_rest() -> None:
    slots, alive = Slots(), ["a", "b", "c"]

    shares = [slots.share(name, 0, alive, 11) for name in alive]

    assert shares == [4, 4, 3]


def test_who_comes_later_gets_only_what_the_first_has_let_go() -> None:
    slots, both = Slots(), ["a", "b"]
    slots.share("a", 0, ["a"], 10)

    at_first = slots.share("b", 0, both, 10)
    told = slots.share("a", 10, both, 10)
    as_it_is_told = slots.share("b", 0, both, 10)
    slots.share("a", 7, both, 10)
    when_three_have_ended = slots.share("b", 0, both, 10)
    slots.share("a", 4, both, 10)
    in_the_end = slots.share("b", 3, both, 10)

    assert (at_first, told, as_it_is_told) == (0, 5, 0)
    assert (when_three_have_ended, in_the_end) == (3, 5)


def test_what_a_holder_had_that_is_gone_is_free() -> None:
    slots = Slots()
    slots.share("a", 0, ["a"], 10)

    assert slots.share("b", 0, ["b"], 10) == 10


def test_who_has_nothing_to_do_gets_nothing() -> None:
    slots = Slots()
    slots.share("a", 0, ["a"], 10)

    assert slots.share("a", 0, ["b"], 10) == 0
    assert slots.share("b", 0, ["b"], 10) == 10


def test_fewer_calls_than_before_are_told_to_all() -> None:
    slots, alive = Slots(), ["a", "b"]
    for name in alive:
        slots.share(name, 0, alive, 10)

    shares = [slots.share(name, 5, alive, 2) for name in alive + alive]

    assert shares[0] == shares[1] == 0  # each may still have five out
    assert sum(shares[2:]) <= 2


@dataclass
class Holder:
    out: int = 0
    share: int = 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["ask", "begin", "end", "leave"]),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(steps=STEPS, most=st.integers(1, 12))
def test_all_together_never_have_more_out_than_may_be(
    steps: list[tuple[str, str, int]], most: int
) -> None:
    slots, holders = Slots(), dict[str, Holder]()

    for name, what, number in steps:
        holder = holders.get(name)
        if what == "ask":
            holder = holders.setdefault(name, Holder())
            holder.share = slots.share(name, holder.out, list(holders), most)
        elif holder is None:
            continue
        elif what == "begin":
            holder.out = max(holder.out, min(holder.share, holder.out + number))
        elif what == "end":
            holder.out = max(0, holder.out - number)
        elif holder.out == 0:
            del holders[name]

        assert sum(one.out for one in holders.values()) <= most


@given(steps=STEPS, most=st.integers(4, 12))
def test_when_nobody_comes_or_goes_everybody_soon_has_a_fair_share(
    steps: list[tuple[str, str, int]], most: int
) -> None:
    slots, alive = Slots(), list("abcd")
    for name, _, number in steps:
        slots.share(name, number % 3, alive, most)

    for _ in range(3):
        shares = [slots.share(name, 0, alive, most) for name in alive]

    assert sum(shares) == most
    assert max(shares) - min(shares) <= 1
