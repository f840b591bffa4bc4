"""What a teacher says of a row: its numpy form, its bytes on the wire and in the store, and its tensors."""
