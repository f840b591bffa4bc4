"""What a person reads after a sweep: trials, plots, pages."""
