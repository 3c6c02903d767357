# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A run, read with DuckDB
#
# `jobs/route_batch.py` leaves a run folder; here it is only looked at. `RUN` names it, by default
# the run in `runs/` that has ended last (`make demo` leaves one). Its own page is
# `report/report.html`; what every column means is in `moa/schema.py`.

# %%
import json
import os
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

if os.environ.get("RUN"):
    RUN = Path(os.environ["RUN"])
else:
    ended = sorted(Path("../runs").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not ended:
        raise FileNotFoundError("no run has ended in runs/: make demo, or name one by RUN")
    RUN = ended[-1].parent

config = json.loads((RUN / "config.json").read_text())
POOL = config["config"]["pool"]
summary = "\n".join(json.loads((RUN / "manifest.json").read_text())["summary"])
began, router = config["started_at"][:16], config["router"]["version"]
display(Markdown(f"**{RUN.name}**, begun {began} UTC with router `{router}`"))
display({"text/plain": summary}, raw=True)

# %% [markdown]
# ## Tables
#
# A row of `outcomes` is a query's latest: what a redrive has sent again is in `redrives/`, and
# counts in place of the first. Expected grades and costs are lists in the pool's order. Grades are
# known where the run's config names a file of them (`report.graded_outcomes`).

# %%
duckdb.sql(
    f"""
    CREATE OR REPLACE VIEW decisions AS
        SELECT * FROM read_parquet('{RUN}/decisions/*.parquet');
    CREATE OR REPLACE VIEW outcomes AS
        SELECT * FROM read_parquet('{RUN}/**/outcomes/*.parquet', filename = true)
        QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY filename LIKE '%/redrives/%' DESC,
                                   filename DESC) = 1
    """
)
graded = config["config"]["report"].get("graded_outcomes")
known = str(Path("..") / graded) if graded else ""
duckdb.sql(
    "CREATE OR REPLACE VIEW grades AS "
    + (
        f"SELECT query_id, model, grade FROM read_parquet('{known}')"
        if known and Path(known).exists()
        else "SELECT query_id, model, NULL::FLOAT AS grade FROM outcomes LIMIT 0"
    )
)
duckdb.sql("SELECT count(*) AS queries FROM outcomes").df()

# %% [markdown]
# ## The bill, by model and by the rule that chose it
#
# `best_value`: the policy; `novel`: too unlike the training data to bet on, so the default model;
# `explored`: drawn by chance, to learn from.

# %%
duckdb.sql(
    """
    SELECT outcomes.model, rule, count(*) AS queries, sum(attempts)::INT AS calls,
           sum(cost_usd) AS cost_usd, 1000 * sum(cost_usd) / count(*) AS usd_per_1000
    FROM outcomes JOIN decisions USING (query_id)
    WHERE status = 'answered' GROUP BY ALL ORDER BY cost_usd DESC
    """
).df().round(5)

# %% [markdown]
# ## Dead letters
#
# One outcome a query: what nobody has answered has a reason. `jobs/redrive_dead_letters.py` sends
# them again; `detail` and each attempt are in `dead_letters/`.

# %%
duckdb.sql(
    """
    SELECT reason, first_model, count(*) AS queries, sum(attempts)::INT AS calls,
           min(query_id) AS example
    FROM outcomes WHERE status = 'dead_letter' GROUP BY ALL ORDER BY queries DESC
    """
).df()

# %% [markdown]
# ## Did the grades come out as expected?
#
# Queries in ten groups of equal size by the grade that the router expected of the model that
# answered. Bars are two standard errors.

# %%
expected = duckdb.sql(
    f"""
    WITH answered AS (
        SELECT query_id, outcomes.model,
               expected_grade[list_position({POOL}, outcomes.model)] AS expected
        FROM outcomes JOIN decisions USING (query_id) WHERE status = 'answered'
    ), binned AS (
        SELECT expected, grade, ntile(10) OVER (ORDER BY expected) AS bin
        FROM answered JOIN grades USING (query_id, model) WHERE grade IS NOT NULL
    )
    SELECT bin, count(*) AS queries, avg(expected) AS expected, avg(grade) AS measured,
           2 * coalesce(stddev_samp(grade), 0) / sqrt(count(*)) AS error
    FROM binned GROUP BY bin ORDER BY bin
    """
).df()
figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
axes.plot([0, 1], [0, 1], "--", color="#c4c9cf")
if len(expected):
    axes.errorbar(expected.expected, expected.measured, expected.error, fmt="o", color="#4e79a7")
else:
    axes.text(0.5, 0.5, "no grades are known of this run", ha="center", va="center")
axes.set(xlabel="expected grade", ylabel="measured grade", xlim=(0, 1.02), ylim=(0, 1.08))
axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## How long answers took
#
# Of the call that succeeded. A replayed vendor answers as fast as its script says.

# %%
duckdb.sql(
    """
    SELECT model, lane, count(*) AS answers, round(quantile_cont(latency_s, 0.5), 3) AS p50_s,
           round(quantile_cont(latency_s, 0.95), 3) AS p95_s, round(max(latency_s), 3) AS most_s
    FROM outcomes WHERE status = 'answered' AND same_as IS NULL GROUP BY ALL ORDER BY model
    """
).df()

# %% [markdown]
# ## Tokens against their estimates
#
# The bill's forecast rests on them: summed over many queries they should agree; a single answer may
# be far off.

# %%
tokens = duckdb.sql(
    """
    SELECT outcomes.model, count(*) AS answers,
           sum(input_tokens) / sum(expected_input_tokens) AS input_ratio,
           sum(output_tokens) / sum(expected_output_tokens) AS output_ratio
    FROM outcomes JOIN decisions USING (query_id)
    WHERE status = 'answered' AND outcomes.model = decisions.model
    GROUP BY ALL ORDER BY outcomes.model
    """
).df()
tokens.round(3)

# %%
pairs = duckdb.sql(
    """
    SELECT outcomes.model, expected_output_tokens AS expected, output_tokens AS used
    FROM outcomes JOIN decisions USING (query_id)
    WHERE status = 'answered' AND outcomes.model = decisions.model
    """
).df()
figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
for number, (model, some) in enumerate(pairs.groupby("model")):
    axes.plot(some.expected, some.used, ".", color=f"C{number}", ms=4, alpha=0.6, label=model)
ends = [max(1, pairs[["expected", "used"]].min().min()), pairs[["expected", "used"]].max().max()]
axes.plot(ends, ends, "--", color="#8a94a0")
axes.set(xscale="log", yscale="log", xlabel="expected output tokens", ylabel="output tokens used")
axes.legend(frameon=False, fontsize=8, markerscale=2, loc="upper left")
axes.spines[["top", "right"]].set_visible(False)
