"""What a person reads after a run or a sweep: scores, tables, plots, one page. Knows neither Ray nor MLflow."""

from raykd.report.page import RunReport, TeacherFacts, write_run_page
from raykd.report.results import Agreement, Predictions, Role, Score, compute_agreement, score_by_language
from raykd.report.sweeps.confirmation import ConfirmationReport, PairedDifference
from raykd.report.sweeps.confirmation_page import draw_confirmation_figures, write_confirmation_page
from raykd.report.sweeps.importance import Importance
from raykd.report.sweeps.page import draw_sweep_figures, write_sweep_page
from raykd.report.sweeps.trial_table import TrialTable
from raykd.report.sweeps.trials import Evaluation, SweepReport, TrialRow
from raykd.report.table import Gap, ResultTable

__all__ = [
    "Agreement",
    "ConfirmationReport",
    "Evaluation",
    "Gap",
    "Importance",
    "PairedDifference",
    "Predictions",
    "ResultTable",
    "Role",
    "RunReport",
    "Score",
    "SweepReport",
    "TeacherFacts",
    "TrialRow",
    "TrialTable",
    "compute_agreement",
    "draw_confirmation_figures",
    "draw_sweep_figures",
    "score_by_language",
    "write_confirmation_page",
    "write_run_page",
    "write_sweep_page",
]
