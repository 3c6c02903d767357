"""Decisions → outcomes."""
