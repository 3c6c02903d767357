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
# # A router, trained and judged
#
# The jobs train and judge; here what they have left is looked at. On the shipped outcomes, in a few
# minutes and without a GPU:
#
#     python jobs/train_router.py --config jobs/configs/train_router.toml \
#         --set artifact=runs/judged/router
#     python jobs/evaluate_router.py --config jobs/configs/evaluate_router.toml \
#         --set artifact=runs/judged/router --set output=runs/judged/evaluation
#
# `ROUTER` and `EVALUATION` name the two folders, by default these; without them, the embedded
# router and `runs/evaluation`, which `make evaluate` leaves.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

JUDGED = Path("../runs/judged")
ROUTER = Path(os.environ.get("ROUTER") or JUDGED / "router")
if not ROUTER.exists():
    ROUTER = Path("../moa/router/embedded")
EVALUATION = Path(os.environ.get("EVALUATION") or JUDGED / "evaluation")
if not EVALUATION.exists():
    EVALUATION = Path("../runs/evaluation")

router = json.loads((ROUTER / "artifact.json").read_text())
verdict = json.loads((EVALUATION / "verdict.json").read_text())
evaluation = json.loads((EVALUATION / "evaluation.json").read_text())["evaluation"]
pools = {pool["name"]: pool for pool in evaluation["pools"]}

# %% [markdown]
# ## What it has learnt from

# %%
training = router["training"]
display(
    Markdown(f"{training['queries']:,} queries of `{training['source']}`; queries in each domain:")
)
pd.Series(training["domain_queries"], name="queries").to_frame().T

# %% [markdown]
# By cross-validation, on queries that nothing was fitted on. Brier score and log loss are smaller
# the better; `brier_of_mean` is what a constant guess would get.

# %%
pd.DataFrame(training["cross_validation"]).T.assign(outcomes=pd.Series(training["outcomes"]))

# %% [markdown]
# ## The verdict
#
# Of the gate, on queries that the router has never seen. `jobs/promote_router.py` promotes nothing
# that has not passed.

# %%
said = [f"**{'Passed' if verdict['passed'] else 'Not passed'}** on {verdict['data']}."]
said += [f"**{name}.** {one['verdict']}" for name, one in verdict["pools"].items()]
display(Markdown("\n\n".join(said).replace("$", "\\$")))
pd.DataFrame(
    [
        {"pool": name, **check}
        for name, pool in verdict["pools"].items()
        for check in pool["checks"]
    ],
    columns=["pool", "what", "wanted", "measured", "passed"],
)

# %% [markdown]
# ## Calibration
#
# Of each model: queries in ten groups by the grade that was expected before any call, and what they
# got. On the dashed line, one may bet on them. Bars are 95 % intervals.

# %%
found = evaluation["calibration"]
columns = min(3, len(found))
rows = -(-len(found) // columns)
figure, panels = plt.subplots(
    rows, columns, figsize=(3.4 * columns, 3.1 * rows), squeeze=False, sharex=True, sharey=True,
    layout="constrained",
)  # fmt: skip
figure.supxlabel("expected grade", fontsize=10)
figure.supylabel("measured grade", fontsize=10)
for axes, one in zip(panels.flat, found, strict=False):
    bins = pd.json_normalize(one["bins"])
    axes.plot([0, 1], [0, 1], "--", color="#c4c9cf")
    measured, low, high = (bins[f"measured.{name}"] for name in ("value", "low", "high"))
    axes.errorbar(
        bins["expected"],
        measured,
        [measured - low, high - measured],
        fmt="o",
        ms=4,
        color="#4e79a7",
    )
    error, perfect = one["ece"]["value"], one["ece_of_perfect"]
    axes.set_title(
        f"{one['model'].split('/')[-1]}\nerror {error:.3f}, a perfect router's {perfect:.3f}",
        fontsize=9,
    )
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05))
    axes.spines[["top", "right"]].set_visible(False)
for axes in list(panels.flat)[len(found) :]:
    axes.set_visible(False)

# %% [markdown]
# ## Quality and cost, model by model
#
# `configured policy` is the router; `oracle` knows every grade beforehand, and nobody can be
# better. USD per 1,000 queries.


# %%
def figures(metrics: dict) -> pd.DataFrame:
    """Grade and cost of each model, of the router and of the oracle, with 95 % intervals."""
    rows = [*metrics["models"], metrics["configured"], metrics["quality_alone"], metrics["oracle"]]
    return pd.DataFrame(
        {
            "grade": [row["grade"]["value"] for row in rows],
            "from": [row["grade"]["low"] for row in rows],
            "to": [row["grade"]["high"] for row in rows],
            "USD per 1,000": [row["cost_usd"]["value"] for row in rows],
        },
        index=[row["name"] for row in rows],
    ).round(3)


pd.concat({name: figures(pool["metrics"]) for name, pool in pools.items()})

# %% [markdown]
# ## Quality by source
#
# The router against its best constant (the one model that it would be if it did not route), source
# by source. A source with few queries says little: look at the bars.

# %%
figure, panels = plt.subplots(
    1, len(pools), figsize=(5.2 * len(pools), 3.4), squeeze=False, layout="constrained"
)
for axes, (name, pool) in zip(panels.flat, pools.items(), strict=True):
    places = []
    for place, (source, metrics) in enumerate(sorted(pool["by_source"].items(), reverse=True)):
        constant = next(m for m in metrics["models"] if m["name"] == metrics["best_constant"])
        for row, shift, tint in (
            (metrics["configured"], 0.12, "#4e79a7"),
            (constant, -0.12, "#8a94a0"),
        ):
            grade = row["grade"]
            axes.errorbar(
                grade["value"], place + shift,
                xerr=[[grade["value"] - grade["low"]], [grade["high"] - grade["value"]]],
                fmt="o", color=tint,
            )  # fmt: skip
        places.append(f"{source} ({metrics['queries']:,})")
    axes.set_yticks(range(len(places)), places)
    axes.set_ylim(-0.6, len(places) - 0.4)
    best = pool["metrics"]["best_constant"].split("/")[-1]
    axes.set_title(f"{name}: the router (blue), {best} (grey)", fontsize=10)
    axes.set_xlabel("mean grade, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
