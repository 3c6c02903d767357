"""Decides what happens to each call, by script, seed and clock."""

from __future__ import annotations

import math
import struct
from collections import defaultdict, deque
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import xxhash

from moa.catalog import Wire
from moa.replay.script import SHARES, Faults, Script, Step

OK = Step()
_STEPS: dict[str, Step] = {
    "status_500": Step(kind="error", status=500),
    "status_503": Step(kind="error", status=503),
    "status_529": Step(kind="error", status=529),
    "reset": Step(kind="reset"),
    "reset_in_body": Step(kind="reset", after=0.5),
    "hang": Step(kind="hang"),
    "cut_json": Step(kind="cut_json"),
    "empty": Step(kind="empty"),
    "refusal": Step(kind="refusal"),
    "slow": OK,
}
_FAILS = Step(kind="error", status=500)
_FAILS_AGAIN = Step(kind="error", status=400)
_NO_FLEX = Step(kind="error", status=429, quota="flex")
_FAULT, _LATENCY, _FLEX, _IN_BATCH = 1, 2, 3, 4
_NORMAL = NormalDist()


class Fate(NamedTuple):
    """What happens to a call, and when."""

    step: Step
    latency_s: float
    """Until the first byte."""
    spread_s: float = 0.0
    """Added until the last one: a stream spreads it over its events."""


class Director:
    """One script being played. A new script is a new director: counts and clocks start anew."""

    def __init__(self, script: Script, *, clock: Callable[[], float]) -> None:
        self.script = script
        self._clock = clock
        self._started = clock()
        self._sequences = {name: deque(steps) for name, steps in script.sequences.items()}
        self._ladders = {
            name: _ladder(script.faults_of(name)) for name in ("openai", "anthropic", "gemini")
        }
        self._attempts: defaultdict[int, int] = defaultdict(int)
        self._bursts: dict[str, float] = {}

    def scripted(self, provider: Wire, query_id: str | None, prompt: int) -> Step | None:
        """What the script says of just this call; `None` leaves it to limits and chance.

        Args:
            provider: whose call it is.
            query_id: of a recorded prompt.
            prompt: hash of it.
        """
        script = self.script
        if script.outages:
            now_s = self._clock() - self._started
            for outage in script.outages:
                if outage.provider == provider and outage.from_s <= now_s < outage.to_s:
                    return outage.step
        if (always := self._always(query_id, prompt)) is not None:
            return always
        sequence = self._sequences.get(provider)
        return sequence.popleft() if sequence else None

    def _always(self, query_id: str | None, prompt: int) -> Step | None:
        queries = self.script.queries
        return (queries.get(query_id or "") or queries.get(f"{prompt:016x}")) if queries else None

    def without_flex(self, model: str, prompt: int) -> Step | None:
        """What the next attempt of this query gets in the flex lane, when chance has no room there.

        It comes before the limits: what finds no capacity uses nothing up.
        """
        share = self.script.flex_unavailable
        if not share:
            return None
        attempt = self._next_attempt(f"flex {model}", prompt)
        return _NO_FLEX if self._chance(_FLEX, model, prompt, attempt) < share else None

    def batched(self, provider: Wire, model: str, query_id: str | None, prompt: int) -> Step:
        """What becomes of a request of a batch when its turn comes."""
        if (always := self._always(query_id, prompt)) is not None:
            return always
        shares = self.script.batch_of(provider)
        retryably, fatally = shares.fails_retryably, shares.fails_fatally
        if not retryably and not fatally:
            return OK
        attempt = self._next_attempt(f"batch {model}", prompt)
        chance = self._chance(_IN_BATCH, model, prompt, attempt)
        if chance < retryably:
            return _FAILS
        return _FAILS_AGAIN if chance < retryably + fatally else OK

    def drawn(self, provider: Wire, model: str, prompt: int, output_tokens: int) -> Fate:
        """What chance has for the next attempt of this query at this model."""
        ladder = self._ladders[provider]
        latency = self.script.latency_of(provider)
        if not ladder and not latency.sigma:
            return Fate(OK, latency.median_s, latency.per_output_token_s * output_tokens)
        attempt = self._next_attempt(model, prompt)
        name = _rung(ladder, self._chance(_FAULT, model, prompt, attempt)) if ladder else None
        faults = self.script.faults_of(provider)
        step = self._rate_limited(model, faults, name == "rate_limited")
        if step is None:
            step = _STEPS[name] if name else OK
        fate = self.timed(provider, model, prompt, output_tokens, step, attempt)
        return fate if name != "slow" else fate._replace(spread_s=fate.spread_s + faults.slow_s)

    def timed(
        self,
        provider: Wire,
        model: str,
        prompt: int,
        output_tokens: int,
        step: Step,
        attempt: int = 0,
    ) -> Fate:
        """A step with the latency that it has; 429s come at once."""
        latency = self.script.latency_of(provider)
        if step.latency_s is not None:
            return Fate(step, step.latency_s)
        if step.status == 429:
            return Fate(step, 0.0)
        median_s = latency.median_s
        if latency.sigma:
            chance = self._chance(_LATENCY, model, prompt, attempt)
            median_s *= math.exp(latency.sigma * _NORMAL.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9)))
        return Fate(step, median_s, latency.per_output_token_s * output_tokens)

    def _rate_limited(self, model: str, faults: Faults, drawn: bool) -> Step | None:
        """The 429 of a burst that this call is in, or begins."""
        until = self._bursts.get(model, 0.0)
        if not drawn and not until:
            return None
        now = self._clock()
        if drawn and now >= until:
            until = self._bursts[model] = now + faults.burst_s
        elif now >= until:
            return None
        wait_s = max(faults.retry_after_s, until - now)
        return Step(kind="error", status=429, retry_after_s=wait_s)

    def _next_attempt(self, model: str, prompt: int) -> int:
        key = xxhash.xxh3_64_intdigest(model.encode(), prompt)
        self._attempts[key] += 1
        return self._attempts[key]

    def _chance(self, purpose: int, model: str, prompt: int, attempt: int) -> float:
        """A number in [0, 1), equal for equal arguments."""
        facts = struct.pack("<qqQq", self.script.seed, purpose, prompt, attempt)
        return xxhash.xxh3_64_intdigest(facts + model.encode()) / 2**64


def _ladder(faults: Faults) -> list[tuple[float, str]]:
    """Upper bounds of the shares that are not 0, stacked up from 0."""
    ladder: list[tuple[float, str]] = []
    height = 0.0
    for name in SHARES:
        share = getattr(faults, name)
        if share:
            height += share
            ladder.append((height, name))
    return ladder


def _rung(ladder: list[tuple[float, str]], chance: float) -> str | None:
    return next((name for bound, name in ladder if chance < bound), None)
