"""Tests of `moa/replay`."""
