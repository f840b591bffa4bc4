"""What a person reads after a sweep or a confirmation: trials, plots, pages."""
