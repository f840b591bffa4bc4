"""Running on a cluster that is not this machine: jobs sent to it, and the files that describe it."""
