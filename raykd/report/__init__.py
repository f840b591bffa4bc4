"""What a person reads after a run or a sweep: scores, tables, plots, one page. Knows neither Ray nor MLflow."""

from raykd.report.confirmation import ConfirmationReport, Difference
from raykd.report.confirmation_page import confirmation_figures, write_confirmation_page
from raykd.report.importance import Importance
from raykd.report.page import RunReport, TeacherFacts, write_page
from raykd.report.results import Agreement, Predictions, Role, Score, agreement, score
from raykd.report.sweep_page import sweep_figures, write_sweep_page
from raykd.report.table import Gap, ResultTable
from raykd.report.trial_table import TrialTable
from raykd.report.trials import Evaluation, SweepReport, TrialRow

__all__ = [
    "Agreement",
    "ConfirmationReport",
    "Difference",
    "Evaluation",
    "Gap",
    "Importance",
    "Predictions",
    "ResultTable",
    "Role",
    "RunReport",
    "Score",
    "SweepReport",
    "TeacherFacts",
    "TrialRow",
    "TrialTable",
    "agreement",
    "confirmation_figures",
    "score",
    "sweep_figures",
    "write_confirmation_page",
    "write_page",
    "write_sweep_page",
]
