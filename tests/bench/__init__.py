"""Benchmarks: each `bench_*.py` runs alone, by `python -m tests.bench.bench_…`."""
