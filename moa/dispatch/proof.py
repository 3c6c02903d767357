"""Whether an account's key is any good: one process finds out with its first call, others wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from moa.dispatch.pace import Clock

PROOF_S = 120.0
"""How long one process may take to find out, and how long a refusal is passed on. Who asks later
may have mended the key.
"""


class Proof:
    """What is known of one account's key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.proven = False
        """A call was let through."""
        self._refused = ""
        self._prover: str | None = None
        self._until = 0.0
        """So long the prover may take, or is the refusal good."""
        self._found_out = asyncio.Event()

    def prove(self) -> None:
        """A call was let through."""
        self.proven = True
        self._found_out.set()

    def refuse(self, detail: str) -> None:
        """The first call was refused."""
        if not self.proven:
            self._refused, self._until = detail, self._clock() + PROOF_S
            self._found_out.set()

    def hand_over(self, process: str) -> None:
        """This process has nothing left to find out with: another may, without delay."""
        if self._prover == process and not self.proven and not self._refused:
            self._until = 0.0
            self._found_out.set()

    async def wait(self, process: str) -> str:
        """Until the key is known to be good, or until it is this process that shall find out; or
        return what it was refused with.
        """
        while not self.proven:
            now = self._clock()
            if now >= self._until:
                self._prover, self._refused = None, ""
                self._found_out.clear()
            if self._refused:
                return self._refused
            if self._prover is None:
                self._prover, self._until = process, now + PROOF_S
            if self._prover == process:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(self._until - now):
                    await self._found_out.wait()
        return ""
