"""What can be known before a worker is taken: `raykd check`, `plan` and `doctor`, sizes, disk, self-tests."""
