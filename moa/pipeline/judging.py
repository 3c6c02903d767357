"""A run's answers → judgements by a model, if that agrees with people.

Labelled answers are judged first. If the judge does not agree with their labels as far as the
config wants, nothing more is bought, and nothing is written that grades could be made of.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from moa.errors import ConfigError
from moa.grading.agreement import Agreement, agreement
from moa.grading.grader import RIGHT
from moa.grading.judge import family, rater_of
from moa.grading.judgements import Judgements, read_judgements
from moa.intervals import Interval
from moa.pipeline.judge_config import JudgeOutcomesConfig, TrustConfig
from moa.pipeline.judge_run import JudgeRun, Said, run_name
from moa.pipeline.judged_answers import JudgedAnswer, judged_answers
from moa.schema import JUDGEMENTS
from moa.storage.object_store import Folder

Label = bool | str
"""Right or not; of a pair a, b or tie."""


class Labels:
    """What people said of answers."""

    def __init__(self, judgements: Judgements) -> None:
        grades: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        shares: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for one in judgements.ratings:
            if one.grade is not None:
                grades[one.query_id, one.model].append(one.grade)
        for pair in judgements.pairs:
            shares[pair.query_id, pair.model_a, pair.model_b].append(pair.share)
            shares[pair.query_id, pair.model_b, pair.model_a].append(1 - pair.share)
        self.grades = {key: float(np.mean(several)) for key, several in grades.items()}
        self._shares = {key: float(np.mean(several)) for key, several in shares.items()}

    def of(self, one: JudgedAnswer) -> Label | None:
        """The label of an answer or a pair, of several raters their mean; `None`: it has none."""
        own = self.grades.get((one.query_id, one.model))
        if one.other_model is None:
            return None if own is None else own >= RIGHT
        share = self._shares.get((one.query_id, one.model, one.other_model))
        other = self.grades.get((one.query_id, one.other_model))
        if share is None and own is not None and other is not None:
            share = 0.5 if own == other else float(own > other)
        return None if share is None else _winner(share)


class Judged(NamedTuple):
    """What came of it."""

    refused: list[str]
    """Why the judgements may not be used; empty: they are written."""
    written: int


def judge_outcomes(
    config: JudgeOutcomesConfig, *, environ: Mapping[str, str], tell: Callable[[str], None]
) -> Judged:
    """Judge a run, or go on with that.

    Args:
        config: of the job.
        environ: with the keys.
        tell: is given lines for a terminal, as they come.

    Raises:
        ConfigError, ArtifactError: something that the config names is missing or wrong, or too few
            answers are labelled.
        RunError: a run has not finished, or another process works on the judge's own.
        KeyRefused, Interrupted: as `run_job`.
    """
    output = _output(config.output)
    labels = Labels(read_judgements([config.labels]))
    answers = list(
        judged_answers(
            config.run,
            config.against,
            tags=frozenset(config.tags),
            show_reference=config.show_reference,
        )
    )
    labelled = [one for one in answers if labels.of(one) is not None]
    if len(labelled) < config.trust.min_labels:
        raise ConfigError(
            f"labels: {config.labels} labels {len(labelled):,} of the {len(answers):,} answers "
            f"that are judged, and trust.min_labels is {config.trust.min_labels:,}: label more"
        )
    run_id = config.run.rstrip("/").rpartition("/")[2]
    name = run_name(run_id, config, sorted(one.query_id for one in labelled))
    budget_usd = config.dispatch.budget_usd
    first = JudgeRun(config, f"{name}.labelled")
    said = first.ask(labelled, environ=environ, budget_usd=budget_usd)
    for line in (*first.bill, *_looked_at(config, labelled, said, labels)):
        tell(line)
    if refused := why_refused(config.trust, _agreement(labelled, said, labels)):
        return Judged(refused, 0)
    rest = [one for one in answers if labels.of(one) is None]
    second = JudgeRun(config, f"{name}.rest")
    left_usd = None if budget_usd is None else budget_usd - first.spent_usd()
    said |= second.ask(rest, environ=environ, budget_usd=left_usd)
    rows = [row for one in answers for row in _rows(config, one, said[one.query_id])]
    folder, file = output
    folder.put_table(file, pa.Table.from_pylist(rows, schema=JUDGEMENTS))
    for line in (*second.bill, *_all_in_all(config, answers, said)):
        tell(line)
    return Judged([], len(rows))


def _output(url: str) -> tuple[Folder, str]:
    where, _, name = url.rpartition("/")
    if not name.endswith(".parquet"):
        raise ConfigError(f"output: {url!r} is no name of a Parquet file: end it with .parquet")
    folder = Folder(where or ".")
    folder.check()
    return folder, name


def _winner(share: float) -> str:
    return "tie" if share == 0.5 else "a" if share > 0.5 else "b"


def _verdict(said: Said) -> Label | None:
    if said.winner is not None:
        return said.winner
    return None if said.grade.value is None else said.grade.value >= RIGHT


def _agreement(
    labelled: Sequence[JudgedAnswer], said: Mapping[str, Said], labels: Labels
) -> Agreement | None:
    """`None`: of none of them there is a verdict."""
    both = [(_verdict(said[one.query_id]), labels.of(one)) for one in labelled]
    known = [(verdict, label) for verdict, label in both if verdict is not None]
    return agreement(known) if known else None


def why_refused(trust: TrustConfig, found: Agreement | None) -> list[str]:
    """Why the judge is not trusted; empty: it is."""
    judged = 0 if found is None else found.judged
    if found is None or judged < trust.min_labels:
        return [f"it gave {judged:,} verdicts on labelled answers: {trust.min_labels:,} are needed"]
    if found.kappa is None:
        return [
            "it said one thing of all labelled answers, and so do their labels: whether it would "
            "tell others apart is not known; label some that are otherwise"
        ]
    bounds = [
        ("the share on which it agrees", found.accuracy.low, trust.min_accuracy),
        ("Cohen's kappa", found.kappa.low, trust.min_kappa),
    ]
    return [
        f"{what} may be {low:.3f}, and {bound:g} is needed: another judge, a better rubric, or "
        "more labels"
        for what, low, bound in bounds
        if low < bound
    ]


def _looked_at(
    config: JudgeOutcomesConfig,
    labelled: Sequence[JudgedAnswer],
    said: Mapping[str, Said],
    labels: Labels,
) -> Iterator[str]:
    """What its answers on labelled ones show, in lines."""
    found = _agreement(labelled, said, labels)
    if found is None:
        return
    yield (
        f"agreement of {config.judge} with {config.labels}, {found.judged:,} labels: accuracy "
        f"{_shown(found.accuracy)}, Cohen's kappa {_shown(found.kappa)}"
    )
    yield from _leaning(config, labelled, said, labels)


def _leaning(
    config: JudgeOutcomesConfig,
    labelled: Sequence[JudgedAnswer],
    said: Mapping[str, Said],
    labels: Labels,
) -> Iterator[str]:
    """How far it grades its own family's answers, and others', above the labels."""
    maker = family(config.judge)
    above: dict[bool, list[float]] = {True: [], False: []}
    for one in labelled:
        grade, label = said[one.query_id].grade.value, labels.grades.get((one.query_id, one.model))
        if one.other_model is None and grade is not None and label is not None:
            above[family(one.model) == maker].append(grade - label)
    for own, whose in ((True, f"{maker}'s own answers"), (False, "others' answers")):
        if above[own]:
            mean = np.mean(above[own])
            yield f"  {whose}: {mean:+.3f} against their labels ({len(above[own]):,})"


def _all_in_all(
    config: JudgeOutcomesConfig, answers: Sequence[JudgedAnswer], said: Mapping[str, Said]
) -> Iterator[str]:
    """What was judged, in lines."""
    missing = Counter(
        said[one.query_id].grade.reason for one in answers if _verdict(said[one.query_id]) is None
    )
    what = "answers" if config.against is None else "pairs"
    yield f"{len(answers):,} {what}: {len(answers) - missing.total():,} judged"
    for reason, count in missing.most_common():
        yield f"  {count:>6,} without: {reason}"
    own = sum(family(config.judge) in (family(one.model), _maker(one)) for one in answers)
    if own:
        yield (
            f"{own:,} of them are by the judge's own family ({family(config.judge)}), and flagged "
            "in their rater: judges favour their own"
        )
    orders = [one.by_order for one in said.values() if one.by_order is not None]
    if orders:
        first, second = (orders.count(both) / len(orders) for both in (("a", "b"), ("b", "a")))
        yield (
            f"the one shown first was better whichever it was in {first:.1%}, the second in "
            f"{second:.1%}: ties"
        )


def _maker(one: JudgedAnswer) -> str | None:
    return None if one.other_model is None else family(one.other_model)


def _rows(config: JudgeOutcomesConfig, one: JudgedAnswer, said: Said) -> Iterator[dict[str, Any]]:
    """`JUDGEMENTS`; a row for each query that was given the answer."""
    own = _maker(one) == family(config.judge)
    rater = rater_of(config.judge, config.rubric, config.judge if own else one.model)
    row: dict[str, Any] = {"rater": rater, "source": one.source}
    if _verdict(said) is None:
        row["reason"] = said.grade.reason
    if one.other_model is None:
        row |= {"model": one.model, "grade": said.grade.value}
    else:
        row |= {"model_a": one.model, "model_b": one.other_model, "winner": said.winner}
    for query_id in (one.query_id, *one.shared_by):
        yield {"query_id": query_id, **row}


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "not to be told"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
