"""Show what each teacher of a run adds: the data of the ensemble report, its tables and its page."""
