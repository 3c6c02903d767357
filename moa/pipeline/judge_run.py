"""Questions to a judge → what it said, by a run of its own: with the limits, the budget, the
journal and the bill that every run has.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from moa.catalog import load_catalog
from moa.config import (
    PolicyConfig,
    QueryLogConfig,
    ReportConfig,
    RouteBatchConfig,
    RouterConfig,
    RunConfig,
)
from moa.errors import RunError
from moa.grading.grader import Grade
from moa.grading.judge import (
    MOST_OUTPUT_TOKENS,
    UNREADABLE,
    Order,
    Winner,
    comparing_question,
    grading_question,
    mark_of,
    of_both_orders,
    read_grade,
    read_winner,
)
from moa.pipeline.judge_config import JudgeOutcomesConfig
from moa.pipeline.judged_answers import JudgedAnswer
from moa.pipeline.run import run_job
from moa.router.artifact import Artifact, read_artifact, write_artifact
from moa.router.facts import NO_GRADE, installed
from moa.storage.merged_run import MergedRun
from moa.storage.object_store import Folder
from moa.storage.run_folder import RunFolder

ORDERS: tuple[Order, Order] = ("a_first", "b_first")
LATER = "it was answered after the judging had begun"
REPLAYED = ", replayed: nothing was paid"
SHIPPED = "moa/router/embedded"
VERDICT_TOKENS = 200
"""Of a few sentences and a line. Assumed; once answers come in, a run goes by what they really
have."""
_CARD = f"""\
# Model card

Made for a judge's run: it expects a verdict of {VERDICT_TOKENS} tokens, at most
{MOST_OUTPUT_TOKENS}, whatever the question, and knows nothing of grades.
"""
_FILE_ROWS = 10_000
_LOG = pa.schema(
    [
        ("query_id", pa.string()), ("system", pa.string()), ("prompt", pa.string()),
        ("max_output_tokens", pa.int32()), ("temperature", pa.float64()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """Of one answer or pair."""

    grade: Grade
    winner: Winner | None = None
    """Of a pair."""
    by_order: tuple[Winner, Winner] | None = None
    """What was said when the first one was shown first, and when it was second."""


class JudgeRun:
    """One run of a judge."""

    def __init__(self, config: JudgeOutcomesConfig, name: str) -> None:
        self._config, self._name = config, name
        self._folder = Folder(config.folder)
        self._run = RunFolder(f"{config.folder.rstrip('/')}/{name}")
        self.bill: list[str] = []
        """What the run has to say of its money, in lines."""

    def ask(
        self,
        answers: Iterable[JudgedAnswer],
        *,
        environ: Mapping[str, str],
        budget_usd: Decimal | None,
    ) -> dict[str, Said]:
        """Ask about each, or go on with that. Query → what was said.

        Raises:
            ConfigError, ArtifactError, RunError, KeyRefused, Interrupted: as `run_job`.
        """
        answers = list(answers)
        if not answers:
            return {}
        self._folder.create(f"{self._name}.salt", secrets.token_bytes(32))
        salt = self._folder.read(f"{self._name}.salt")
        assert salt is not None, "it was just made"
        if self._run.first_start() is None:
            self._write(answers, salt)
        finished = run_job(self._job(budget_usd), environ=environ)
        self.bill = self._bill(finished.page)
        replies = self._replies()
        return {one.query_id: self._said(one, replies, salt) for one in answers}

    def spent_usd(self) -> Decimal:
        """What it has cost so far; nothing where it has not finished."""
        return MergedRun(self._run).spent_usd()

    def _job(self, budget_usd: Decimal | None) -> RouteBatchConfig:
        config = self._config
        if budget_usd is not None and budget_usd <= 0:
            raise RunError(
                f"dispatch.budget_usd of ${config.dispatch.budget_usd} is spent: raise it, and the "
                "same command goes on"
            )
        return RouteBatchConfig(
            catalog=config.catalog,
            pool=[config.judge],
            run=RunConfig(id=self._name, folder=config.folder),
            queries=QueryLogConfig(path=f"{self._folder.url}/{self._name}.questions"),
            prices=config.prices,
            router=RouterConfig(
                artifact=f"{self._folder.url}/{self._name}.router",
                usd_per_hour=config.usd_per_hour,
            ),
            policy=PolicyConfig(willingness_to_pay=Decimal(0)),
            dispatch=config.dispatch.model_copy(update={"budget_usd": budget_usd}),
            report=ReportConfig(title=f"{config.judge} judges {config.run}"),
            replay=config.replay,
        )

    def _write(self, answers: Iterable[JudgedAnswer], salt: bytes) -> None:
        """Its router and its query log. A run that has begun keeps those that it has."""
        write_judge_router(self._folder, f"{self._name}.router", self._config.judge)
        (judge,) = load_catalog(self._config.catalog).of(
            [self._config.judge], key="judge", path=self._config.catalog
        )
        temperature = 0.0 if "temperature" in judge.abilities else None
        rows = (row for one in answers for row in self._questions(one, salt))
        number = 0
        while some := list(islice(rows, _FILE_ROWS)):
            asked = {"max_output_tokens": MOST_OUTPUT_TOKENS, "temperature": temperature}
            table = pa.Table.from_pylist([{**row, **asked} for row in some], schema=_LOG)
            self._folder.put_table(f"{self._name}.questions/{number:06d}.parquet", table)
            number += 1

    def _questions(self, one: JudgedAnswer, salt: bytes) -> Iterator[dict[str, Any]]:
        rubric = self._config.rubric
        for order in ORDERS if one.other_model is not None else (None,):
            name = question_id(one, order)
            mark = mark_of(salt, name)
            question = (
                grading_question(rubric, one.asked, mark)
                if order is None
                else comparing_question(rubric, one.asked, order, mark)
            )
            yield {"query_id": name, **question._asdict()}

    def _bill(self, page: str) -> list[str]:
        manifest = self._run.manifest()
        assert manifest is not None, "it has finished"
        outcomes: Mapping[str, int] = manifest["outcomes"]
        answered, paid = (
            outcomes.get("answered", 0),
            "" if self._config.replay is None else REPLAYED,
        )
        return [
            f"{self._config.judge} was asked {sum(outcomes.values()):,} questions and answered "
            f"{answered:,}: ${self.spent_usd():.4f} at list prices{paid}",
            f"report: {page}",
        ]

    def _replies(self) -> dict[str, Grade | str]:
        """Question → what was said, or why nothing was."""
        found: dict[str, Grade | str] = {}
        for table in MergedRun(self._run).outcomes():
            for row in table.select(["query_id", "status", "completion", "reason"]).to_pylist():
                if row["status"] == "answered":
                    found[row["query_id"]] = row["completion"] or ""
                else:
                    why = row["reason"] or "its vendor filtered the question or the verdict"
                    found[row["query_id"]] = Grade(None, f"the judge did not answer: {why}")
        return found

    @staticmethod
    def _said(one: JudgedAnswer, replies: Mapping[str, Grade | str], salt: bytes) -> Said:
        orders = ORDERS if one.other_model is not None else (None,)
        names = [question_id(one, order) for order in orders]
        texts = []
        for name in names:
            reply = replies.get(name, Grade(None, LATER))
            if isinstance(reply, Grade):
                return Said(reply)
            texts.append(reply)
        marks = [mark_of(salt, name) for name in names]
        if one.other_model is None:
            return Said(read_grade(texts[0], marks[0]))
        winners = [read_winner(*parts) for parts in zip(texts, ORDERS, marks, strict=True)]
        first, second = winners
        if first is None or second is None:
            return Said(Grade(None, UNREADABLE))
        return Said(Grade(None), of_both_orders(first, second), (first, second))


def run_name(run_id: str, config: JudgeOutcomesConfig, *more: object) -> str:
    """A run's id: other questions, another run.

    Args:
        run_id: of the run that is judged.
        config: of the judge.
        more: what the questions depend on besides.
    """
    how = [config.judge, config.rubric, config.against, sorted(config.tags)]
    asked: list[object] = [*how, config.show_reference, config.run, *more]
    digest = hashlib.sha256(orjson.dumps(asked)).hexdigest()[:12]
    return f"{run_id[:80]}.judged-{digest}"


def question_id(one: JudgedAnswer, order: Order | None) -> str:
    """Of a question in the judge's run."""
    return f"{one.query_id}/{order or 'grade'}"


def write_judge_router(folder: Folder, name: str, judge: str) -> str:
    """Write what a run has to expect of a judge: how long a verdict is. Nothing is chosen; so no
    router has to have been trained on the judge. Equal bytes each time; its version.

    Args:
        folder: of the judge's runs.
        name: of the router's folder.
        judge: catalog id.
    """
    shipped = read_artifact(installed(SHIPPED))
    description = shipped.description.model_dump(exclude={"format", "sha256"})
    description |= {"models": [judge], "training": _never_trained(judge)}
    with tempfile.TemporaryDirectory() as made:
        version = write_artifact(
            Path(made), description, _tensors(shipped), (_CARD, "# Data card\n\nNone.\n")
        )
        for file in sorted(Path(made).iterdir()):
            folder.put(f"{name}/{file.name}", file.read_bytes())
    return version


def _never_trained(judge: str) -> dict[str, Any]:
    """Facts of a training that never was."""
    return {
        "source": "nothing",
        "queries": 0,
        "outcomes": {judge: 0},
        "mean_grade": {},
        "other_models": 0,
        "cross_validation": {},
        "calibration": {judge: "as_it_is"},
    }


def _tensors(shipped: Artifact) -> dict[str, NDArray[Any]]:
    """The shipped router's, which has to read questions for nothing but their length; its heads are
    one that gives the same to all of them."""
    kept = {
        name: tensor
        for name, tensor in shipped.tensors.items()
        if not name.startswith("calibration.") or name.startswith("calibration.0.")
    }
    tokens = np.zeros_like(kept["heads.log_tokens"][:, :, :1])
    tokens[-1] = np.log1p(VERDICT_TOKENS)
    domains = tokens.shape[1]
    return kept | {
        "heads.grade": np.zeros_like(kept["heads.grade"][:, :1]),
        "heads.log_tokens": tokens,
        "heads.token_factor": np.ones((domains, 1)),
        "heads.token_spread": np.full((domains, 1), MOST_OUTPUT_TOKENS / VERDICT_TOKENS),
        "heads.token_limit": np.array([float(MOST_OUTPUT_TOKENS)]),
        "training.grades": np.full_like(kept["training.grades"][:, :1], NO_GRADE),
    }
