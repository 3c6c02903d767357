"""Graded outcomes → a router artifact."""
