"""What a person reads after a run: its page, and the same as data."""
