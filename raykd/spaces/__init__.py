"""Search spaces: domains, an overlay of the run with domains as leaves, samplers and schedulers over it."""
