"""The nightly job on Ray: a graph that decides, actors that dispatch what was decided."""
