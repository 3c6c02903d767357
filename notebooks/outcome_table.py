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
# # What the outcome table holds
#
# `jobs/grade_outcomes.py` adds a night to it; `jobs/train_router.py` learns from it. Here it is
# only looked at: with DuckDB, Polars and pandas, whichever is at hand. `OUTCOME_TABLE` names the
# folder, by default `runs/outcomes`, where `jobs/configs/grade_outcomes.toml` writes.

# %%
import os

import duckdb
import matplotlib.pyplot as plt
import pandas as pd
import polars as pl

TABLE = os.environ.get("OUTCOME_TABLE", "../runs/outcomes")
GRADES = f"{TABLE}/graded_outcomes.parquet/*/*.parquet"
QUERIES = f"{TABLE}/queries.parquet/*/*.parquet"

# %% [markdown]
# ## Nights, with DuckDB
#
# A grade that is missing has a reason, and is not counted as 0.

# %%
duckdb.sql(
    f"""
    SELECT date, router_version, count(*) AS answers, count(grade) AS graded,
           round(avg(grade), 3) AS mean_grade, sum(cost_usd) AS cost_usd
    FROM read_parquet('{GRADES}', hive_partitioning = true)
    GROUP BY ALL ORDER BY date
    """
).df()

# %%
duckdb.sql(
    f"SELECT reason, count(*) AS answers FROM read_parquet('{GRADES}') "
    "WHERE grade IS NULL GROUP BY reason ORDER BY answers DESC"
).df()

# %% [markdown]
# ## Models and kinds of query, with Polars
#
# A router asks each model what it is good at: the plain mean of a model's grades flatters it. Where
# models were drawn (rule `explored`), weights by the inverse of the propensity give what it would
# have got on all queries of the kind.

# %%
grades = pl.scan_parquet(GRADES, hive_partitioning=True).filter(pl.col("grade").is_not_null())
queries = pl.scan_parquet(QUERIES).select("query_id", "source", "split")
weight = 1 / pl.col("propensity")
by_model = (
    grades.join(queries, on="query_id")
    .group_by("source", "model")
    .agg(
        pl.len().alias("answers"),
        (pl.col("rule") == "explored").sum().alias("explored"),
        pl.col("grade").mean().round(3).alias("mean_grade"),
        ((pl.col("grade") * weight).sum() / weight.sum()).round(3).alias("weighted_grade"),
    )
    .sort("source", "model")
    .collect()
)
by_model

# %% [markdown]
# ## Who answered what, with pandas

# %%
table = pd.read_parquet(f"{TABLE}/graded_outcomes.parquet")
sources = pd.read_parquet(f"{TABLE}/queries.parquet", columns=["query_id", "source"])
share = pd.crosstab(
    table.merge(sources, on="query_id")["source"], table["model"], normalize="index"
)
axes = share.plot.barh(stacked=True, figsize=(9, 0.5 + 0.45 * len(share)), width=0.7)
axes.set_xlabel("share of the answers")
axes.set_ylabel("")
axes.set_xlim(0, 1)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
plt.tight_layout()

# %% [markdown]
# ## What training leaves for the gate

# %%
pd.read_parquet(f"{TABLE}/queries.parquet", columns=["split", "source"]).value_counts(
    sort=False
).unstack(fill_value=0)
