"""Tests of `moa/pipeline`."""
