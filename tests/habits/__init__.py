"""Models, files and texts as strangers bring them, made here and judged as `benchmarks.habits` judges its cases."""
