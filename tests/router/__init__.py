"""Tests of `moa/router`."""
