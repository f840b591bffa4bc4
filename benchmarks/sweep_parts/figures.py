"""The table: each figure from the raw measurements, its goal beside it, and whether others disturbed it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.sweep_parts.arms import counted
from benchmarks.sweep_parts.setting import TEACHERS, Setting
from benchmarks.sweep_parts.trials import Times, on_the_line, times_of

Line = tuple[str, str, str]
"""Figure, value, goal."""
Found = Mapping[str, Any]
NOISY = " ~"
GOALS = {8: 10, 16: 18, 32: 28}
"""How many times faster the whole sweep should be, by trials."""


def _median(values: Any) -> float:
    return float(np.median(list(values)))


def _range(values: Sequence[float], form: str = ".2f") -> str:
    return f"{min(values):{form}}-{max(values):{form}}" if len(values) > 1 else "once"


def _mark(*runs: Mapping[str, Any]) -> str:
    return NOISY if any(run.get("noisy") for run in runs) else ""


def _runs(found: Found) -> dict[int, list[dict[str, Any]]]:
    return {int(n): runs for n, runs in sorted(found["raykd"].items(), key=lambda item: int(item[0])) if runs}


def _walls(found: Found) -> dict[int, float]:
    return {n: _median(r["wall"] for r in runs) for n, runs in _runs(found).items()}


def _times(found: Found, setting: Setting) -> list[Times]:
    """Of the unbroken sweeps with the most trials."""
    return [times_of(run["events"], setting.cores) for run in list(_runs(found).values())[-1]]


def forwards(found: Found, setting: Setting) -> Iterator[Line]:
    """How often teachers computed."""
    pairs = setting.texts * len(TEACHERS)
    if "raykd" in found:
        scored = pairs + setting.validation * len(
            TEACHERS
        )  # teachers are scored on the validation texts first
        ratios = {
            counted(r["counters"], "forwarded") / scored for runs in _runs(found).values() for r in runs
        }
        shown = ", ".join(f"{ratio:.4f}" for ratio in sorted(ratios))
        texts = f"{setting.texts} + {setting.validation}"
        yield f"teacher forwards / ({texts} texts x {len(TEACHERS)} teachers)", shown, "exactly 1"
    if "restart" in found:
        part = found["restart"]
        resumed, second = part["resumed"]["counters"], part["second"]["counters"]
        total = part["killed_forwarded"] + counted(resumed, "forwarded")
        over = f"{part['killed_trials_over']} of {part['killed']['trials']} trials"
        yield f"the same, driver killed after {over} and resumed", f"{total / pairs:.4f}", "exactly 1"
        rows, loaded = counted(second, "forwarded"), counted(second, "loaded")
        parked = counted(second, "computed_while_parked") + counted(resumed, "computed_while_parked")
        value = f"{rows:.0f}, {loaded:.0f}" + (f", {parked:.0f} while parked" if parked else "")
        yield "a second sweep over the same texts: rows computed, weights loaded", value, "0, 0"


def whole(found: Found, setting: Setting) -> Iterator[Line]:
    """Whole sweeps."""
    plain = {int(n): run["wall"] for n, run in found["plain"].items()}
    mark = _mark(*found["plain"].values())
    measured = " and ".join(f"{n} trials {wall:.0f} s" for n, wall in sorted(plain.items()))
    yield f"plain sweep, measured{mark}", measured, ""
    for trials, runs in _runs(found).items():
        walls = [run["wall"] for run in runs]
        yield (
            f"raykd sweep, {trials} trials{_mark(*runs)}",
            f"{_median(walls):.1f} s ({_range(walls, '.1f')})",
            "",
        )
    for trials, wall in _walls(found).items():
        if trials not in plain and len(plain) < 2:
            continue
        how = "" if trials in plain else ", plain extrapolated"
        goal = f"at least {GOALS[trials]}" if trials in GOALS else ""
        yield f"plain / raykd, {trials} trials{how}", f"{on_the_line(plain, trials) / wall:.1f} x", goal


def trial_slope(found: Found, setting: Setting) -> Iterator[Line]:
    """What a further trial costs."""
    walls, bare = _walls(found), found["bare"]
    if len(walls) < 2:
        return
    few, many = min(walls), max(walls)
    each = (walls[many] - walls[few]) / (many - few)
    alone = _median(run["wall"] for run in bare["bare"]) / setting.cores
    share = _median(run["evaluations"] / run["wall"] for run in bare["bare"])
    yield (
        f"a further trial: (wall({many}) - wall({few})) / {many - few} / bare student training / {setting.cores}",
        f"{each:.2f} / {alone:.2f} s = {each / alone:.2f}",
        "at most 1.10",
    )
    cpu = {n: _median(r["own_cpu"] for r in runs) for n, runs in _runs(found).items()}
    one, own = (cpu[many] - cpu[few]) / (many - few), _median(run["cpu"] for run in bare["bare"])
    yield (
        "the same in CPU seconds, of all processes of the sweep",
        f"{one:.2f} / {own:.2f} s = {one / own:.2f}",
        "",
    )
    distilled = _median(run["wall"] for run in bare["distilled"]) / setting.cores
    yield (
        "of it: training with stored answers / bare; evaluations in bare",
        f"{distilled / alone:.2f}; {share:.0%}",
        "",
    )


def start_up(found: Found, setting: Setting) -> Iterator[Line]:
    """Start of a trial in a process that has had one."""
    times = _times(found, setting)
    handed = [s for t in times for s in t.start_up]
    between = [s for t in times for s in t.between]
    if not handed or not between:
        return
    yield (
        f"start of a trial, Tune's hand-over to the first step ({len(handed)} trials)",
        f"{_median(handed):.2f} s (most {max(handed):.2f})",
        "at most 1 s",
    )
    yield (
        "the slot's last training to the next one's first step",
        f"{_median(between):.2f} s (most {max(between):.2f})",
        "",
    )


def step(found: Found, setting: Setting) -> Iterator[Line]:
    """A step with stored answers."""
    part = found["step"]
    wall, cpu = part["seconds"], part["cpu"]
    low, middle, high = np.percentile(np.divide(wall["stored"], wall["bare"]), [25, 50, 75])
    by_cpu = _median(np.divide(cpu["stored"], cpu["bare"]))
    yield (
        f"step with stored answers / bare step ({1e3 * _median(wall['bare']):.1f} ms)",
        f"{middle:.3f} ({low:.3f}-{high:.3f}), CPU {by_cpu:.3f}",
        "at most 1.03",
    )


def memory(found: Found, setting: Setting) -> Iterator[Line]:
    """A trial's process."""
    part = found["memory"]
    bare, distilled = part["bare"], part["distilled"]
    values = [f"{_median(r[kind] for r in distilled) / _median(r[kind] for r in bare):.3f} ({kind})"
              for kind in ("pss", "private")]  # fmt: skip
    size = _median(r["pss"] for r in bare)
    yield f"a trial's memory with distillation / without ({size:.0f} MiB)", ", ".join(values), "at most 1.05"
    others = max(r["other_parameters"] for r in distilled)
    own = distilled[0]["student_parameters"]
    yield (
        f"parameters in it beside the student's {own / 1e6:.1f} M (teachers {part['teacher_parameters'] / 1e6:.1f} M)",
        f"{others:.0f}",
        "0",
    )


def store(found: Found, setting: Setting) -> Iterator[Line]:
    """Reading and filling."""
    if "store" in found:
        part = found["store"]
        middle, low, high = part["read_ms"]
        share = ""
        if "step" in found:
            share = f" = {1e-3 * middle / _median(found['step']['seconds']['bare']):.2%} of a step"
        yield (
            f"32 random rows of a store of {part['rows']:,}, warm",
            f"{middle:.3f} ms ({low:.3f}-{high:.3f}){share}",
            "at most 0.2 ms and 1 %",
        )
        yield (
            f"a trial's batch from {len(TEACHERS)} stores, keys made",
            f"{part['sweep_reads_ms']:.3f} ms",
            "",
        )
        bytes_ = f"{part['file_bytes']:.0f} on disk, {part['logical_bytes']} in key and value"
        yield "bytes a row", bytes_, ""
    if "fill" in found:
        part = found["fill"]
        ratios = [own / label for own, label in zip(part["own_s"], part["label_s"], strict=True)]
        rate = part["rows"] / _median(part["label_s"])
        yield (
            f"labelling ({rate:.0f} rows/s) / the teacher's own forward passes, 1 thread",
            f"{_median(ratios):.3f} ({_range(ratios, '.3f')})",
            "at least 0.95",
        )


def threads(found: Found, setting: Setting) -> Iterator[Line]:
    """Threads and what is left."""
    if "bare" in found:
        inside = found["bare"]["threads"]
        sums = [f"{name} {sum(inside[name])}" for name in ("answering", "trials") if name in inside]
        yield (
            "intra-op threads of all actors",
            f"{', '.join(sums)} (each {max(map(max, inside.values()))})",
            f"at most {setting.cores}",
        )
    if "restart" not in found:
        return
    runs = [found["restart"]["killed"], found["restart"]["resumed"]]
    looks = [look for run in runs for look in run["looks"]]
    busy, cores = [look[0] for look in looks], [look[1] for look in looks]
    above = sum(b > setting.cores for b in busy)
    yield (
        f"threads of actors that compute at once, {len(looks)} looks{_mark(*runs)}",
        f"most {max(busy)} (above {setting.cores} in {above}); CPU / wall most {max(cores):.2f}",
        f"at most {setting.cores}",
    )
    every = [*runs, found["restart"]["second"], *(r for rs in found.get("raykd", {}).values() for r in rs)]
    left = sum(sum(run["shm_left"].values()) for run in every)
    # Where the driver is killed, Ray's own two agents outlive it for a while; they are named in the raw measurements.
    stayed = sum(len(run["left_over_processes"]) for run in every if not run["killed"])
    yield f"left after {len(every)} sweeps: bytes in /dev/shm, processes", f"{left:,}, {stayed}", "0, 0"


def reporting(found: Found, setting: Setting) -> Iterator[Line]:
    """Logging and reporting."""
    if "reporting" in found:
        part = found["reporting"]
        share = _median(np.divide(part["reported"], part["trained"]))
        yield "a trial's own time for logging and reporting / training", f"{share:.2%}", "at most 1 %"
    if "raykd" in found:
        times, runs = _times(found, setting), list(_runs(found).values())[-1]
        waits = sum(sum(t.waits) for t in times) / sum(t.trained for t in times)
        cpu = sum(r["driver_cpu"] for r in runs) / sum(t.trained for t in times)
        yield (
            f"trials waiting for Tune between evaluations; the driver's CPU{_mark(*runs)}",
            f"{waits:.2%}; {cpu:.0%} of training, start and report included",
            "",
        )


def tokens(found: Found, setting: Setting) -> Iterator[Line]:
    """Padding."""
    if "raykd" in found:
        counters = next(iter(_runs(found).values()))[0]["counters"]
        share = counted(counters, "real_tokens") / counted(counters, "computed_tokens")
        yield "real / computed tokens, teachers", f"{share:.3f}", "at least 0.85"
    if "tokens" in found:
        part = found["tokens"]
        value = f"{part['sweep']:.3f} ({part['all']:.3f} over all the texts of DIR)"
        yield "real / computed tokens, students", value, "at least 0.85"


FIGURES: dict[str, tuple[Callable[[Found, Setting], Iterator[Line]], tuple[str, ...]]] = {
    "forwards": (forwards, ("raykd", "restart")),
    "whole": (whole, ("plain", "raykd")),
    "slope": (trial_slope, ("raykd", "bare")),
    "start": (start_up, ("raykd",)),
    "step": (step, ("step",)),
    "memory": (memory, ("memory",)),
    "store": (store, ("store", "fill", "step")),
    "threads": (threads, ("restart", "bare")),
    "reporting": (reporting, ("reporting", "raykd")),
    "tokens": (tokens, ("raykd", "tokens")),
}
"""Figures by name: how each is made, and the measurements that it needs."""
NEEDS_ALL = ("whole", "slope")
"""Figures that are nothing with a part of their measurements."""


def _complete(part: Any) -> bool:
    """Whether there is anything in a measurement that is made in several goes."""
    return bool(part) and (not isinstance(part, Mapping) or any(part.values()))


def lines_of(found: Found, setting: Setting, names: Sequence[str]) -> list[Line]:
    """The table's lines, of what has been measured so far."""
    lines: list[Line] = []
    for name in names:
        make, needs = FIGURES[name]
        there = [part for part in needs if _complete(found.get(part))]
        if len(there) == len(needs) or (there and name not in NEEDS_ALL):
            lines += make(found, setting)
    return lines
