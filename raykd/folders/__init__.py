"""Open the folder of a run or a sweep: its lock, its state, what changed since an earlier start, its log file."""
