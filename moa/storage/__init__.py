"""What survives the process: object store, query log, run folder."""
