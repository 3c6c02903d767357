"""What every vendor's batches do alike, against the replay server.

A test file runs it by making a subclass whose name begins with `Test` and a fixture `buyer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import orjson
import pyarrow.parquet as pq
import pytest

from moa.catalog import Account, Model
from moa.errors import (
    AccountRefused,
    ConfigError,
    InvalidRequest,
    ProviderError,
    QuotaSpent,
    TransientError,
)
from moa.providers.accounts import open_batches, open_provider
from moa.providers.batch import BatchProvider, BatchStatus
from moa.providers.provider import Completion, Request
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from tests.providers.dialects import a_chat

KEY = "key-5e1f0ddba11"
COUNT = 12


def _prompts(count: int) -> list[str]:
    """Recorded ones, which every model answered."""
    rows = pq.read_table("moa/recordings/completions.parquet", columns=["query_id", "model"])
    everybody = [("model", "=", "anthropic/claude-3-haiku")]
    ids = pq.read_table(
        "moa/recordings/completions.parquet", columns=["query_id"], filters=everybody
    )["query_id"].to_pylist()[:count]
    assert rows.num_rows > len(ids) == count
    table = pq.read_table("moa/recordings/queries.parquet", filters=[("query_id", "in", ids)])
    return [str(prompt) for prompt in table["prompt"].to_pylist()]


PROMPTS = _prompts(COUNT)


@dataclass(frozen=True)
class Buyer:
    """Whose batches are bought, of which model."""

    account: Account
    model: Model
    server: ReplayServer

    @property
    def environ(self) -> dict[str, str]:
        names = (self.account.api_key_env, self.account.project_env)
        return {name: KEY for name in names if name}

    @property
    def base_url(self) -> str:
        return self.server.base_url(self.account.wire)

    def open(self) -> BatchProvider:
        return open_batches(self.account, environ=self.environ, base_url=self.base_url)

    def request(self, prompt: str, lane: str = "batch", **fields: object) -> Request:
        chat = a_chat(messages=[{"role": "user", "content": prompt}], **fields)
        return Request("q", chat, self.model, lane)

    def script(self, **batch: object) -> None:
        self.server.set_script({"batch": {"waits_s": 0, "takes_s": 0, **batch}})


def lines_of(buyer: Buyer, batches: BatchProvider, count: int = COUNT) -> list[bytes]:
    return [
        batches.line(f"row-{number}", buyer.request(prompt))
        for number, prompt in enumerate(PROMPTS[:count])
    ]


async def ended(batches: BatchProvider, batch_id: str) -> BatchStatus:
    async with asyncio.timeout(20):
        while (status := await batches.look(batch_id)).state != "ended":  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.02)
    return status


async def fetched(
    batches: BatchProvider, status: BatchStatus
) -> dict[str, Completion | ProviderError]:
    results = [result async for result in batches.results(status)]
    found = dict(results)
    assert len(found) == len(results), "a custom_id came back twice"
    return found


def answers(results: dict[str, Completion | ProviderError]) -> dict[str, Completion]:
    return {key: value for key, value in results.items() if isinstance(value, Completion)}


def errors(results: dict[str, Completion | ProviderError]) -> dict[str, ProviderError]:
    return {key: value for key, value in results.items() if isinstance(value, ProviderError)}


def ago(seconds: float = 0) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def says_nothing_of(prompts: Sequence[str], error: ProviderError) -> bool:
    return KEY not in str(error) and not any(prompt[:40] in str(error) for prompt in prompts)


class BatchContract:
    """The contract."""

    keeps_when_expired = True

    @pytest.fixture
    async def batches(self, buyer: Buyer) -> AsyncIterator[BatchProvider]:
        buyer.script()
        batches = buyer.open()
        yield batches
        await batches.close()

    async def test_answers_are_those_of_live_calls(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="run-1_2")
        results = await fetched(batches, await ended(batches, batch_id))

        live = open_provider(buyer.account, environ=buyer.environ, base_url=buyer.base_url)
        try:
            calls = [live.complete(buyer.request(p, "live"), timeout_s=20) for p in PROMPTS]
            expected = [answer.completion for answer in await asyncio.gather(*calls)]
        finally:
            await live.close()
        assert set(results) == {f"row-{number}" for number in range(COUNT)}
        for number, completion in enumerate(expected):
            bought = answers(results)[f"row-{number}"]
            assert (bought.text, bought.usage) == (completion.text, completion.usage)

    async def test_a_status_says_how_much_was_answered_and_when(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        before = ago(2)
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")

        status = await ended(batches, batch_id)

        assert status.id == batch_id
        assert (status.end, status.error) == ("completed", None)
        assert (status.requests, status.answered, status.failed) in ((COUNT, COUNT, 0), (0, 0, 0))
        assert status.results is not None
        assert status.created_at is not None
        assert status.ended_at is not None
        assert before <= status.created_at <= ago(-2)
        assert status.ended_at >= status.created_at.replace(microsecond=0)

    async def test_a_batch_that_runs_has_not_ended(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(takes_s=600)

        status = await batches.look(
            await batches.submit(buyer.model, lines_of(buyer, batches, 2), reference="r")
        )

        assert status.state in ("waiting", "running")
        assert (status.end, status.ended_at, status.results) == (None, None, None)

    async def test_a_batch_whose_submission_was_not_answered_is_found(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(lost_submissions=1)
        since = ago()

        with pytest.raises(TransientError) as caught:
            await batches.submit(buyer.model, lines_of(buyer, batches), reference="lost-1")
        (status,) = await batches.find("lost-1", since=since, requests=COUNT)
        results = await fetched(batches, await ended(batches, status.id))

        assert caught.value.maybe_billed
        assert len(answers(results)) == COUNT
        assert len(buyer.server.batches()) == 1

    async def test_an_upload_that_was_not_answered_is_made_again_and_bought_once(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(lost_uploads=1)
        lines = lines_of(buyer, batches)

        said: list[TransientError] = []
        try:
            batch_id = await batches.submit(buyer.model, lines, reference="r-1")
        except TransientError as error:
            said.append(error)
            batch_id = await batches.submit(buyer.model, lines, reference="r-2")

        assert not any(error.maybe_billed for error in said)
        assert len(answers(await fetched(batches, await ended(batches, batch_id)))) == COUNT
        assert len(buyer.server.batches()) == 1

    async def test_what_was_never_submitted_is_not_found(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        await batches.submit(buyer.model, lines_of(buyer, batches, 3), reference="other")

        assert await batches.find("mine", since=ago(), requests=COUNT) == []

    async def test_a_batch_is_found_behind_many_others(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        lines = lines_of(buyer, batches, 2)
        wanted = await batches.submit(buyer.model, lines, reference="wanted")
        async with asyncio.TaskGroup() as group:
            for number in range(120):
                group.create_task(
                    batches.submit(buyer.model, lines[:1], reference=f"other-{number}")
                )

        found = await batches.find("wanted", since=ago(60), requests=2)

        assert [status.id for status in found] == [wanted]

    async def test_rows_that_an_expired_batch_had_answered_are_kept(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(fates=["expires"], unfinished_when_expired=0.25, time_scale=1e6)

        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")
        status = await ended(batches, batch_id)
        results = await fetched(batches, status)

        assert status.end == "expired"
        assert len(answers(results)) == (9 if self.keeps_when_expired else 0)
        for error in errors(results).values():
            assert type(error) is TransientError
            assert not error.maybe_billed

    async def test_a_stuck_batch_can_be_cancelled_and_what_it_had_answered_is_kept(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(fates=["stuck"], finished_when_stuck=0.5, cancel_takes_s=0.2)
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")

        await batches.cancel(batch_id)
        await batches.cancel(batch_id)
        during = await batches.look(batch_id)
        status = await ended(batches, batch_id)
        results = await fetched(batches, status)

        assert during.state in ("cancelling", "running", "ended")
        assert status.end == "cancelled"
        assert len(answers(results)) == COUNT / 2
        assert {type(error) for error in errors(results).values()} <= {TransientError}
        assert sum(batch["answered"] for batch in buyer.server.batches()) == COUNT / 2

    async def test_a_batch_that_has_ended_is_left_as_it_is_by_a_cancel(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches, 2), reference="r")
        await ended(batches, batch_id)

        await batches.cancel(batch_id)

        assert (await batches.look(batch_id)).end == "completed"

    @pytest.mark.parametrize(
        ("share", "kind"), [("fails_fatally", InvalidRequest), ("fails_retryably", TransientError)]
    )
    async def test_a_failed_row_says_whether_it_would_fail_again(
        self, buyer: Buyer, batches: BatchProvider, share: str, kind: type[ProviderError]
    ) -> None:
        buyer.script(**{share: 1})

        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")
        results = await fetched(batches, await ended(batches, batch_id))

        assert len(results) == COUNT
        for error in errors(results).values():
            assert isinstance(error, kind)
            assert not error.maybe_billed
            assert says_nothing_of(PROMPTS, error)
        assert len(errors(results)) == COUNT

    async def test_a_full_queue_is_a_quota_that_is_spent(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(fates=["queue_full"])

        error = await self._whole_failure(buyer, batches)

        assert isinstance(error, QuotaSpent)
        assert not error.maybe_billed
        assert len(buyer.server.batches()) <= 1

    async def test_a_file_that_is_none_would_be_none_again(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.script(fates=["invalid"])

        error = await self._whole_failure(buyer, batches)

        assert isinstance(error, InvalidRequest)
        assert says_nothing_of(PROMPTS, error)

    async def _whole_failure(self, buyer: Buyer, batches: BatchProvider) -> ProviderError:
        """Some vendors say no at once, others when they have looked at the file."""
        try:
            batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")
        except ProviderError as error:
            return error
        status = await ended(batches, batch_id)
        assert status.end == "failed"
        assert status.error is not None
        return status.error

    async def test_a_batch_that_there_is_none_of_would_be_none_again(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches, 1), reference="r")

        with pytest.raises(InvalidRequest):
            await batches.look(batch_id[:-3] + "000")

    async def test_a_refused_key_stops_before_anything_is_bought(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        buyer.server.set_script({"refused_keys": [KEY]})

        with pytest.raises(AccountRefused) as caught:
            await batches.submit(buyer.model, lines_of(buyer, batches, 1), reference="r")

        assert not caught.value.maybe_billed
        assert says_nothing_of(PROMPTS, caught.value)
        assert buyer.server.batches() == []

    async def test_where_nobody_listens_nothing_was_bought(self, buyer: Buyer) -> None:
        batches = open_batches(
            buyer.account, environ=buyer.environ, base_url="http://127.0.0.1:9/v1"
        )
        try:
            with pytest.raises(TransientError) as caught:
                await batches.look("batches/0")
        finally:
            await batches.close()

        assert not caught.value.maybe_billed

    async def test_a_vendor_that_is_out_is_asked_again_later(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches, 1), reference="r")
        # aiohttp asks once more by itself where a connection that it had kept is closed.
        down = [{"status": 503}, "reset", "reset", "cut_json"]
        buyer.server.set_script({"sequences": {buyer.account.wire: down}})

        for _ in range(3):
            with pytest.raises(TransientError) as caught:
                await batches.look(batch_id)
            assert not caught.value.maybe_billed

        assert (await batches.look(batch_id)).id == batch_id

    async def test_what_it_left_with_the_vendor_can_be_deleted_twice(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches, 2), reference="r")
        status = await ended(batches, batch_id)
        assert len(await fetched(batches, status)) == 2

        await batches.forget(status)
        await batches.forget(status)

        try:
            left = await fetched(batches, status)
        except ProviderError:
            left = {}
        assert left == {}

    async def test_results_can_be_read_in_part_and_again(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")
        status = await ended(batches, batch_id)

        async with aclosing(batches.results(status)) as results:  # type: ignore[type-var]
            async for _ in results:
                break

        assert len(await fetched(batches, status)) == COUNT

    async def test_another_process_finds_what_one_has_submitted(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        batch_id = await batches.submit(buyer.model, lines_of(buyer, batches), reference="r")

        other = buyer.open()
        try:
            results = await fetched(other, await ended(other, batch_id))
        finally:
            await other.close()

        assert len(answers(results)) == COUNT

    def test_a_line_holds_the_request_of_a_live_call(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        request = buyer.request("Line one\nline two", max_output_tokens=7)

        line = batches.line("a-1_B", request)

        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        document = orjson.loads(line)
        assert "a-1_B" in document.values()
        assert line == batches.line("a-1_B", replace(request, lane="live"))
        assert b"stream" not in line
        assert b"service_tier" not in line

    @pytest.mark.parametrize("custom_id", ["", "a b", "a.b", "ü", "x" * 65, "a\n"])
    def test_an_id_that_not_every_vendor_takes_is_a_mistake(
        self, buyer: Buyer, batches: BatchProvider, custom_id: str
    ) -> None:
        with pytest.raises(ValueError, match="custom_id"):
            batches.line(custom_id, buyer.request("Hi"))

    def test_what_the_vendor_cannot_do_is_refused_before_the_batch(
        self, buyer: Buyer, batches: BatchProvider
    ) -> None:
        two_participants = [{"role": "user", "content": "Hi", "name": "Ann"}]
        chat = ChatRequest.model_validate(
            {"messages": two_participants, "logprobs": True, "seed": 1, "temperature": 2}
        )
        if buyer.account.wire == "openai":
            chat = a_chat(messages=[_picture("ftp://example.com/a.png")])

        with pytest.raises(InvalidRequest):
            batches.line("a", Request("q", chat, buyer.model, "batch"))

    def test_limits_hold_for_the_vendor(self, buyer: Buyer, batches: BatchProvider) -> None:
        assert batches.name == buyer.account.name
        assert batches.limits.requests >= 50_000
        assert 200_000_000 <= batches.limits.bytes <= 1_000_000_000

    def test_an_account_without_its_variables_is_found_before_the_first_call(
        self, buyer: Buyer
    ) -> None:
        with pytest.raises(ConfigError):
            open_batches(buyer.account, environ={})


def _picture(url: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
