"""What a person reads after a run: scores, tables, plots, one page. Knows neither Ray nor MLflow."""

from raykd.report.page import RunReport, TeacherFacts, write_page
from raykd.report.results import Agreement, Predictions, Role, Score, agreement, score
from raykd.report.table import Gap, ResultTable

__all__ = [
    "Agreement",
    "Gap",
    "Predictions",
    "ResultTable",
    "Role",
    "RunReport",
    "Score",
    "TeacherFacts",
    "agreement",
    "score",
    "write_page",
]
