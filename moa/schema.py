"""Every table that crosses a stage: its Arrow schema, and the check that a table agrees to it.

Each query is known by `query_id` (the user's, unique in a run) and by its place in the backlog:
`partition` (one row group of a Parquet file, or one JSONL file, numbered in path order) and `row`
(from 0, inside that partition). Places make a rerun read, score and decide the same rows.

`pool order` means: one value per model, in the order of the config's `pool`.
"""

from __future__ import annotations

import pyarrow as pa

from moa.errors import SchemaError

STRINGS = pa.list_(pa.string())
PER_MODEL = pa.list_(pa.float32())  # pool order
USD = pa.decimal128(24, 12)
MOMENT = pa.timestamp("us", tz="UTC")


OTHER_SOURCE = "log"
"""Of queries that name none."""


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


FOLLOWERS = pa.list_(
    pa.struct(
        [
            _required("query_id", pa.string()),
            _required("tags", STRINGS),
            pa.field("reference", pa.string()),
        ]
    )
)
"""Queries with an equal request, each with what it says of itself (`dedupe = true`)."""

_PLACE = [
    _required("query_id", pa.string()),
    _required("partition", pa.int32()),
    _required("row", pa.int64()),
]

QUERIES = pa.schema(
    [
        *_PLACE,
        # The request in the project's own form (`moa.request.ChatRequest`) as canonical JSON.
        # "" where the row is defective.
        _required("request", pa.string()),
        # What a model must be able to do to take it: "tools", "images", "json_schema", ...
        _required("abilities", STRINGS),
        pa.field("max_output_tokens", pa.int32()),  # null: the model's own limit
        pa.field("allowed_models", STRINGS),  # catalog ids; null: the whole pool
        pa.field("allowed_lanes", STRINGS),  # live, flex, batch; null: all
        pa.field("min_grade", pa.float32()),  # least expected grade, in [0, 1]; null: any
        _required("tags", STRINGS),
        pa.field("reference", pa.string()),  # what a good answer is, for graders
        _required("followers", FOLLOWERS),  # they get this query's answer
        # Why the row cannot be answered, as `REASON: detail`; null for a good row.
        pa.field("defect", pa.string()),
    ]
)
"""One row of the backlog after validation; a bad row is kept, with its defect."""

PREPARED_QUERIES = pa.schema(
    [
        *QUERIES,
        _required("text", pa.string()),  # the conversation as one text, which the router reads
        # What the prompt has besides the text: tools, the answer's schema, images; 0 without.
        _required("other_input_tokens", pa.float32()),
    ]
)
"""`QUERIES` plus what the score stage reads. Lives in memory only."""

SCORED_QUERIES = pa.schema(
    [
        *QUERIES,
        _required("expected_grade", PER_MODEL),  # in [0, 1]; empty for a defective row
        _required("expected_input_tokens", PER_MODEL),
        _required("expected_output_tokens", PER_MODEL),
        _required("most_output_tokens", PER_MODEL),  # that nine in ten answers stay below
        _required("novelty", pa.float32()),  # in [0, 1]; 1 = unlike all training queries
        pa.field("domain", pa.string()),  # of the router's, the likeliest; null for a defective row
    ]
)

ROUTING_DECISIONS = pa.schema(
    [
        *_PLACE,
        pa.field("model", pa.string()),  # catalog id; null when no model can take the query
        pa.field("provider", pa.string()),  # the model's; null likewise
        pa.field("lane", pa.string()),  # live, flex or batch; null likewise
        _required("rule", pa.string()),  # which rule fired, see moa.planning.policy
        _required("fallbacks", STRINGS),  # catalog ids, next best first
        _required("expected_grade", PER_MODEL),
        _required("expected_cost_usd", pa.list_(pa.float64())),  # pool order, live lane
        _required("expected_input_tokens", pa.float32()),  # of the chosen model
        _required("expected_output_tokens", pa.float32()),  # of the chosen model
        _required("novelty", pa.float32()),
        # Who would be asked, were nothing explored: where `rule` is `explored`, mostly another.
        pa.field("preferred_model", pa.string()),
        _required("propensity", pa.float32()),  # probability with which the model was chosen
        _required("router_s", pa.float32()),  # share of the router's work, in seconds
        _required("router_version", pa.string()),
        _required("price_version", pa.string()),
    ]
)
"""One row per row of the part of `SCORED_QUERIES` with the same name, in the same order."""

SHADOW_DECISIONS = pa.schema(
    [
        *_PLACE,
        pa.field("model", pa.string()),  # that the shadow's policy would ask; null for nobody
        pa.field("current_model", pa.string()),  # that the run's own router would, by its policy
        _required("expected_grade", PER_MODEL),  # by the shadow; empty for a defective row
        _required("expected_cost_usd", pa.list_(pa.float64())),  # likewise
        _required("novelty", pa.float32()),  # likewise
        _required("router_version", pa.string()),  # of the shadow
    ]
)
"""What another router would have done; one row per row of the part with the same name."""

USAGE = [
    _required("input_tokens", pa.int64()),  # all of the prompt, cached tokens too
    _required("cached_input_tokens", pa.int64()),  # read from the vendor's cache
    _required("cache_write_tokens", pa.int64()),  # written to it, where that is billed apart
    _required("output_tokens", pa.int64()),  # all that is billed as output, reasoning too
    _required("reasoning_tokens", pa.int64()),
]

OUTCOMES = pa.schema(
    [
        *_PLACE,
        _required("status", pa.string()),  # answered, refused or dead_letter
        pa.field("model", pa.string()),  # catalog id of the model that answered
        pa.field("provider", pa.string()),
        pa.field("lane", pa.string()),
        pa.field("first_model", pa.string()),  # the model that was decided on
        pa.field("completion", pa.string()),
        pa.field("tool_calls", pa.string()),  # JSON, OpenAI's form; null when there are none
        pa.field("finish_reason", pa.string()),  # stop, length, tool_calls or content_filter
        pa.field("response_id", pa.string()),  # the vendor's
        pa.field("served_model", pa.string()),  # what the vendor says has answered
        *USAGE,
        _required("cost_usd", USD),
        _required("attempts", pa.int32()),  # calls sent, the successful one included
        # Calls sent before a crash whose answer never reached the journal: perhaps billed.
        _required("unknown_calls", pa.int32()),
        # Calls that failed after the vendor may have done the work (a time-out, a reset, an answer
        # that was cut or cannot be read): perhaps billed.
        _required("lost_answers", pa.int32()),
        pa.field("latency_s", pa.float32()),  # of the successful call
        pa.field("finished_at", MOMENT),
        # query_id whose answer this is (`dedupe = true`); the row stands at that query's place.
        pa.field("same_as", pa.string()),
        pa.field("reason", pa.string()),  # of a dead letter, see DEAD_LETTERS
        _required("tags", STRINGS),
    ]
)
"""Exactly one row per query."""

ATTEMPT = pa.struct(
    [
        _required("model", pa.string()),
        _required("at", MOMENT),
        _required("error", pa.string()),  # class name from moa.errors
        pa.field("status", pa.int32()),  # HTTP
        _required("maybe_billed", pa.bool_()),  # the vendor may have done the work
        _required("detail", pa.string()),
    ]
)

DEAD_LETTERS = pa.schema(
    [
        *_PLACE,
        _required("reason", pa.string()),  # see ARCHITECTURE.md
        _required("detail", pa.string()),
        _required("attempts", pa.list_(ATTEMPT)),
        _required("request", pa.string()),
        _required("request_hash", pa.string()),  # xxh3-128 of `request`, hex
        pa.field("allowed_models", STRINGS),
        _required("tags", STRINGS),
    ]
)
"""What is needed to send a query again; its row in `OUTCOMES` says `dead_letter`."""

GRADED_OUTCOMES = pa.schema(
    [
        _required("query_id", pa.string()),
        _required("model", pa.string()),  # catalog id
        pa.field("grade", pa.float32()),  # in [0, 1]; missing is null, never 0
        pa.field("input_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        _required("grader", pa.string()),  # name and version of what graded it
    ]
)
"""How a model really did on a query: what routers learn from and reports compare with."""

LOGGED_QUERIES = pa.schema(
    [
        _required("query_id", pa.string()),  # `RUN/ID`: ids are unique in a run only
        _required("prompt", pa.string()),  # the text that the router has read
        _required("source", pa.string()),  # the query's first tag, or `log`
        _required("split", pa.string()),  # `train`; `held_out` for the gate; `neither`
        _required("duplicate_group", pa.string()),  # near duplicates share it
        _required("tags", STRINGS),
        _required("run_id", pa.string()),
    ]
)
"""Queries of an outcome table, which grows night by night."""

LOGGED_GRADES = pa.schema(
    [
        *GRADED_OUTCOMES,
        pa.field("reason", pa.string()),  # why the grade is missing
        # Probability with which the model was chosen; 1 of a fallback, which was not.
        _required("propensity", pa.float32()),
        # See ROUTING_DECISIONS; `fallback` where another model answered than was decided on.
        _required("rule", pa.string()),
        _required("router_version", pa.string()),  # that decided
        _required("run_id", pa.string()),
        _required("cost_usd", USD),
        _required("graded_at", MOMENT),
    ]
)
"""Graded outcomes of an outcome table. Grading a run again replaces its rows. Of several rows of
one query and model `moa.training.dataset.read_grades` says which counts, everywhere: the last
grade, of whichever grader; but a grader that could not grade it again has taken its own back.
"""

JUDGEMENTS = pa.schema(
    [
        _required("query_id", pa.string()),  # the log's own
        pa.field("model", pa.string()),  # catalog id; null where two answers were compared
        pa.field("grade", pa.float32()),  # of that one, in [0, 1]
        pa.field("model_a", pa.string()),  # catalog ids of the two
        pa.field("model_b", pa.string()),
        pa.field("winner", pa.string()),  # a, b or tie
        pa.field("reason", pa.string()),  # why there is neither grade nor winner
        _required("rater", pa.string()),
        _required("source", pa.string()),  # the query's first tag, or `log`
    ]
)
"""What a model that judges has said of answers; see `moa.grading.judgements`."""

COST_REPORT = pa.schema(
    [
        _required("run_id", pa.string()),
        _required("finished_at", MOMENT),
        pa.field("model", pa.string()),  # catalog id; null: queries without an answer
        pa.field("lane", pa.string()),
        *[
            _required(name, pa.int64())
            for name in (
                "queries",
                "answered",
                "refused",
                "shared",
                "calls",
                "unknown_calls",
                "lost_answers",
            )
        ],
        *USAGE,
        _required("cost_usd", USD),
        _required("price_version", pa.string()),
        _required("router_version", pa.string()),
    ]
)
"""A run's bill: one row per model and lane."""

_DECIDED = [
    pa.field("rule", pa.string()),
    pa.field("model", pa.string()),
    pa.field("reason", pa.string()),  # of dead letters, where nobody is asked
    _required("rows", pa.int64()),
]

PARTS = pa.schema(
    [
        _required("part", pa.string()),
        _required("provider", pa.string()),  # "none": rows that go to nobody (dead letters)
        _required("rows", pa.int64()),
        _required("decided", pa.list_(pa.struct(_DECIDED))),
    ]
)
"""What the decide stage reports of each part that it wrote: one row per part and provider."""


SCORED_PARTS = pa.schema(
    [
        _required("part", pa.string()),
        _required("rows", pa.int64()),
        _required("router_s", pa.float64()),  # that the router has worked on it
    ]
)
"""What is reported of each part that waits for the plan."""


def agree(table: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Return `table` with exactly the columns of `schema`, in its order.

    Raises:
        SchemaError: a column is missing, has another type, or holds nulls where none may be.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise SchemaError(f"{where}: columns {missing} are missing; got {table.column_names}")
    table = table.select(schema.names)
    for field in schema:
        column = table.column(field.name)
        if not field.nullable and column.null_count:
            raise SchemaError(f"{where}: {column.null_count} nulls in required {field.name!r}")
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SchemaError(f"{where}: {error}") from error
