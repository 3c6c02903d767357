"""Tests of `moa/dispatch`."""
