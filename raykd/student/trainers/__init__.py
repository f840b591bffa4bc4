"""What a loop has for each of its tasks, and for two students that learn from each other."""
