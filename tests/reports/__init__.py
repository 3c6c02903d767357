"""The report, on real recorded queries and on generated ones."""
