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
# # The frontier of cost and quality
#
# What `jobs/evaluate_router.py` has found out: what routing would cost and be worth at every
# *willingness to pay*, the USD that a right instead of a wrong answer is worth to you.
# `EVALUATION` names its folder, by default `runs/evaluation`, which `make evaluate` leaves. All
# costs are USD per 1,000 queries.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

from moa.reports.drawing import MODELS, money_axis

EVALUATION = Path(os.environ.get("EVALUATION", "../runs/evaluation"))
evaluation = json.loads((EVALUATION / "evaluation.json").read_text())["evaluation"]
POOL = os.environ.get("POOL") or evaluation["pools"][0]["name"]
pool = next(one for one in evaluation["pools"] if one["name"] == POOL)
metrics, curves = pool["metrics"], pool["curves"]
said = f"**{POOL}**, {metrics['queries']:,} queries. {pool['verdict']}"
Markdown(said.replace("$", "\\$"))

# %% [markdown]
# ## Cost against grade
#
# The line is the router as the knob turns, with the 95 % band of its hull; single models are
# points; the dotted line mixes them by lot; the dashed one knows the grades beforehand. Where the
# line is below the dotted one, routing is worth nothing.

# %%
sweep = pd.DataFrame({name: curves[name] for name in ("willingness_to_pay", "cost_usd", "grade")})
at = pd.DataFrame(
    {
        "cost_usd": curves["at_cost_usd"],
        "low": [one["low"] for one in curves["hull"]],
        "high": [one["high"] for one in curves["hull"]],
        "oracle": curves["oracle"],
        "random_mix": curves["random_mix"],
    }
)
figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
band = at[at.cost_usd >= curves["begins_usd"]]
axes.fill_between(band.cost_usd, band.low, band.high, color="#4e79a7", alpha=0.15, lw=0)
corners = sweep.iloc[curves["corners"]]
axes.plot(sweep.cost_usd, sweep.grade, ".", color="#4e79a7", ms=3, alpha=0.6)
axes.plot(corners.cost_usd, corners.grade, color="#4e79a7", lw=2, label="the router")
axes.plot(at.cost_usd, at.oracle, "--", color="#333333", lw=1.2, label="an oracle")
axes.plot(at.cost_usd, at.random_mix, ":", color="#333333", lw=1.5, label="models by lot")


def point(row: dict, **look: object) -> None:
    """A model or a policy, with the 95 % intervals of its cost and its grade."""
    cost, grade = row["cost_usd"], row["grade"]
    axes.errorbar(
        cost["value"], grade["value"],
        [[grade["value"] - grade["low"]], [grade["high"] - grade["value"]]],
        [[cost["value"] - cost["low"]], [cost["high"] - cost["value"]]],
        elinewidth=0.8, **look,
    )  # fmt: skip


for number, row in enumerate(metrics["models"]):
    best = " (best constant)" if row["name"] == metrics["best_constant"] else ""
    tint = MODELS[number % len(MODELS)]
    point(row, fmt="o", ms=8, color=tint, label=row["name"].split("/")[-1] + best)
point(metrics["configured"], fmt="D", ms=8, color="#1d3557", label="as configured")
axes.set(xscale="log", xlabel="USD per 1,000 queries, logarithmic", ylabel="mean grade")
money_axis(axes, 12)
axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
axes.spines[["top", "right"]].set_visible(False)

# %% [markdown]
# ## The knob
#
# At each willingness to pay: what is spent, and the grade it buys. What is configured is in
# `policy.willingness_to_pay`.

# %%
configured = evaluation["settings"]["policy"]["willingness_to_pay"]
inner = sweep[sweep.willingness_to_pay.between(2e-4, 2)]
figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for axes, column, label in zip(
    panels, ("cost_usd", "grade"), ("USD per 1,000 queries", "mean grade"), strict=True
):
    axes.plot(inner.willingness_to_pay, inner[column], color="#4e79a7")
    if configured is not None:
        axes.axvline(float(configured), color="#333333", lw=1, ls=":")
    axes.set(xscale="log", xlabel="willingness to pay (dotted: as configured)", ylabel=label)
    money_axis(axes, 8)
    axes.spines[["top", "right"]].set_visible(False)

# %%
rows = [
    (inner.willingness_to_pay - usd).abs().idxmin()
    for usd in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 1)
]
inner.loc[rows].round({"willingness_to_pay": 3, "cost_usd": 3, "grade": 4}).reset_index(drop=True)

# %% [markdown]
# ## Against each single model
#
# Of the policy as it is configured: how much better its answers are, and what that and the
# difference in price come to, each with its 95 % interval. An interval on one side of zero is proof
# (green for the router, red for the model); one across it is none.

# %%
cost = {row["name"]: row["cost_usd"]["value"] for row in metrics["models"]}
against = sorted(metrics["against"], key=lambda one: cost[one["model"]])
names = [f"{one['model'].split('/')[-1]}, ${cost[one['model']]:.2f}" for one in against]
figure, panels = plt.subplots(
    1, 2, figsize=(10, 0.9 + 0.42 * len(names)), sharey=True, layout="constrained"
)
panels[0].set_yticks(range(len(names)), names)
for axes, key, scale, label in zip(
    panels,
    ("grade_difference", "worth_usd"),
    (100, 1),
    ("better, points of grade", "worth, USD per 1,000 queries"),
    strict=True,
):
    for place, one in enumerate(against):
        if one[key] is None:  # a policy that holds a floor puts no price on a grade
            continue
        value, low, high = (scale * one[key][name] for name in ("value", "low", "high"))
        tint = "#59a14f" if low > 0 else "#e15759" if high < 0 else "#8a94a0"
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color=tint)
    axes.axvline(0, color="#333333", lw=0.8)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
