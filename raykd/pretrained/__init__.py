"""Model directories that somebody else made: what their files hold, judged before weights are read."""
