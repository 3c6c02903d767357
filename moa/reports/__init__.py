"""Outcomes → what it cost, and what else it could have cost."""
