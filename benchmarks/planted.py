"""Does the advice of `raykd explain` recognise planted teachers, and is it silent or right about healthy ensembles?

    python -m benchmarks.planted                    # 40 planted and 40 healthy runs, seeds 0 to 9 of each case
    python -m benchmarks.planted --show             # each run's advice beside what was planted

Answers are made directly, as those of models of known skill. No student is trained, since advice is read from stored
answers alone. Four cases are planted in otherwise healthy ensembles of 3 to 6 teachers, 2 to 7 labels, 2 to 4 languages
and 150 to 600 rows of each: a useless teacher (sure, and no better than chance), a corrupted one (the labels of 30 to
60 % of its rows permuted), a copy of another, and one that is good in one language alone.

A case is recognised where an advice names the planted teacher and fits: drop it; for a copy drop one of the two; for
one language drop it in others and not in that one. Whether an advice about other teachers is wrong is decided by
10,000 fresh rows of each language: what it surely expects to rise (score, NLL or both) must rise there.
"""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Sequence

from benchmarks.planted_parts.made_teachers import CASES, MadeEnsemble, make_ensemble
from raykd.ensemble.advice import Advice, advise
from raykd.ensemble.agreement import compare_pairs
from raykd.ensemble.expected_changes import ExpectedChanges, estimate_changes

GOAL, WRONG_GOAL = 0.90, 0.05
FRESH = 10_000
"""Rows of each language by which an advice is judged."""


def give_advice(made: MadeEnsemble) -> tuple[Advice, ...]:
    """Return the advice about a made ensemble."""
    units, signals = made.ask()
    changes = estimate_changes(units, signals, made.weighting, "arithmetic")
    chosen_MN, covered_MN = signals.logits_MNC.argmax(-1).numpy(), signals.covered_MN.numpy()
    pairs = compare_pairs(signals.teachers, chosen_MN, covered_MN, units.gold_N, len(units.labels))
    return advise(signals.teachers, changes, pairs)


def is_recognised(made: MadeEnsemble, advice: Sequence[Advice]) -> bool:
    """Return whether an advice fits what was planted."""
    name = made.planted_name
    if made.case == "copy":
        original = made.teachers[made.teachers[made.planted].copies or 0].name
        return any(a.kind == "copy" and {a.teacher, a.other} == {name, original} for a in advice)
    about = [a for a in advice if a.teacher == name]
    if made.case == "one_language":
        return any(a.kind == "drop_in" and made.good not in a.languages for a in about)
    return any(a.kind == "drop" for a in about)


def is_wrong(made: MadeEnsemble, advice: Advice) -> bool:
    """Return whether fresh rows contradict an advice."""
    if advice.kind == "copy" or advice.change is None:
        return True  # only one copy is planted
    units, signals = made.ask(FRESH)
    truth: ExpectedChanges = estimate_changes(units, signals, made.weighting, "arithmetic", samples=2)
    change = advice.change
    fresh = truth.join(change.action, change.teacher, advice.languages)
    if not change.surely_helps:  # pairs alone speak against the teacher: all together must not need it
        return fresh.score.value < -0.001 or fresh.nll.value < -0.001
    return (change.score.low > 0 and fresh.score.value <= 0) or (change.nll.low > 0 and fresh.nll.value <= 0)


def show(made: MadeEnsemble, advice: Sequence[Advice], remark: str) -> None:
    """Print a run's advice beside what was planted."""
    print(f"{made.case or 'healthy'} {made.seed}: {remark}; {made.setting}; {made.planted_name} {made.good}")
    for a in advice:
        line = f"    {a.kind} {a.teacher} {a.other} in {','.join(a.languages)}"
        if a.change is not None:
            s, n = a.change.score, a.change.nll
            line += (
                f": {100 * s.value:+.2f} [{100 * s.low:+.2f}, {100 * s.high:+.2f}] points, "
                f"NLL {n.value:+.4f} [{n.low:+.4f}, {n.high:+.4f}]"
            )
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=10, help="of each case; healthy runs are as many as all planted"
    )
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    begun = time.process_time()
    found: collections.Counter[str] = collections.Counter()
    beside = wrong_beside = 0
    for case in CASES:
        for seed in range(options.first, options.first + options.seeds):
            made = make_ensemble(seed, case)
            advice = give_advice(made)
            right = is_recognised(made, advice)
            found[case] += right
            of_others = [a for a in advice if made.planted_name not in (a.teacher, a.other)]
            beside += bool(of_others)
            wrong_beside += any(is_wrong(made, a) for a in of_others)
            if options.show:
                show(made, advice, "recognised" if right else "MISSED")
    healthy = options.seeds * len(CASES)
    any_advice = wrong = 0
    for seed in range(options.first, options.first + healthy):
        made = make_ensemble(seed, None)
        advice = give_advice(made)
        errs = [is_wrong(made, a) for a in advice]
        any_advice, wrong = any_advice + bool(advice), wrong + any(errs)
        if options.show and advice:
            show(made, advice, "WRONG" if any(errs) else "right")
    runs = options.seeds * len(CASES)
    print(
        f"seeds {options.first} to {options.first + options.seeds - 1} of each case, healthy to {healthy - 1}"
    )
    print(", ".join(f"{case} {found[case]} of {options.seeds}" for case in CASES))
    print(f"recognised: {sum(found.values())} of {runs} (goal at least {GOAL:.0%})")
    print(
        f"advice about other teachers beside it: {beside} of {runs}, contradicted by fresh rows: {wrong_beside}"
    )
    print(
        f"healthy ensembles with an advice: {any_advice} of {healthy}, contradicted by fresh rows: {wrong} "
        f"(goal at most {WRONG_GOAL:.0%})"
    )
    print(f"{time.process_time() - begun:.0f} CPU s")


if __name__ == "__main__":
    main()
