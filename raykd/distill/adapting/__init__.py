"""Values that are learned during a run, beside the student: what they are, and what they learn from."""
