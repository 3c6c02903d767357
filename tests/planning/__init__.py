"""Tests of `moa/planning`."""
