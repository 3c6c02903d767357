"""What `bench_dispatch` measures: its workloads, its sides, and what they are held against."""
