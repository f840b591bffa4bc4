"""What was not yet recorded: the outbox, replay after an outage, signs of life."""
