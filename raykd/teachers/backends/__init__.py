"""What serves each kind of teacher."""
