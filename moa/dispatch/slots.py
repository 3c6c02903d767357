"""How many calls may be out at once, shared by holders that come and go."""

from __future__ import annotations

from collections.abc import Sequence


class Slots:
    """Nobody is promised what another may still be using: who shall use fewer than before is told
    so first, and the rest gets the difference when it has asked again with fewer calls out.
    """

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        """Each holder's share, by the latest grant."""
        self._in_use: dict[str, int] = {}
        """What it may have out until it asks again: what it had when it asked, or might have begun
        before it was told.
        """

    def share(self, holder: str, in_flight: int, alive: Sequence[str], most: int) -> int:
        """One holder's share of `most`, which it uses until it asks the next time.

        Args:
            holder: who asks, and thus has taken note of its share so far.
            in_flight: calls that it has out, or may begin before it is told.
            alive: all holders that have something to do; the first ones get what does not divide.
            most: of all of them together.
        """
        self._told = {name: n for name, n in self._told.items() if name in alive}
        self._in_use = {name: n for name, n in self._in_use.items() if name in alive}
        if holder not in alive:
            return 0
        before = max(in_flight, self._told.get(holder, 0))
        others = sum(max(self._told[x], self._in_use[x]) for x in self._told if x != holder)
        place = list(alive).index(holder)
        fair = most // len(alive) + (place < most % len(alive))
        share = max(0, min(fair, most - others))
        self._told[holder] = share
        self._in_use[holder] = before
        return share
