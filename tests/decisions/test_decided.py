from __future__ import annotations

import pyarrow as pa

from moa.decisions.decided import Decided, decided_in
from moa.dispatch.outcome import DeadLetter
from moa.storage.run_folder import PartName, PieceName

PART = PartName(0, 0, 6)
GPT, MINI = "openai/gpt-4o", "openai/gpt-4o-mini"


def letter(reason: str) -> DeadLetter:
    return DeadLetter(
        query_id="q", partition=0, row=0, reason=reason, detail="", attempts=(), request="{}",
        allowed_models=None, tags=[],
    )  # fmt: skip


def test_queries_decided_on_alike_are_counted_by_piece() -> None:
    decisions = pa.table(
        {
            "provider": ["openai", "openai", "openai", "openai", None, None],
            "model": [GPT, GPT, MINI, GPT, None, None],
            "rule": ["novel", "novel", "best_value", "planned", "defective", "nobody_can"],
            "lane": ["live", "live", "live", "batch", None, None],
        }
    )

    found = decided_in(PART, decisions, [letter("prompt_missing"), letter("nobody_can")])

    assert found == {
        PieceName(PART, "openai"): {
            Decided("novel", GPT, None): 2,
            Decided("best_value", MINI, None): 1,
        },
        PieceName(PART, "openai", in_batches=True): {Decided("planned", GPT, None): 1},
        PieceName(PART, "none"): {
            Decided(None, None, "prompt_missing"): 1,
            Decided(None, None, "nobody_can"): 1,
        },
    }
