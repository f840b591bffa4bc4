"""Feature terms: what a student's encoder is compared by with its teachers' beside the answers."""
