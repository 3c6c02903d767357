from __future__ import annotations

from pathlib import Path

import pytest

from moa.errors import ConfigError
from moa.grading.judge import MOST_OUTPUT_TOKENS
from moa.pipeline.judge_run import VERDICT_TOKENS, write_judge_router
from moa.router.facts import read_facts
from moa.router.router import Router
from moa.storage.object_store import Folder

JUDGE = "vendor/unheard-of"


def test_a_judge_that_no_router_knows_is_expected_to_write_a_verdict(
    object_store: str, tmp_path: Path
) -> None:
    in_bucket = write_judge_router(Folder(object_store), "judged.router", JUDGE)
    on_disk = write_judge_router(Folder(str(tmp_path)), "judged.router", JUDGE)

    router = Router.load(f"{object_store}/judged.router")
    scores = router.score(["Is it right?", "A long answer. " * 500], [JUDGE])

    assert in_bucket == on_disk == router.facts.version
    assert scores.expected_output_tokens[:, 0] == pytest.approx([VERDICT_TOKENS] * 2, rel=0.01)
    assert scores.most_output_tokens.max() <= MOST_OUTPUT_TOKENS
    assert scores.expected_input_tokens[1, 0] > 30 * scores.expected_input_tokens[0, 0]


def test_it_is_a_router_of_nothing_else(tmp_path: Path) -> None:
    write_judge_router(Folder(str(tmp_path)), "judged.router", JUDGE)

    facts = read_facts(f"{tmp_path}/judged.router")

    assert facts.best_constant([JUDGE]).model == JUDGE
    with pytest.raises(ConfigError, match="not trained on v/other"):
        facts.check_pool([JUDGE, "v/other"])
