"""Which dead letters are sent again, and to whom: over parts that the stages have decided."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from moa.catalog import Model
from moa.dispatch.outcome import REASONS
from moa.pipeline.selection import (
    DECISION_COLUMNS,
    NO_MODEL,
    NO_REQUEST,
    NOT_LIVE,
    NOT_NAMED,
    QUERY_COLUMNS,
    Selected,
    Selector,
    Tally,
)
from moa.planning.policy import REDRIVE
from moa.prices import PriceTable
from moa.reports.page import REMEDIES
from moa.schema import ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.run_folder import RunFolder
from tests.test_stages import CATALOG, MODELS, POOL, PRICES, Backlog, prompts

HAIKU = CATALOG.models["anthropic/claude-3-haiku"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Ten queries: q1 has no prompt, q2 allows a model outside the pool only, q3 wants JSON and
    q4 a large window, q5 and q6 ask the same, q8 may be bought in batches only and q9 asks for
    more than anybody is expected to do.
    """
    rows = prompts(10).to_pylist()
    rows[1]["prompt"] = None
    rows[2]["allowed_models"] = [HAIKU.id]
    rows[3]["response_format"] = '{"type": "json_object"}'
    rows[4]["prompt"] = "long " * 250_000
    rows[6]["prompt"] = rows[5]["prompt"]
    rows[8]["allowed_lanes"] = ["batch"]
    rows[9]["min_grade"] = 1.0
    kinds = {
        "query_id": pa.string(), "prompt": pa.string(), "allowed_models": pa.list_(pa.string()),
        "response_format": pa.string(), "allowed_lanes": pa.list_(pa.string()),
        "min_grade": pa.float64(),
    }  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    backlog = Backlog(tmp_path, table, dedupe=True)
    backlog.decide(backlog.read())
    return backlog.run


def select(run: RunFolder, dead: dict[str, str], **how: object) -> tuple[Selected, Tally]:
    """What is sent of the only part, and the count."""
    (part,) = run.decided_parts()
    schema = pa.schema([("query_id", pa.string()), ("reason", pa.string())])
    rows = [{"query_id": name, "reason": reason} for name, reason in dead.items()]
    selector = Selector(**{"pool": POOL, "prices": PRICES, **how})  # type: ignore[arg-type]
    letters, tally = pa.Table.from_pylist(rows, schema=schema), Tally()
    return selector(run.read_queries(part), run.read_decisions(part), letters, tally), tally


def to(model: Model) -> dict[str, object]:
    inside = model.id in POOL
    return {"to": model, "prices": PRICES if inside else PriceTable.build([model])}


DEAD = {
    "q0": "vendor_failed", "q1": "prompt_missing", "q2": "nobody_can", "q5": "budget_spent",
    "q6": "budget_spent", "q7": "vendor_failed",
}  # fmt: skip


def test_the_decision_stays_as_it_was(run: RunFolder) -> None:
    (part,) = run.decided_parts()

    selected, tally = select(run, DEAD)

    assert selected.queries["query_id"].to_pylist() == ["q0", "q5", "q7"]
    kept = run.read_decisions(part).filter(
        pc.is_in(run.read_decisions(part)["query_id"], selected.queries["query_id"])
    )
    assert selected.decisions.equals(kept)
    assert tally.sent == {"vendor_failed": 2, "budget_spent": 2}
    assert tally.left == {("prompt_missing", NO_REQUEST): 1, ("nobody_can", NO_MODEL): 1}
    assert tally.asked == 3
    assert sum(tally.models.values()) == 3
    chosen = [POOL.index(model) for model in kept["model"].to_pylist()]
    costs = zip(kept["expected_cost_usd"].to_pylist(), chosen, strict=True)
    assert tally.expected_usd == pytest.approx(sum(cost[n] for cost, n in costs))


def test_only_what_died_of_a_named_reason_is_sent(run: RunFolder) -> None:
    selected, tally = select(run, DEAD, reasons=frozenset({"budget_spent"}))

    assert selected.queries["query_id"].to_pylist() == ["q5"]
    assert tally.left["vendor_failed", NOT_NAMED] == 2
    assert tally.left["prompt_missing", NO_REQUEST] == 1


@pytest.mark.parametrize("model", [None, MODELS[2], HAIKU], ids=["by plan", "4o", "haiku"])
def test_what_may_not_be_bought_live_stays_dead_and_is_counted(
    run: RunFolder, model: Model | None
) -> None:
    dead = {"q0": "vendor_failed", "q8": "vendor_failed"}

    selected, tally = select(run, dead, **({} if model is None else to(model)))

    assert selected.queries["query_id"].to_pylist() == ["q0"]
    assert tally.left == {("vendor_failed", NOT_LIVE): 1}


def test_what_has_died_in_another_lane_is_sent_again_live(run: RunFolder) -> None:
    (part,) = run.decided_parts()
    decisions = run.read_decisions(part)
    lanes = pa.array([one and "batch" for one in decisions["lane"].to_pylist()], pa.string())
    at = decisions.schema.get_field_index("lane")
    in_batches = decisions.set_column(at, decisions.schema.field("lane"), lanes)
    letters = pa.table({"query_id": ["q0", "q7"], "reason": ["vendor_failed"] * 2})

    _, sent = Selector(POOL, PRICES)(run.read_queries(part), in_batches, letters, Tally())

    assert sent.schema.equals(ROUTING_DECISIONS)
    assert sent["query_id"].to_pylist() == ["q0", "q7"]
    assert sent["lane"].to_pylist() == ["live", "live"]


@pytest.mark.parametrize("model", [MODELS[2], HAIKU], ids=lambda one: one.id)
def test_a_named_model_is_not_asked_what_it_is_not_known_to_do_well_enough(
    run: RunFolder, model: Model
) -> None:
    _, tally = select(run, {"q9": "nobody_can"}, **to(model))

    why = f"{model.id} cannot take it: it is not known to reach the query's min_grade"
    assert tally.left == {("nobody_can", why): 1}


@pytest.mark.parametrize("model", [MODELS[2], HAIKU], ids=lambda one: one.id)
def test_a_named_model_is_asked_alone(run: RunFolder, model: Model) -> None:
    selected, tally = select(run, DEAD, **to(model))

    queries, decisions = selected
    names = ["q0", *(["q2"] if model is HAIKU else []), "q5", "q7"]
    assert queries["query_id"].to_pylist() == decisions["query_id"].to_pylist() == names
    assert queries.schema.equals(SCORED_QUERIES)
    assert decisions.schema.equals(ROUTING_DECISIONS)
    assert set(decisions["model"].to_pylist()) == {model.id}
    assert set(decisions["provider"].to_pylist()) == {model.provider}
    assert set(decisions["rule"].to_pylist()) == {REDRIVE}
    assert decisions["fallbacks"].to_pylist() == [[]] * len(names)
    for name in ("expected_input_tokens", "expected_output_tokens", "expected_grade"):
        assert [len(values) for values in queries[name].to_pylist()] == [1] * len(names)
    assert tally.expected_usd == pytest.approx(
        sum(cost for (cost,) in decisions["expected_cost_usd"].to_pylist())
    )
    assert tally.expected_usd > 0


def test_what_a_named_model_cannot_take_stays_dead_and_is_counted(run: RunFolder) -> None:
    dead = dict.fromkeys(["q2", "q3", "q4"], "vendor_failed")

    _, by_haiku = select(run, dead, **to(HAIKU))
    _, by_mini = select(run, dead, **to(MODELS[0]))

    def why(model: Model, words: str) -> tuple[str, str]:
        return "vendor_failed", f"{model.id} cannot take it: {words}"

    assert by_haiku.sent == {"vendor_failed": 1}
    assert by_haiku.left == {
        why(HAIKU, "it lacks an ability"): 1,
        why(HAIKU, "its window is too small"): 1,
    }
    assert by_mini.left == {
        why(MODELS[0], "the query does not allow it"): 1,
        why(MODELS[0], "its window is too small"): 1,
    }


def test_what_nobody_can_is_not_sent_after_a_named_model_has_failed(run: RunFolder) -> None:
    selected, tally = select(run, {"q0": "vendor_failed", "q2": "vendor_failed"})

    assert selected.queries["query_id"].to_pylist() == ["q0"]
    assert tally.left == {("vendor_failed", NO_MODEL): 1}


@pytest.mark.parametrize("model", [None, MODELS[2], HAIKU], ids=["by plan", "4o", "haiku"])
def test_the_named_columns_are_enough_to_count(run: RunFolder, model: Model | None) -> None:
    (part,) = run.decided_parts()
    how = {"pool": POOL, "prices": PRICES, **({} if model is None else to(model))}
    letters = pa.table({"query_id": list(DEAD), "reason": list(DEAD.values())})
    tally = Tally()

    Selector(**how)(  # type: ignore[arg-type]
        run.read_queries(part, columns=QUERY_COLUMNS),
        run.read_decisions(part, columns=DECISION_COLUMNS),
        letters,
        tally,
    )

    _, whole = select(run, DEAD, **({} if model is None else to(model)))
    assert tally == whole


def test_every_reason_has_a_remedy() -> None:
    assert set(REASONS) == set(REMEDIES)


def test_nothing_dead_is_nothing_sent(run: RunFolder) -> None:
    selected, tally = select(run, {}, **to(HAIKU))

    assert selected.queries.num_rows == selected.decisions.num_rows == tally.asked == 0
    assert not tally.left
