"""What can be known of a sweep before its first trial: its space, its trials, whether it may go on."""
