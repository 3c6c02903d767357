"""The backlog, as files. The config type is `moa.config.QueryLogConfig` (the lead decided so)."""

from __future__ import annotations

from moa.config import QueryLogConfig

__all__ = ["QueryLogConfig"]
