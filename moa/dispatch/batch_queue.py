"""Room for batches: vendors limit the input tokens that wait in batches which have not ended."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress

from moa.dispatch.batch_file import BatchFile


class BatchQueue:
    """What of each model may be in batches at once.

    Args:
        most_tokens: catalog id → input tokens; a model that is not named has no limit.
    """

    def __init__(self, most_tokens: Mapping[str, float]) -> None:
        self.most_tokens = dict(most_tokens)
        self._held: defaultdict[str, list[BatchFile]] = defaultdict(list)
        self._changed = asyncio.Event()
        self._closed = False

    async def take(self, file: BatchFile, time_left_s: Callable[[], float]) -> bool:
        """Wait until there is room for a batch, and hold it; false when the queue is closed, or
        when no time is left.

        Args:
            file: the batch.
            time_left_s: what can still be waited; asked again whenever it is over, as it may grow.
        """
        while not self._closed and (left_s := time_left_s()) > 0:
            if self._has_room(file):
                self.hold(file)
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        return False

    def hold(self, file: BatchFile) -> None:
        """For a batch that is out already, whether there is room or not."""
        self._held[file.model.id].append(file)

    def release(self, file: BatchFile) -> None:
        """A batch has ended, or was not submitted."""
        held = self._held[file.model.id]
        del held[next(place for place, one in enumerate(held) if one is file)]
        self._wake()

    def is_alone(self, file: BatchFile) -> bool:
        """Whether no other batch of its model is held."""
        return all(one is file for one in self._held[file.model.id])

    def close(self) -> None:
        """Nothing more is let in; whoever waits is told so."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _has_room(self, file: BatchFile) -> bool:
        most = self.most_tokens.get(file.model.id)
        held = self._held[file.model.id]
        if most is None or not held:
            return True
        return sum(one.input_tokens for one in held) + file.input_tokens <= most
