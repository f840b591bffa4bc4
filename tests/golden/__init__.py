"""What runs and sweeps gave before a refactoring: see `record`."""
