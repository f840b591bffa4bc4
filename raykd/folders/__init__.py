"""The folder that a run or a sweep writes: who may use it, what an earlier start left in it, what changed since."""
