"""Figures of a fine-tuning as TensorBoard shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(slots=True)
class Scalars:
    """TensorBoard's, where there is one."""

    events: SummaryWriter | None = None
    """`None`: nobody wants to see."""
    started: float = field(default_factory=time.monotonic)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Figures of a step."""
        if self.events is not None:
            for name, value in figures.items():
                self.events.add_scalar(name, value, step)
            self.events.flush()


def tensorboard_of(folder: str | None, purge: int | None) -> SummaryWriter | None:
    """A writer into a folder, if there is one; what it holds after a step is left out from then on.

    Args:
        folder: of event files.
        purge: the first step that is not to be seen.
    """
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge)
