"""Every query is in one batch of its model within all limits, or is said to be in none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.dispatch.batch_file import BatchFile, BatchNames, cut, halves, request_of, share
from moa.dispatch.outcome import Assignment
from moa.errors import InvalidRequest
from moa.prices import PriceTable
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchLimits, BatchProvider
from moa.providers.openai_batch import OpenAIBatches
from moa.providers.provider import Request
from moa.request import ChatRequest
from tests.dispatch.batch_night import CATALOG, KINDS, MODELS, OTHER, VERTEX, asked

NAMES = BatchNames("file:///runs/mine")
MINI = MODELS["openai"]
PRICES = PriceTable.build([*MODELS.values(), OTHER], lanes=("live", "batch"))
NO_LIMIT: dict[str, float] = {}


class Tight:
    """A vendor's lines, within limits that a test can reach."""

    def __init__(self, provider: BatchProvider, limits: BatchLimits) -> None:
        self._provider = provider
        self.limits = limits

    def __getattr__(self, name: str) -> object:
        return getattr(self._provider, name)


def tight(provider: BatchProvider, requests: int, size_bytes: int) -> BatchProvider:
    made: BatchProvider = Tight(provider, BatchLimits(requests, size_bytes))  # type: ignore[assignment] # of __getattr__ nothing is known
    return made


@pytest.fixture
async def openai() -> BatchProvider:
    return open_batches(CATALOG.accounts["openai"], environ={"OPENAI_API_KEY": "k"})


def line(one: Assignment, provider: BatchProvider) -> bytes:
    return provider.line(NAMES.custom_id(one.partition, one.row), request_of(one))


def wordy(row: int, letters: int, tokens: float, other: bool) -> Assignment:
    one = asked(row, OTHER if other else MINI)
    words = [{"role": "user", "content": "x" * letters}]
    choice = one.choices[0]._replace(input_tokens=tokens)
    chat = ChatRequest.model_validate({"messages": words})
    return replace(one, request=chat.canonical(), choices=(choice,))


QUERIES = st.lists(
    st.tuples(st.integers(1, 400), st.floats(0, 60), st.booleans()), max_size=25
).map(lambda found: [wordy(row, *one) for row, one in enumerate(found)])


@settings(max_examples=100)
@given(
    QUERIES,
    st.integers(1, 6),
    st.integers(200, 1500),
    st.none() | st.floats(1, 100),
)
def test_every_row_is_in_one_file_or_unfit_and_no_limit_is_exceeded(
    queries: list[Assignment], requests: int, size_bytes: int, tokens: float | None
) -> None:
    provider = tight(_lines(), requests, size_bytes)
    most = NO_LIMIT if tokens is None else {MINI.id: tokens}

    files, unfit = cut(queries, provider, PRICES, NAMES, most_tokens=most)

    by_row = {one.row: one for one in queries}
    rows = [row for file in files for row in file.rows] + [one.row for one in unfit]
    assert Counter(rows) == Counter(list(by_row))
    for file in files:
        inside = [by_row[row] for row in file.rows]
        assert {one.choices[0].model.id for one in inside} == {file.model.id}
        assert 1 <= len(inside) <= requests
        assert sum(len(line(one, provider)) for one in inside) <= size_bytes
        assert file.input_tokens <= most.get(file.model.id, float("inf")) * (1 + 1e-9)
        assert file.expected_usd == sum(map(_expected_usd, inside), Decimal(0))
        assert list(file.rows) == sorted(file.rows)
    for one in unfit:
        too_long = one.choices[0].input_tokens > most.get(one.choices[0].model.id, float("inf"))
        assert too_long or len(line(one, provider)) > size_bytes


def _lines() -> BatchProvider:
    """OpenAI's lines, without a connection."""
    lines: BatchProvider = OpenAIBatches.__new__(OpenAIBatches)
    lines.name = "openai"
    return lines


def _expected_usd(one: Assignment) -> Decimal:
    choice = one.choices[0]
    return PRICES.cost_usd(
        choice.model.id, "batch", input_tokens=round(choice.input_tokens),
        output_tokens=round(choice.output_tokens),
    )  # fmt: skip


async def test_files_are_no_more_than_it_takes(openai: BatchProvider) -> None:
    queries = [asked(row, MINI) for row in range(10)]

    by_number, _ = cut(queries, tight(openai, 4, 10**6), PRICES, NAMES, most_tokens=NO_LIMIT)
    by_tokens, _ = cut(queries, openai, PRICES, NAMES, most_tokens={MINI.id: 30})
    whole, _ = cut(queries, openai, PRICES, NAMES, most_tokens=NO_LIMIT)
    await openai.close()

    assert [len(file.rows) for file in by_number] == [4, 4, 2]
    assert [len(file.rows) for file in by_tokens] == [3, 3, 3, 1]
    assert [file.rows for file in whole] == [tuple(range(10))]


async def test_what_costs_more_than_a_query_may_is_unfit(openai: BatchProvider) -> None:
    queries = [asked(row, MINI) for row in range(3)]
    usd = cut(queries, openai, PRICES, NAMES, most_tokens=NO_LIMIT)[0][0].expected_usd / 3

    enough, _ = cut(queries, openai, PRICES, NAMES, most_tokens=NO_LIMIT, most_usd=usd)
    too_little = cut(queries, openai, PRICES, NAMES, most_tokens=NO_LIMIT, most_usd=usd * 9 / 10)
    await openai.close()

    assert [file.rows for file in enough] == [(0, 1, 2)]
    assert too_little == ([], queries)


async def test_what_a_vendor_cannot_do_is_unfit(openai: BatchProvider) -> None:
    class Strict(Tight):
        def line(self, custom_id: str, request: Request) -> bytes:
            if custom_id.endswith("-1"):
                raise InvalidRequest("no such thing here")
            return self._provider.line(custom_id, request)

    strict: BatchProvider = Strict(openai, openai.limits)  # type: ignore[assignment] # see `tight`
    queries = [asked(row, MINI) for row in range(3)]

    files, unfit = cut(queries, strict, PRICES, NAMES, most_tokens=NO_LIMIT)
    await openai.close()

    assert [file.rows for file in files] == [(0, 2)]
    assert [one.row for one in unfit] == [1]


@given(st.integers(2, 50), st.data())
def test_halves_and_shares_lose_nothing(count: int, data: st.DataObject) -> None:
    usd = data.draw(st.decimals(0, 100, places=12))
    file = BatchFile(MINI, tuple(range(count)), usd, count * 3.0, count * 7.0)

    first, second = halves(file)
    some = tuple(data.draw(st.sets(st.sampled_from(file.rows))))
    part = share(file, some)

    assert first.rows + second.rows == file.rows
    assert first.rows
    assert second.rows
    assert abs(first.expected_usd + second.expected_usd - usd) < Decimal("1e-20")
    assert first.input_tokens + second.input_tokens == pytest.approx(file.input_tokens)
    assert part.output_tokens == pytest.approx(7 * len(some))
    assert share(file, ()).expected_usd == 0


@given(st.integers(0, 10**6), st.integers(0, 10**9))
def test_a_row_is_found_again_by_its_custom_id(partition: int, row: int) -> None:
    custom_id = NAMES.custom_id(partition, row)

    assert len(custom_id) <= 64
    assert NAMES.row(custom_id, partition) == row
    assert NAMES.row(custom_id, partition + 1) is None
    assert BatchNames("file:///runs/other").row(custom_id, partition) is None


@pytest.mark.parametrize(
    "strange",
    [
        "",
        "-",
        "a-0-1",
        "request-1",
        "17",
        "None",
        "{run}-0-x",
        "{run}-0-²",
        "{run}-0-07",
        "{run}-0--7",
    ],
)
def test_a_custom_id_that_is_nobodys_is_no_row(strange: str) -> None:
    run = NAMES.custom_id(0, 0).partition("-")[0]

    assert NAMES.row(strange.replace("{run}", run), 0) is None


def test_names_differ_between_runs_and_fit_every_vendor() -> None:
    ours, theirs = NAMES.reference("a1"), BatchNames("file:///runs/other").reference("a1")

    assert ours != theirs
    assert set(ours) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_vendor_takes_our_custom_ids(kind: str) -> None:
    account = VERTEX if kind == "vertex" else CATALOG.accounts[MODELS[kind].provider]
    environ = {name: "k" for name in (account.api_key_env, account.project_env) if name}
    provider = open_batches(account, environ=environ)
    one = replace(asked(2**40, MODELS[kind]), partition=2**31 - 1)

    files, unfit = cut([one], provider, PRICES, NAMES, most_tokens=NO_LIMIT)
    await provider.close()

    assert [file.rows for file in files] == [(2**40,)]
    assert unfit == []
