"""What a sweep costs: raykd against a plain Ray Tune sweep whose trials each load their own teachers.

Usage: python -m benchmarks.sweep --data DIR [--trials 8,16,32,256] [--plain-trials 4,8] [--only slope,step] [--one]

DIR holds sentiment/{zh,en,fr}/{train,validation}.jsonl with text, label and lang. Teachers: three of 6 layers x 384
that all answer every row; student: 2 layers x 128, batch 32; random weights; a trial is --steps steps over two epochs
and two evaluations; random search over alpha and temperature, no early stopping, a trial a core. Both arms are
commands in processes of their own, timed from start to end: `raykd sweep SPACE.yaml` in an empty output folder, and a
function for ray.tune that loads its teachers in every trial (float32, texts padded to 128, one thread a trial). The
plain arm is measured for --plain-trials and follows its line beyond; raykd's sweeps are all run.

All ratios are within one run of this command, or within the starts of one `--one`: each start makes the next measurement
that is missing, in less than ten minutes, and the table grows. It is given again and again while it ends with 1.

Measured, and what each figure is: --only takes any of
  forwards   rows that teachers computed, in a sweep, after a kill of its driver, in a second sweep
  whole      walls of whole sweeps
  slope      wall of a further trial over that of a bare student (same loop, same batches, alpha 1, no teachers)
             that trains beside as many others as there are cores, its loop made beforehand, evaluations included
  start      from the line of the journal that hands a trial to Tune to the beginning of its training
             (a result's line minus the seconds that the trial says it trained); first trials of a process left out
  step       alternating blocks of both arms in one process
  memory     of fresh processes after a whole trial; parameters of all modules that the garbage collector knows
  store      random rows; bytes; filling
  threads    as set in the actors, and seen from outside; what is left in /dev/shm
  reporting  trials without Tune around them, and what the journal says of those with it
  tokens     before and after padding
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.sweep_parts import arms, plain
from benchmarks.sweep_parts.setting import Setting, make

INSIDE = ("bare", "step", "memory", "store", "fill", "reporting", "tokens")
"""Measurements that are made inside of processes, see `sweep_parts.inside`."""
LARGE = 64
"""Trials above which a sweep is run once, whatever --repeats says."""


def numbers(text: str) -> list[int]:
    """``8,16`` as numbers."""
    return [int(part) for part in text.split(",") if part]


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the texts")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-sweep"), help="where all is written"
    )
    parser.add_argument("--trials", type=numbers, default=[8, 16, 32, 256], help="of the raykd arm")
    parser.add_argument("--plain-trials", type=numbers, default=[4, 8], help="of the plain arm")
    parser.add_argument("--steps", type=int, default=32, help="of a trial; 16 texts each")
    parser.add_argument("--validation", type=int, default=60, help="texts of an evaluation")
    parser.add_argument("--teacher", type=numbers, default=[6, 384], help="layers,hidden of a teacher")
    parser.add_argument("--cores", type=int, default=2, help="CPUs of the cluster; a trial holds one")
    parser.add_argument("--repeats", type=int, default=3, help="of raykd's sweeps, and inside of processes")
    parser.add_argument("--rounds", type=int, default=20, help="of alternating blocks of steps")
    parser.add_argument("--only", type=lambda text: text.split(","), default=None, help="figures, see above")
    parser.add_argument("--json", type=Path, default=None, help="raw measurements, written as they come")
    parser.add_argument("--go-on", action="store_true", help="keep what --json has of the same setting")
    parser.add_argument("--one", action="store_true", help="make the next missing measurement, then end")
    parser.add_argument(
        "--arm", default=None, help="one arm in this process: plain or inside; for the command itself"
    )
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=list(INSIDE), help="of --arm inside"
    )
    options = parser.parse_args()
    if options.data is None and options.arm is None:
        parser.error("--data is needed: the folder that holds sentiment/zh/train.jsonl")
    return options


class Measurements:
    """What has been measured, in a file as it comes."""

    def __init__(self, path: Path, setting: Setting, keep: bool) -> None:
        self.path, self.setting = path, setting
        self.begun = time.monotonic()
        self.found: dict[str, Any] = {}
        if keep and path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["setting"] != setting.tree():
                raise SystemExit(f"{path} is of another setting: {before['setting']}")
            self.found = before["found"]
        self.starts = 1 + int(bool(self.found))

    def say(self, text: str) -> None:
        """A line of progress."""
        minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
        print(f"[{minutes:2d}:{seconds:02d}, load {os.getloadavg()[0]:.1f}] {text}", flush=True)

    def keep(self) -> None:
        """Writes all that there is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tree = {"setting": self.setting.tree(), "cores": os.cpu_count(), "found": self.found}
        self.path.write_text(json.dumps(tree, indent=1), encoding="utf-8")


Measurement = tuple[str, Callable[[], None]]
"""What is measured, and the call that measures and keeps it."""


def list_missing(options: argparse.Namespace, kept: Measurements, needed: set[str]) -> list[Measurement]:
    """The measurements that are needed and not there yet, in their order."""
    setting, found = kept.setting, kept.found
    missing = _list_raykd(options, kept) if "raykd" in needed else []
    for trials in options.plain_trials if "plain" in needed else ():
        if str(trials) not in found.get("plain", {}):
            missing.append((f"plain sweep of {trials} trials", partial(_measure_plain, kept, trials)))
    if "restart" in needed and "restart" not in found:
        missing.append(
            (
                "a sweep that is killed and resumed, then a second one",
                lambda: found.update(restart=arms.restarted(setting, min(options.trials))),
            )
        )
    parts = [part for part in INSIDE if part in needed and part not in found]
    for group in [[part] for part in parts] if options.one else [parts] * bool(parts):
        text = f"inside of processes: {', '.join(group)}"
        missing.append((text, partial(lambda group: found.update(_inside(options, setting, group)), group)))
    return missing


def _list_raykd(options: argparse.Namespace, kept: Measurements) -> list[Measurement]:
    """Sweeps of all sizes in turn, so that a slow quarter of an hour does not meet one size alone."""
    runs = kept.found.setdefault("raykd", {})
    missing: list[Measurement] = []
    for number in range(options.repeats):
        for trials in options.trials:
            wanted = number < (1 if trials > LARGE else options.repeats)
            if wanted and len(runs.get(str(trials), [])) <= number:
                text = f"raykd sweep of {trials} trials, {number + 1} of {options.repeats}"
                missing.append((text, partial(_measure_raykd, kept, trials)))
    return missing


def _measure_raykd(kept: Measurements, trials: int) -> None:
    output = arms.fresh(kept.setting.work / "output")
    run = arms.served(kept.setting, f"sweep-{trials}", trials, output)
    kept.found.setdefault("raykd", {}).setdefault(str(trials), []).append(run)
    kept.say(f"  {run['wall']:.1f} s, {run['own_cpu']:.1f} CPU s{', noisy' if run['noisy'] else ''}")


def _measure_plain(kept: Measurements, trials: int) -> None:
    run = arms.plain(kept.setting, trials)
    kept.found.setdefault("plain", {})[str(trials)] = run
    kept.say(f"  {run['wall']:.1f} s, {run['own_cpu']:.1f} CPU s{', noisy' if run['noisy'] else ''}")


def measure(options: argparse.Namespace, kept: Measurements, needed: set[str]) -> int:
    """Make the measurements that are missing, or with --one the first of them; return how many are left."""
    missing = list_missing(options, kept, needed)
    for at, (text, run) in enumerate(missing, start=1):
        kept.say(text)
        run()
        kept.keep()
        if options.one:
            return len(missing) - at
    return 0


def _inside(options: argparse.Namespace, setting: Setting, parts: list[str]) -> dict[str, Any]:
    file = setting.work / "inside.json"
    file.unlink(missing_ok=True)
    arguments = [
        "benchmarks.sweep",
        "--arm",
        "inside",
        "--work",
        str(setting.work),
        "--parts",
        ",".join(parts),
    ]
    arguments += ["--repeats", str(options.repeats), "--rounds", str(options.rounds)]
    noise = arms.command(arguments, setting.work / "logs" / "inside.txt")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {**found, "inside": {key: noise[key] for key in ("noisy", "load_before", "others_cores", "wall")}}


def report(kept: Measurements, names: list[str]) -> None:
    """The table."""
    from benchmarks.measure import show
    from benchmarks.sweep_parts.figures import lines_of

    setting = kept.setting
    title = (
        f"sweeps: 3 teachers of {setting.layers} x {setting.hidden}, student 2 x 128, {setting.steps} steps of "
        f"{setting.batch} texts a trial, {setting.cores} trials at once"
    )
    show(title, ["figure", "value", "goal"], lines_of(kept.found, setting, names))
    print("~ others used more than a quarter of a core meanwhile, or the load before was above cores + 0.5")
    if kept.starts > 1:
        print("not measured in one run: parts come from an earlier start (--go-on)")


def main() -> None:
    """Runs the benchmark, or one arm of it."""
    options = options_of()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.arm == "plain":
        plain.main(Setting.read(options.work), options.trials[0])
        return
    if options.arm == "inside":
        from benchmarks.sweep_parts import inside

        inside.main(Setting.read(options.work), options.parts, options.repeats, options.rounds)
        return
    from benchmarks.sweep_parts.figures import FIGURES

    names = options.only or list(FIGURES)
    unknown = sorted(set(names) - set(FIGURES))
    if unknown:
        raise SystemExit(f"--only {', '.join(unknown)}: wanted some of {', '.join(FIGURES)}")
    layers, hidden = options.teacher
    setting = Setting(
        data=options.data.resolve(), work=options.work.resolve(), steps=options.steps,
        validation=options.validation, cores=options.cores, layers=layers, hidden=hidden,
    )  # fmt: skip
    keep = options.go_on or options.one
    kept = Measurements(options.json or setting.work / "results.json", setting, keep)
    kept.say("rows and models")
    make(setting)
    left = 0
    try:
        left = measure(options, kept, {part for name in names for part in FIGURES[name][1]})
    finally:
        report(kept, names)
        print(f"raw measurements: {kept.path}")
    if left:
        print(f"{left} measurements are missing: the same command goes on")
        sys.exit(1)


if __name__ == "__main__":
    main()
