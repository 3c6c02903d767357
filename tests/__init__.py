"""The tests; folders mirror `moa/`."""
