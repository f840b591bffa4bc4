"""Networks that raykd trains from scratch, and the heads of all tasks."""
