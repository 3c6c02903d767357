"""Completions and references → grades, or why there is none."""
