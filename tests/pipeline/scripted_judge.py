"""A judge on localhost that says what it is told to: its questions, with marks known before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moa.grading.judge import Order, comparing_question, grading_question, mark_of
from moa.pipeline.judge_config import JudgeOutcomesConfig
from moa.pipeline.judge_run import ORDERS, question_id, run_name
from moa.pipeline.judged_answers import JudgedAnswer, judged_answers
from moa.replay.recordings import prompt_key
from moa.storage.object_store import Folder

SALT = b"known to the tests alone"

Says = Callable[[JudgedAnswer, Order | None], str]
"""An answer, and of a pair the order → the verdict, or another text."""


def scripted_judge(
    config: JudgeOutcomesConfig, labelled: Sequence[str], says: Says
) -> dict[str, str]:
    """Prompt's key → what the judge answers, as `Script.queries` takes it.

    Args:
        config: its salts are put where the job will find them.
        labelled: ids of the labelled queries.
        says: what it says; what is longer than a verdict is said as it is.
    """
    run_id = config.run.rstrip("/").rpartition("/")[2]
    for part in ("labelled", "rest"):
        name = run_name(run_id, config, sorted(labelled))
        Folder(config.folder).put(f"{name}.{part}.salt", SALT)
    answers = judged_answers(
        config.run,
        config.against,
        tags=frozenset(config.tags),
        show_reference=config.show_reference,
    )
    return {key: text for one in answers for key, text in _said(config, one, says)}


def _said(config: JudgeOutcomesConfig, one: JudgedAnswer, says: Says) -> Iterator[tuple[str, str]]:
    for order in ORDERS if one.other_model else (None,):
        mark = mark_of(SALT, question_id(one, order))
        question = (
            grading_question(config.rubric, one.asked, mark)
            if order is None
            else comparing_question(config.rubric, one.asked, order, mark)
        )
        text = says(one, order)
        verdict = f"As I see it.\nVERDICT {mark}: {text}" if len(text) < 4 else text
        yield prompt_key(question.prompt), verdict
