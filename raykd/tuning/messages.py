"""Word the errors of trials without a score, and the next step that helps."""

from __future__ import annotations

from collections.abc import Iterable

from raykd.errors import SweepError
from raykd.folders.folder import RunFolder
from raykd.tuning.journal import JOURNAL, Journal, Trial

MAX_ERRORS_SHOWN = 5
"""Number of different errors that the terminal shows. The page and the journal have all."""
LEARNING_RATE = "train.learning_rate"
INVALID_RUN = "the setting is no run: "
"""Start of the error of a trial that was refused before it reached Tune."""


def build_no_score_error(journal: Journal, folder: RunFolder, budget_s: float | None) -> SweepError:
    """Return the error of a sweep in which no trial was scored.

    Args:
        journal: The trials and their errors.
        folder: The sweep's folder, named in the next step.
        budget_s: The sweep's time budget; None sets no limit.
    """
    trials = list(journal.trials.values())
    errors = format_trial_errors(trials)
    steps = suggest_next_steps(trials, str(folder.path), budget_s)
    what = "no trial came to a score" if trials else "no trial began"
    if not errors:
        over = f"time_budget_s {budget_s:g} was over before the first score" if budget_s else "no trial ran"
        errors = [f"{over}; {len(trials)} trials had begun"]
    return SweepError(
        what,
        got="\n          ".join("\n".join(errors).splitlines()),
        wanted="at least one trial with a finite validation score",
        next_step="\n          ".join([*steps, f"see {folder.log} and {folder.path / JOURNAL}"]),
    )


def format_trial_errors(trials: Iterable[Trial]) -> list[str]:
    """Return every different error once, in full, with the trials that ended with it."""
    ended: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.error and trial.status is not None:
            ended.setdefault((trial.status, trial.error), []).append(trial.name)
    lines = []
    for (status, error), names in list(ended.items())[:MAX_ERRORS_SHOWN]:
        who = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        lines.append(f"{who} {status}: " + error.replace("\n", "\n  "))
    if len(ended) > MAX_ERRORS_SHOWN:
        lines.append(f"and {len(ended) - MAX_ERRORS_SHOWN} other errors, see the page")
    return lines


def suggest_next_steps(trials: Iterable[Trial], sweep: str, budget_s: float | None) -> list[str]:
    """Return what the user can do about trials without a score, one sentence each.

    Args:
        trials: All trials, or those that failed.
        sweep: Name or folder for `raykd sweep --resume`.
        budget_s: The sweep's time budget; None sets no limit.
    """
    known = list(trials)
    diverged = [t for t in known if t.status == "diverged"]
    steps = []
    if diverged:
        rates = sorted(
            float(rate)
            for trial in diverged
            if isinstance(rate := trial.sample.get(LEARNING_RATE), int | float)
        )
        searched = f" ({LEARNING_RATE} {rates[0]:.3g} to {rates[-1]:.3g} diverged)" if rates else ""
        steps.append(
            f"{len(diverged)} diverged: lower train.learning_rate{searched} under set or in the space, and start a new "
            "sweep (another name, or --overwrite). --resume does not try them again: they would diverge again"
        )
    failed = sum(t.status == "failed" for t in known)
    if wrong := sum(t.status == "failed" and (t.error or "").startswith(INVALID_RUN) for t in known):
        steps.append(
            f"{wrong} could not be made into a run: leave out values that do not go together, or nest one key in a "
            "choice of the other"
        )
        failed -= wrong
    if failed:
        steps.append(
            f"{failed} failed: raykd sweep {sweep} --resume tries failed trials again, once their cause is gone"
        )
    cut = [t for t in known if t.status is None]
    if budget_s is not None and (cut or not known):
        longer = f"raykd sweep {sweep} --resume time_budget_s={max(60.0, 4 * budget_s):g}"
        steps.append(f"the time budget of {budget_s:g} s was over: {longer} goes on")
    return steps
