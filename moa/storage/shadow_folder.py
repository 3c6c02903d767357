"""What another router would have decided, in `shadow/` and `shadow.json` of a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa

from moa.storage.object_store import Folder
from moa.storage.run_folder import PartName

_NOTE = "shadow.json"
_PARTS = "shadow"
_SUFFIX = ".parquet"


class ShadowFolder:
    """The shadow's part of one run's folder."""

    def __init__(self, run_folder: str) -> None:
        self._folder = Folder(run_folder)

    def write(self, part: PartName, decisions: pa.Table) -> None:
        """Keep `SHADOW_DECISIONS` of a part."""
        self._folder.put_table(f"{_PARTS}/{part}{_SUFFIX}", decisions)

    def read(self, part: PartName) -> pa.Table:
        """`SHADOW_DECISIONS` of a part."""
        return self._folder.read_table(f"{_PARTS}/{part}{_SUFFIX}")

    def parts(self) -> list[PartName]:
        """The parts that are decided on, in order."""
        names = self._folder.names(_PARTS)
        return [PartName.parse(name.removesuffix(_SUFFIX)) for name in names]

    def note(self, facts: Mapping[str, Any]) -> None:
        """Keep which router is the shadow, and how far it came."""
        self._folder.put(_NOTE, orjson.dumps(facts))

    def facts(self) -> dict[str, Any] | None:
        """What `note` has kept; `None` of a run without a shadow."""
        data = self._folder.read(_NOTE)
        return None if data is None else orjson.loads(data)

    def forget(self) -> None:
        """Delete what another shadow has decided."""
        self._folder.remove_all(_PARTS)
        self._folder.remove(_NOTE)
