"""The Ray cluster of a run: where it is, how one of its own is started and ended, signals, news from workers."""
