"""What a person reads after a run or a sweep: scores, tables, plots, pages. Knows neither Ray nor MLflow.

`results` scores, `table` and `costs` compare, `plots` draws and `page` shows one run; `sweeps` does the same for
searches.
"""
