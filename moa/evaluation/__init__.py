"""A router and graded answers → what routing is worth here, and whether it may be shipped."""
