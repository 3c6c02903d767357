"""What a router needs of a text model: texts in, one vector each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Embeddings = NDArray[np.float32]


class Backbone(Protocol):
    """Texts → embeddings. A text's embedding depends on nothing but the text."""

    @property
    def width(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def spec(self) -> Mapping[str, JsonValue]:
        """What `moa.router.artifact.open_backbone` makes the same backbone from."""
        ...

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """One row per text, shape (n, width), in the order of the texts."""
        ...
