"""Train one trial after another in a process that Tune keeps.

Decision record: starting a process with torch, transformers and DeepSpeed takes longer than many trials. So Tune keeps
its actors (`reuse_actors`), and a trial begins by making a new loop in an old process. Rows and tokens stay from trial
to trial. A trial of several workers is one actor with rank 0 and one actor per other rank, all in the trial's placement
group. They stay too, with their process group. (Ray Train inside Tune took 27 to 43 s to the first line of each trial,
and left its placement group behind when Tune stopped it.)

One step of a trial ends at the next evaluation. There is one kind of checkpoint: a folder with a manifest in the
sweep's own folder. Tune, which copies checkpoints between trials in population based training, only gets its path.
Checkpoints are written when Tune asks, and at an evaluation if `checkpoint_s` has passed since the last one, so short
trials write none. They hold the points of the curves too, because points on their way to a killed driver are lost.

A trial that cannot begin raises at its first step. Tune retries a trial that fails in a step, and gives up one that
fails between two trials.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raykd.checkpoint.find import checkpoint_name, find_checkpoint
from raykd.checkpoint.manifest import CheckpointInfo, find_problem
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import Event, RemoteMailbox, sending_logs
from raykd.driver.loop import save_student
from raykd.errors import NonFiniteError
from raykd.parse import JsonObject
from raykd.point import Point
from raykd.spaces.space import Sample
from raykd.student.loop import TrainingLoop
from raykd.student.settings import build_deepspeed_config
from raykd.tasks.scores.ranking import round_score
from raykd.tuning.trial_rank import TrialContext, TrialRank

JOB = "trial"
"""Name of the job in a checkpoint. Equal for all trials, since each trial has its own folder."""
SEGMENTS = "segments.json"
"""File in a checkpoint with the parts of the trial's history."""
RESUMED_FROM = "resumed_from"
"""Key in Tune's config beside the sample: the folder whose last checkpoint a resumed trial continues from."""


class TrialHost(tune.Trainable):
    """Tune's trainable: rank 0 of a trial, which directs the other ranks."""

    def setup(self, config: Sample, context: TrialContext) -> None:  # type: ignore[override]
        """Prepare the process for its first trial. Tune calls `reset_config` for each further one."""
        self.context = context
        self.telling = contextlib.ExitStack()
        self.rank = TrialRank(context, 0)
        self.others = self._start_others()
        self.reset_config(config)

    def _start_others(self) -> list[Any]:
        """Start an actor for each rank but 0 and join all ranks to one process group."""
        world, workers = self.rank.world, self.context.base.workers
        if world == 1:
            return []
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = ray.util.get_current_placement_group()
        assert group is not None, "Tune places a trial in a placement group"
        actor: Any = ray.remote(TrialRank)
        others = [
            actor.options(
                num_cpus=workers.num_cpus,
                num_gpus=workers.num_gpus,
                resources=workers.resources or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
            ).remote(self.context, rank)
            for rank in range(1, world)
        ]
        address = self.rank.address()
        joining = [other.join.remote(*address) for other in others]  # all ranks must join at the same time
        self.rank.join(*address)
        ray.get(joining)
        return others

    def _call_all(self, method: str, *arguments: object) -> None:
        """Call a method of `TrialRank` on every rank."""
        waiting = [getattr(other, method).remote(*arguments) for other in self.others]
        getattr(self.rank, method)(*arguments)
        ray.get(waiting)

    def reset_config(self, new_config: Sample) -> bool:
        """Begin another trial in this process. A trial of an earlier start continues from its last checkpoint."""
        self.telling.close()
        self.telling.enter_context(sending_logs(RemoteMailbox(self.context.mailbox), self.trial_id))
        self.sample = {k: v for k, v in new_config.items() if k != RESUMED_FROM}
        self.failed: NonFiniteError | None = None
        self.begin_error: Exception | None = None
        self.last_save = time.monotonic()
        self.saved: list[StorageFolder] = []
        self.sent: list[Point] = []
        self.continued = False
        self.segments: list[tuple[int, Sample]] = [(0, self.sample)]
        try:
            self._begin(str(new_config.get(RESUMED_FROM) or ""))
        except Exception as error:  # raised at the first step
            self.begin_error = error
        return True

    def _begin(self, earlier: str) -> None:
        folders = [self._folder, *([StorageFolder(earlier)] if earlier else [])]
        skipped: list[str] = []
        found = find_checkpoint(folders, JOB, skipped.append, world=self._required_world())
        self._call_all("begin", self.sample, None if found is None else found.url)
        if found is not None:
            self._take_over(found)
            self.continued = True
        begun = Event("started", self.trial_id, Point(self.loop.state.step, {}), self.loop.total_steps)
        self._send(*(Event("note", self.trial_id, text=line) for line in skipped), begun)

    @property
    def loop(self) -> TrainingLoop:
        """Rank 0's loop."""
        assert self.rank.loop is not None
        return self.rank.loop

    def step(self) -> JsonObject:
        """Train to the next evaluation and report it. A loss that is not finite ends the trial as diverged."""
        if self.begin_error is not None:
            raise self.begin_error
        begun, cpu_begun = time.monotonic(), self._read_cpu_seconds()
        try:
            self._call_all("advance")
        except NonFiniteError as error:
            self.failed = error
        except ray.exceptions.RayTaskError as error:
            if not isinstance(getattr(error, "cause", None), NonFiniteError):
                raise
            self.failed = error.cause
        loop = self.loop
        done = self.failed is not None or loop.state.stopped or loop.state.step >= loop.total_steps
        self._send()
        if done and self.failed is None and self.context.students is not None:
            save_student(loop, Path(self.context.students) / self.trial_id)
        if not done and time.monotonic() - self.last_save >= self.context.checkpoint_s:
            kept = self._save()
            for folder in self.saved:
                folder.remove()
            self.saved = [kept]
        return self._result(done, time.monotonic() - begun, self._read_cpu_seconds() - cpu_begun)

    def _read_cpu_seconds(self) -> float:
        """Return the processor seconds of all ranks' processes so far."""
        of_others: list[float] = ray.get([other.read_cpu_seconds.remote() for other in self.others])
        return self.rank.read_cpu_seconds() + sum(of_others)

    def _result(self, done: bool, seconds: float, cpu_s: float) -> JsonObject:
        loop, metric = self.loop, self.loop.config.metric
        last = loop.state.history[-1] if loop.state.history else {}
        worst = 0.0 if loop.config.train.higher_is_better else 1e9  # Tune's schedulers cannot compare NaN
        result = {
            "objective": worst if loop.state.best is None else round_score(loop.state.best),
            "score": last.get(f"eval/mean/{metric}", worst),
            "nll": last.get("eval/mean/nll", float("nan")),
            "best_step": loop.state.best_step,
            "evaluation": loop.evaluation,
            "trained_steps": loop.state.step,
            "total_steps": loop.total_steps,
            "trained_s": seconds,
            "cpu_s": cpu_s,
            "finished": done,
            "done": done,
            "diverged": "" if self.failed is None else str(self.failed),
        }
        if len(self.segments) > 1:
            # Its history is that of the trial whose state it took over, not what it reported before.
            result["segments"] = json.dumps(self.segments)
        if len(self.segments) > 1 or self.continued:
            # A killed driver may have missed the evaluation at which the checkpoint was written.
            self.continued = False
            result["history"] = json.dumps(
                [
                    (k, int(h["step"]), h[f"eval/mean/{metric}"], h.get("eval/mean/nll"))
                    for k, h in enumerate(loop.state.history, start=1)
                ]
            )
        return result

    # Checkpoints ---------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save before a pause, or before another trial continues from this one. Tune gets only the path."""
        where = Path(checkpoint_dir) / "where.json"
        where.write_text(json.dumps(self._save().url), encoding="utf-8")

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Continue from a checkpoint, perhaps another trial's, with this trial's own sample."""
        where = StorageFolder(json.loads((Path(checkpoint) / "where.json").read_text(encoding="utf-8")))
        wrong = find_problem(where, world=self._required_world())
        if wrong is not None:
            raise FileNotFoundError(f"the checkpoint {where.url} cannot be used: {wrong}")
        self._call_all("begin", self.sample, where.url)
        self.rank.points.clear()  # another trial's curve, or points that were sent before
        self.begin_error = None
        self._take_over(where)

    def _take_over(self, checkpoint: StorageFolder) -> None:
        """Take over the history of a checkpoint. From here on, this trial's own sample holds."""
        self.segments = [(int(step), dict(sample)) for step, sample in json.loads(checkpoint.read(SEGMENTS))]
        if self.segments[-1][1] != self.sample:
            self.segments.append((self.loop.state.step, self.sample))

    def _required_world(self) -> int | None:
        """Return the number of ranks a checkpoint must have been written by; None if it can be converted."""
        stage = build_deepspeed_config(self.context.base.train, self.rank.world)["zero_optimization"].get(
            "stage", 0
        )
        return self.rank.world if stage == 3 else None

    @property
    def _folder(self) -> StorageFolder:
        return StorageFolder(self.context.folder).child(self.trial_id)

    def _save(self) -> StorageFolder:
        """Write a new checkpoint. Every rank writes its part."""
        info = CheckpointInfo(JOB, self.loop.config.fingerprint(), self.rank.world, self.loop.state.step)
        target = self._folder.child(checkpoint_name(info, time.time_ns()))
        points, files = [*self.sent, *self.rank.points], {SEGMENTS: json.dumps(self.segments)}
        self._call_all("save", target.url, info, points, files)
        self.last_save = time.monotonic()
        return target

    def _send(self, *events: Event) -> None:
        """Send events, and all points since the last time, in one message."""
        total = self.loop.total_steps
        points = [Event("point", self.trial_id, point, total) for point in self.rank.points]
        self.sent += self.rank.points
        self.rank.points.clear()
        if events or points:
            self.context.mailbox.put.remote(*events, *points)

    def cleanup(self) -> None:
        """Close the loop and end the other ranks."""
        self.telling.close()
        self.rank.close()
        for other in self.others:
            ray.kill(other)
