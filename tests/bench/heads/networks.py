"""An ensemble of small networks, each for all models at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.heads.lesson import Answer, Lesson, Quiz, timed

Floats = NDArray[np.float64]

SEEDS = 4
HIDDEN = 96
DECAYS = (0.01, 0.3)
EPOCHS, PATIENCE = 40, 4
INPUT_SCALE = 20.0
"""Features are small, so that one strength of regularisation serves all widths."""


def networks(lesson: Lesson, quiz: Quiz) -> dict[str, Answer]:
    """The mean of `SEEDS` networks with one hidden layer and an output per model; a missing grade
    takes no part. Each stops by the loss on another fold."""

    def learn() -> list[Any]:
        each = [[_network(lesson, decay, seed) for seed in range(SEEDS)] for decay in DECAYS]
        return [net for net, _ in min(each, key=lambda nets: sum(loss for _, loss in nets))]

    nets, fit_s = timed(learn)
    rows = torch.from_numpy(quiz.x) * INPUT_SCALE

    def predict() -> Floats:
        with torch.no_grad():
            each = np.stack([torch.sigmoid(net(rows)).double().numpy() for net in nets])
        return np.asarray(each.mean(axis=0))

    expected, predict_s = timed(predict)
    return {"MLP ensemble": Answer(expected, fit_s, predict_s)}


def _network(lesson: Lesson, decay: float, seed: int) -> tuple[Any, float]:
    """A network in its best epoch, and its loss then on the fold that it did not see."""
    torch.manual_seed(seed)
    folds = np.unique(lesson.fold)
    held_out = torch.from_numpy(lesson.fold == folds[seed % len(folds)])
    x = torch.from_numpy(lesson.x) * INPUT_SCALE
    known = torch.from_numpy(~np.isnan(lesson.data.grade)).float()
    grade = torch.from_numpy(np.nan_to_num(lesson.data.grade)).float()
    mass = known * torch.from_numpy(lesson.weight).float()[:, None]
    models = grade.shape[1]
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.2), torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(),
        torch.nn.Dropout(0.5), torch.nn.Linear(HIDDEN, models),
    )  # fmt: skip
    search = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=decay)

    def misfit(rows: Any) -> Any:  # noqa: ANN401
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            net(x[rows]), grade[rows], reduction="none"
        )
        return (mass[rows] * losses).sum() / mass[rows].sum().clamp(min=1e-6)

    rest, check = torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
    best, kept, since = float("inf"), net.state_dict(), 0
    for _ in range(EPOCHS):
        net.train()
        for rows in rest[torch.randperm(len(rest))].split(128):
            search.zero_grad()
            misfit(rows).backward()
            search.step()
        net.eval()
        with torch.no_grad():
            loss = float(misfit(check))
        if loss < best:
            best, since = loss, 0
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        else:
            since += 1
            if since == PATIENCE:
                break
    net.load_state_dict(kept)
    return net.eval(), best
