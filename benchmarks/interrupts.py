"""A signal at some moment of a command: how soon it ends, with which exit code, and what is left.

Usage: python -m benchmarks.interrupts train RUN.yaml [KEY=VALUE ...] [--at 1,5,10,20,40,80] [--signal TERM] [--twice]
                                       [--resume] [--json FILE]

For each moment the command is started in a new folder (`output`), the signal is sent so many seconds later, and the
seconds until the process is gone are measured. Wanted: exit code 130, at most 3 s, "interrupted" once, no process of
its own Ray. --twice sends it again 0.3 s later. --resume goes on with what was interrupted, and wants exit code 0 (a
run that is short enough to wait for). Exit status 1 if one is not as wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raykd.cluster.own_processes import find_own_processes

IN_TIME_S = 3.0


@dataclass
class Try:
    """One interrupted command. at_s: when. left: processes of its Ray, as soon as it was gone."""

    at_s: float
    code: int
    seconds: float
    said: str
    left: list[str]
    status: str
    resumed: int | None = None
    wrong: list[str] = field(default_factory=list)


def interrupt(command: list[str], at_s: float, number: int, *, twice: bool, resume: list[str] | None) -> Try:
    """Starts it, sends the signal, and looks."""
    output = Path(tempfile.mkdtemp(prefix="interrupts"))
    command = [part.replace("OUTPUT", str(output)) for part in command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(at_s)
    early = process.poll()
    begun = time.monotonic()
    process.send_signal(number)
    if twice:
        time.sleep(0.3)
        process.send_signal(number)
    code = process.wait()
    seconds = time.monotonic() - begun
    left = [f"{name} ({pid})" for pid, name in find_own_processes(process.pid).items()]
    _, said = process.communicate()
    states = [json.loads(path.read_text(encoding="utf-8")) for path in output.glob("*/run.json")]
    status = ", ".join(str(state.get("status")) for state in states) or "no folder"
    found = Try(at_s, code, seconds, said.strip(), left, status)
    found.wrong += [f"it had ended before, with {early}"] if early is not None else []
    found.wrong += [f"exit code {code}"] if code != 128 + signal.SIGINT else []
    found.wrong += [f"{seconds:.1f} s"] if seconds > IN_TIME_S else []
    found.wrong += ["said otherwise"] if said.count("interrupted") != 1 or "Traceback" in said else []
    found.wrong += [f"left: {', '.join(left)}"] if left else []
    found.wrong += ["not on record"] if status not in ("no folder", "interrupted") else []
    if resume is not None:
        more = [part.replace("OUTPUT", str(output)) for part in resume]
        found.resumed = subprocess.run(more, stdout=subprocess.DEVNULL, check=False).returncode
        found.wrong += [f"--resume ends with {found.resumed}"] if found.resumed else []
    return found


def main() -> int:
    """Print a line for each moment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("train", "sweep", "check"))
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--at", default="1,5,10,20,40,80")
    parser.add_argument("--signal", default="TERM")
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    key = "set.output" if options.command == "sweep" else "output"
    command = [sys.executable, "-m", "raykd.cli", options.command, options.file, *options.overrides]
    command.append(f"{key}=OUTPUT")
    resume = {"train": "--resume", "sweep": "--continue"}.get(options.command)
    found = []
    for at_s in map(float, options.at.split(",")):
        number = getattr(signal, f"SIG{options.signal}")
        again = [*command, resume] if options.resume and resume else None
        found.append(interrupt(command, at_s, number, twice=options.twice, resume=again))
        shown = found[-1]
        print(
            f"{options.command} {options.signal} after {at_s:g} s: exit code {shown.code} in {shown.seconds:.2f} s, "
            f"{len(shown.left)} processes left, {shown.status}"
            + (f"  WRONG: {', '.join(shown.wrong)}: {shown.said[-500:]}" if shown.wrong else ""),
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2), encoding="utf-8")
    print(f"load {os.getloadavg()[0]:.1f}")
    return 1 if any(one.wrong for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
