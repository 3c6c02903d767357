"""Room for batches: vendors limit the input tokens that wait in batches which have not ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from moa.dispatch.batch_file import BatchFile


class BatchQueue:
    """What of each model may be in batches at once.

    Args:
        most_tokens: catalog id → input tokens; a model that is not named has no limit.
    """

    def __init__(self, most_tokens: Mapping[str, float]) -> None:
        self.most_tokens = dict(most_tokens)
        self._held: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        self._freed = asyncio.Condition()
        self._closed = False

    async def take(self, file: BatchFile) -> bool:
        """Wait until there is room for a batch, and hold it; false when the queue is closed."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._closed or self._has_room(file))
            if self._closed:
                return False
            self.hold(file)
            return True

    def hold(self, file: BatchFile) -> None:
        """For a batch that is out already, whether there is room or not."""
        self._held[file.model.id] += round(file.input_tokens)
        self._files[file.model.id] += 1

    async def release(self, file: BatchFile) -> None:
        """A batch has ended, or was not submitted."""
        async with self._freed:
            self._held[file.model.id] -= round(file.input_tokens)
            self._files[file.model.id] -= 1
            self._freed.notify_all()

    def is_alone(self, file: BatchFile) -> bool:
        """Whether no other batch of its model is held."""
        return self._files[file.model.id] <= 1

    async def close(self) -> None:
        """Nothing more is let in; whoever waits is told so."""
        async with self._freed:
            self._closed = True
            self._freed.notify_all()

    def _has_room(self, file: BatchFile) -> bool:
        most = self.most_tokens.get(file.model.id)
        held = self._held[file.model.id]
        return most is None or not self._files[file.model.id] or held + file.input_tokens <= most
