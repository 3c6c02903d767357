"""What the vendors saw: every request, when, about what, and how it ended.

Columns of plain numbers, about 60 bytes a request. Times are of the machine's monotonic clock,
which other processes on it share (`time.monotonic()`); wall times are derived from them. Keys are
numbered, never written.

A request of a batch comes into it when it is answered; it arrived when its batch was submitted.
Calls about batches are not in it: see `moa.replay.batches`.

Billed is what was begun to be sent: a whole answer in full, even if it was cut or lost on the way;
of a stream that broke off, its input and the share of the output that went out.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import orjson

from moa.catalog import Wire
from moa.replay.wire import Lane

Fate = Literal[
    "in_flight", "ok", "error", "reset", "hang", "cut_json", "empty", "refusal", "length",
    "client_left",
]  # fmt: skip
"""How a request ended, the vendor's kind of failure included."""

_FATES: tuple[Fate, ...] = (
    "in_flight", "ok", "error", "reset", "hang", "cut_json", "empty", "refusal", "length",
    "client_left",
)  # fmt: skip
_FATE_NUMBERS = {fate: number for number, fate in enumerate(_FATES)}
_PROVIDERS: tuple[Wire, ...] = ("openai", "anthropic", "gemini")
_LANES: tuple[Lane, ...] = ("live", "flex", "batch")
_BATCH = _LANES.index("batch")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request."""

    number: int
    """From 0, in order of arrival; of a batch's request, in order of its answer."""
    provider: Wire
    model: str
    """Catalog id; the API name of a model that was not recorded; `""` when it was not read."""
    query_id: str | None
    """Of a recorded prompt."""
    prompt: str
    """16 hex digits; `""` when it was not read."""
    arrived_s: float
    """Monotonic."""
    ended_s: float | None
    arrived_at: float
    """Seconds since 1970."""
    ended_at: float | None
    status: int
    """HTTP status; 0 when none was sent."""
    fate: Fate
    input_tokens: int
    """Billed."""
    output_tokens: int
    """Billed."""
    connection: int
    """From 1, in order of opening."""
    account: int
    """Its key's number: from 1, in order of first use; 0 when the request was not read."""
    lane: Lane
    batch: str
    """The id of its batch; `""` when it was asked by itself."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The greatest sums in any sliding window, each for itself, of what got no 429; batches are not
    counted."""

    requests: int
    input_tokens: int
    output_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The ledger at a glance."""

    requests: int
    by_status: dict[str, int]
    by_fate: dict[str, int]
    by_model: dict[str, int]
    by_lane: dict[str, int]
    tokens_by_lane: dict[str, tuple[int, int]]
    """Input and output, billed."""
    calls_per_query_max: int
    billed_per_query_max: int
    queries: int
    """Prompts asked at least once."""
    queries_answered: int
    """Prompts with at least one answer that went out whole, refusals included."""
    queries_billed_twice: int
    window_s: float
    window_requests_max: int
    """The greatest number in any sliding window, refused ones too."""
    peaks: dict[str, Peak]
    """By model."""
    account_peaks: dict[str, dict[str, Peak]]
    """By the number of the account, then by model: what vendors limit."""
    input_tokens: int
    output_tokens: int
    in_flight_max: int
    open_connections_max: int
    first_arrival_s: float | None
    last_end_s: float | None


class BatchAnswer(NamedTuple):
    """A request of a batch that was answered."""

    batch: str
    provider: Wire
    model: str
    prompt: int
    key: str
    fate: Fate
    input_tokens: int
    output_tokens: int
    arrived_s: float
    """Monotonic."""
    ended_s: float


class Ledger:
    """Grows by one row per request, in order of arrival.

    Args:
        query_id: prompt's hash → recorded query.
        file: gets a JSON line per request when it ends; survives the server.
    """

    def __init__(
        self, query_id: Callable[[int], str | None], *, file: BinaryIO | None = None
    ) -> None:
        self._query_id = query_id
        self._file = file
        self._wall_minus_monotonic = time.time() - time.monotonic()
        self._models: list[str] = [""]
        self._model_numbers: dict[str, int] = {"": 0}
        self.open_connections = 0
        self.clear()

    def clear(self) -> None:
        """Forget all; requests that are in flight leave no trace."""
        self._generation = getattr(self, "_generation", 0) + 1
        self._arrived, self._ended = array("d"), array("d")
        self._provider, self._fate = array("B"), array("B")
        self._model, self._status = array("H"), array("H")
        self._prompt = array("Q")
        self._input, self._output = array("I"), array("I")
        self._connection = array("I")
        self._account = array("H")
        self._lane = array("B")
        self._batches: dict[int, str] = {}
        self._accounts: dict[tuple[int, str], int] = {}
        self._in_flight = 0
        self.in_flight_max = 0
        self.open_connections_max = self.open_connections

    def __len__(self) -> int:
        return len(self._arrived)

    def connected(self) -> None:
        """A connection was opened."""
        self.open_connections += 1
        self.open_connections_max = max(self.open_connections_max, self.open_connections)

    def disconnected(self) -> None:
        """A connection was closed."""
        self.open_connections -= 1

    def begin(self, provider: Wire, connection: int) -> Ticket:
        """A request arrived."""
        row = self._append(provider, connection, time.monotonic())
        self._in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self._in_flight)
        return Ticket(self, row, self._generation)

    def _append(self, provider: Wire, connection: int, arrived_s: float) -> int:
        self._arrived.append(arrived_s)
        self._ended.append(0.0)
        self._provider.append(_PROVIDERS.index(provider))
        self._fate.append(0)
        self._model.append(0)
        self._status.append(0)
        self._prompt.append(0)
        self._input.append(0)
        self._output.append(0)
        self._connection.append(connection)
        self._account.append(0)
        self._lane.append(0)
        return len(self._arrived) - 1

    def answered_in_batch(self, answered: BatchAnswer) -> None:
        """A request of a batch was answered, and is billed."""
        row = self._append(answered.provider, 0, answered.arrived_s)
        self._batches[row] = answered.batch
        self.identify(row, answered.model, answered.prompt, answered.key, "batch")
        tokens = answered.input_tokens, answered.output_tokens
        self._write(row, 200, answered.fate, *tokens, answered.ended_s)

    def identify(self, row: int, model: str, prompt: int, key: str, lane: Lane = "live") -> None:
        """It was read."""
        self._lane[row] = _LANES.index(lane)
        number = self._model_numbers.get(model)
        if number is None:
            number = self._model_numbers[model] = len(self._models)
            self._models.append(model)
        self._model[row] = number
        self._prompt[row] = prompt
        account = (self._provider[row], key)
        self._account[row] = self._accounts.setdefault(account, len(self._accounts) + 1)

    def end(self, row: int, status: int, fate: Fate, input_tokens: int, output_tokens: int) -> None:
        """It was answered, or will not be."""
        self._write(row, status, fate, input_tokens, output_tokens, time.monotonic())
        self._in_flight -= 1

    def _write(
        self,
        row: int,
        status: int,
        fate: Fate,
        input_tokens: int,
        output_tokens: int,
        ended_s: float,
    ) -> None:
        self._ended[row] = ended_s
        self._status[row] = status
        self._fate[row] = _FATE_NUMBERS[fate]
        self._input[row] = input_tokens
        self._output[row] = output_tokens
        if self._file is not None:
            self._file.write(orjson.dumps(asdict(self.entry(row))) + b"\n")

    def account(self, provider: Wire, key: str) -> int:
        """A key's number; 0 when nothing of it has been read."""
        return self._accounts.get((_PROVIDERS.index(provider), key), 0)

    def holds(self, generation: int) -> bool:
        """Whether it was not emptied since."""
        return generation == self._generation

    def entry(self, row: int) -> Entry:
        """One request."""
        prompt, model = self._prompt[row], self._models[self._model[row]]
        wall = self._wall_minus_monotonic
        ended = self._ended[row] if self._fate[row] else None
        return Entry(
            number=row,
            provider=_PROVIDERS[self._provider[row]],
            model=model,
            query_id=self._query_id(prompt),
            prompt=f"{prompt:016x}" if model else "",
            arrived_s=self._arrived[row],
            ended_s=ended,
            arrived_at=self._arrived[row] + wall,
            ended_at=None if ended is None else ended + wall,
            status=self._status[row],
            fate=_FATES[self._fate[row]],
            input_tokens=self._input[row],
            output_tokens=self._output[row],
            connection=self._connection[row],
            account=self._account[row],
            lane=_LANES[self._lane[row]],
            batch=self._batches.get(row, ""),
        )

    def entries(self) -> Iterator[Entry]:
        """All requests, in order of arrival."""
        return map(self.entry, range(len(self)))

    def summary(self, window_s: float = 60.0) -> Summary:
        """What tests ask for most; `window_s` is the length of the sliding windows."""
        read = np.asarray(self._model) > 0
        billed = np.asarray(self._input) > 0
        prompts = np.asarray(self._prompt)
        arrived = np.asarray(self._arrived)
        ended = np.asarray(self._ended)
        lanes = np.asarray(self._lane)
        called = lanes != _BATCH
        spent_in = np.asarray(self._input, dtype=np.int64)
        spent_out = np.asarray(self._output, dtype=np.int64)
        whole = np.isin(np.asarray(self._fate), [_FATE_NUMBERS[f] for f in _WHOLE])
        calls, bills = _per_query(prompts[read]), _per_query(prompts[read & billed])
        return Summary(
            requests=len(self),
            by_status={str(k): n for k, n in sorted(Counter(self._status).items())},
            by_fate={_FATES[k]: n for k, n in sorted(Counter(self._fate).items())},
            by_model={self._models[k]: n for k, n in sorted(Counter(self._model).items())},
            by_lane={_LANES[k]: n for k, n in sorted(Counter(self._lane).items())},
            tokens_by_lane={
                name: (int(spent_in[lanes == k].sum()), int(spent_out[lanes == k].sum()))
                for k, name in enumerate(_LANES)
                if (lanes == k).any()
            },
            calls_per_query_max=int(calls.max(initial=0)),
            billed_per_query_max=int(bills.max(initial=0)),
            queries=len(calls),
            queries_answered=len(_per_query(prompts[read & whole])),
            queries_billed_twice=int((bills > 1).sum()),
            window_s=window_s,
            window_requests_max=_peak(arrived[called], np.ones(called.sum(), np.int64), window_s),
            peaks=self._peaks(window_s, read & called),
            account_peaks={
                str(number): self._peaks(window_s, called & (np.asarray(self._account) == number))
                for number in self._accounts.values()
            },
            input_tokens=int(spent_in.sum()),
            output_tokens=int(spent_out.sum()),
            in_flight_max=self.in_flight_max,
            open_connections_max=self.open_connections_max,
            first_arrival_s=float(arrived.min()) if len(arrived) else None,
            last_end_s=float(ended.max()) if ended.any() else None,
        )

    def _peaks(self, window_s: float, counted: np.ndarray) -> dict[str, Peak]:
        """By model, of the requests that are counted."""
        models = np.asarray(self._model)
        passed = counted & (np.asarray(self._status) != 429)
        arrived = np.asarray(self._arrived)
        spent_in = np.asarray(self._input, dtype=np.int64)
        spent_out = np.asarray(self._output, dtype=np.int64)
        peaks = {}
        for number, name in enumerate(self._models[1:], start=1):
            mine = (models == number) & passed
            if mine.any():
                at, one_in, one_out = arrived[mine], spent_in[mine], spent_out[mine]
                peaks[name] = Peak(
                    requests=_peak(at, np.ones(len(at), np.int64), window_s),
                    input_tokens=_peak(at, one_in, window_s),
                    output_tokens=_peak(at, one_out, window_s),
                    tokens=_peak(at, one_in + one_out, window_s),
                )
        return peaks


_WHOLE: tuple[Fate, ...] = ("ok", "refusal", "length")


@dataclass(slots=True)
class Ticket:
    """One request's hold on the ledger; does nothing once the ledger was emptied."""

    ledger: Ledger
    row: int
    generation: int
    ended: bool = False

    def identify(self, model: str, prompt: int, key: str, lane: Lane = "live") -> None:
        """See `Ledger.identify`."""
        if self.ledger.holds(self.generation):
            self.ledger.identify(self.row, model, prompt, key, lane)

    def end(self, status: int, fate: Fate, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """See `Ledger.end`; only the first end counts."""
        if not self.ended and self.ledger.holds(self.generation):
            self.ledger.end(self.row, status, fate, input_tokens, output_tokens)
        self.ended = True


def _per_query(prompts: np.ndarray) -> np.ndarray:
    return np.unique(prompts, return_counts=True)[1]


def _peak(at: np.ndarray, amounts: np.ndarray, window_s: float) -> int:
    """The greatest sum of `amounts` in any half-open window of `window_s`, by its first moment."""
    if not len(at):
        return 0
    sums = np.concatenate([[0], np.cumsum(amounts)])
    ends = np.searchsorted(at, at + window_s, side="left")
    return int((sums[ends] - sums[:-1]).max())
