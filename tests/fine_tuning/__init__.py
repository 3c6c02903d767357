"""Tests of `moa/training`."""
