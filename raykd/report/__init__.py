"""What a person reads after a run or a sweep: scores, tables, plots, pages. Knows neither Ray nor MLflow.

`results` scores, `table` and `costs` compare, `charts` and `plots` draw, `runs` shows one run. `sweeps` and
`comparisons` do the same for searches and experiments, `side_by_side` for any runs.
"""
