"""Tests of whole jobs: each starts `jobs/….py` as a user does, on a Ray of its own."""
