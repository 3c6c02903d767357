"""How much each dispatch replica has to do, as far as the driver knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from moa.dispatch.settings import Progress
from moa.storage.run_folder import PieceName

OPEN_PIECES = 8
"""Pieces that a replica has per provider at most: each holds its outcomes until its last one, and
one slow query must not keep the others from being followed by the next piece."""
OPEN_IN_BATCHES = 200
"""Pieces whose batches a replica may have out, per provider; of these nothing is in memory."""


class Load:
    """Of one replica, by the queue of a piece: a provider, or a provider's batches."""

    def __init__(self) -> None:
        self.latest: Progress | None = None
        self._pieces: Counter[str] = Counter()
        self._since_latest: Counter[str] = Counter()
        """Rows handed out after the question was asked that `latest` answers."""
        self._since_asked: Counter[str] = Counter()
        """Rows handed out after the question that is under way was asked."""

    def unsettled(self, provider: str) -> int:
        """Queries without an outcome, at most."""
        known = self.latest.unsettled.get(provider, 0) if self.latest is not None else 0
        return known + self._since_latest[provider]

    def has_room(self, piece: PieceName, most_rows: int) -> bool:
        """Whether another piece of this queue may be handed out."""
        provider, pieces = piece.queue, self._pieces[piece.queue]
        if piece.in_batches:
            return pieces < OPEN_IN_BATCHES
        return not pieces or (pieces < OPEN_PIECES and self.unsettled(provider) < most_rows)

    def add(self, provider: str, rows: int) -> None:
        """A piece is handed out."""
        self._pieces[provider] += 1
        self._since_latest[provider] += rows
        self._since_asked[provider] += rows

    def remove(self, provider: str) -> None:
        """A piece has ended, in whatever way."""
        self._pieces[provider] -= 1

    def asked(self) -> None:
        """The replica is asked where it stands."""
        self._since_asked = Counter()

    def answered(self, progress: Progress | None) -> None:
        """It has answered; `None` before its first piece."""
        if progress is not None:
            self._since_latest = self._since_asked.copy()
            self.learn(progress)

    def standing(self, not_taken: Set[str]) -> Progress | None:
        """Where it stands, with the pieces that it no longer counts and whose results the driver
        has `not_taken` yet: no piece is in neither count, however results overtake each other.
        """
        if self.latest is None:
            return None
        handed_over = self.latest.handed_over.items()
        return self.latest.plus(one for piece, one in handed_over if piece in not_taken)

    def taken(self, not_taken: Set[str]) -> list[str]:
        """Pieces that it still tells of as handed over, though their results are here."""
        return [] if self.latest is None else [*(self.latest.handed_over.keys() - not_taken)]

    def learn(self, progress: Progress | None) -> None:
        """Take it for the latest, unless something later is known: answers overtake each other."""
        latest = self.latest
        if progress is None:
            return
        if latest is None or latest.of != progress.of or progress.at_s >= latest.at_s:
            self.latest = progress


def least(loads: Sequence[Load], piece: PieceName, most_rows: int) -> int | None:
    """Whose turn it is: of those with room the one that has the least to do of a piece's queue."""
    with_room = [n for n, load in enumerate(loads) if load.has_room(piece, most_rows)]
    return min(with_room, key=lambda n: (loads[n].unsettled(piece.queue), n), default=None)
