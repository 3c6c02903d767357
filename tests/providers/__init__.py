"""Tests of `moa.providers`, over real HTTP."""
