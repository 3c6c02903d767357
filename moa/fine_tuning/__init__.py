"""A backbone that learns from graded outcomes, before heads are fitted on what it then says."""
