"""Who learns: the DeepSpeed engine, the prefetcher, the evaluation and the one training loop. Knows no Ray."""
