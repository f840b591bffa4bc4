"""What a student takes over from the checkpoint that it starts from."""
