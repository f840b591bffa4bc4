"""A trial: the training loop in a process that is used again and again.

Decision record: starting a process with torch, transformers and DeepSpeed costs more than many a trial, so Tune
keeps its actors (`reuse_actors`) and a trial begins by making a new loop in an old process. Rows and their tokens
stay from trial to trial. A trial of several workers is one actor with rank 0 and one for each other rank, all in
the trial's placement group; they too stay, and their process group with them. (Ray Train inside of Tune was
measured at 27 to 43 s to the first line of each trial, and leaves its placement group behind where Tune stops it.)

A trial goes from evaluation to evaluation. Checkpoints are of one kind, a folder with a manifest in the sweep's own
folder; Tune (which copies them from trial to trial in population based training) is given their path. They are
written when Tune asks, and at an evaluation if some time has passed since the last, so that short trials write none.
They hold the points of the curves too: those on their way to the driver are lost with it. A trial that cannot begin
says so at its first step, since Tune tries again what fails in a step, and gives up what fails between two trials.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raykd.checkpoint.find import checkpoint_name, find_checkpoint
from raykd.checkpoint.manifest import CheckpointInfo, find_problem
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import Event
from raykd.driver.loop import save_student
from raykd.errors import NonFiniteError
from raykd.point import Point
from raykd.student.loop import TrainingLoop
from raykd.student.settings import build_deepspeed_config
from raykd.tasks.scores.ranking import round_score
from raykd.tuning.trial_rank import TrialContext, TrialRank

JOB = "trial"
"""Name of the job in a trial's checkpoints: each trial has a folder of its own."""
SEGMENTS = "segments.json"
"""Where a checkpoint keeps the parts of the trial's history."""
RESUMED_FROM = "resumed_from"
"""Beside the sample's keys in Tune's config: the folder of checkpoints that a resumed trial goes on from."""


class TrialHost(tune.Trainable):
    """What Tune calls: rank 0 of a trial, and the other ranks' master."""

    def setup(self, config: dict[str, Any], context: TrialContext) -> None:  # type: ignore[override]
        """Once a process; then `reset_config` for each further trial."""
        self.context = context
        self.rank = TrialRank(context, 0)
        self.others = self._start_others()
        self.reset_config(config)

    def _start_others(self) -> list[Any]:
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
        joining = [other.join.remote(*address) for other in others]
        self.rank.join(*address)
        ray.get(joining)
        return others

    def _all(self, what: str, *arguments: Any) -> Any:
        """Return every rank does the same; rank 0's answer."""
        waiting = [getattr(other, what).remote(*arguments) for other in self.others]
        answer = getattr(self.rank, what)(*arguments)
        ray.get(waiting)
        return answer

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process; one that was begun before goes on from its last checkpoint."""
        self.sample = {k: v for k, v in new_config.items() if k != RESUMED_FROM}
        self.failed: NonFiniteError | None = None
        self.unbegun: Exception | None = None
        self.last_save = time.monotonic()
        self.saved: list[StorageFolder] = []
        self.told: list[Point] = []
        self.went_on = False
        self.segments: list[tuple[int, dict[str, Any]]] = [(0, self.sample)]
        try:
            self._begin(new_config.get(RESUMED_FROM) or None)
        except Exception as error:  # raised at the first step
            self.unbegun = error
        return True

    def _begin(self, earlier: str | None) -> None:
        folders = [self._folder, *([StorageFolder(earlier)] if earlier else [])]
        passed_over: list[str] = []
        found = find_checkpoint(folders, JOB, passed_over.append, world=self._required_world())
        self._all("begin", self.sample, None if found is None else found.url)
        if found is not None:
            self._take_over(found)
            self.went_on = True
        begun = Event("started", self.trial_id, Point(self.loop.state.step, {}), self.loop.total_steps)
        self._send(*(Event("note", self.trial_id, text=line) for line in passed_over), begun)

    @property
    def loop(self) -> TrainingLoop:
        """Rank 0's loop."""
        assert self.rank.loop is not None
        return self.rank.loop

    def step(self) -> dict[str, Any]:
        """To the next evaluation. A loss that is not finite ends the trial, which is then called diverged."""
        if self.unbegun is not None:
            raise self.unbegun
        begun = time.monotonic()
        try:
            self._all("advance")
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
        return self._result(done, time.monotonic() - begun)

    def _result(self, done: bool, seconds: float) -> dict[str, Any]:
        loop, metric = self.loop, self.loop.config.metric
        last = loop.state.history[-1] if loop.state.history else {}
        worst = 0.0 if loop.config.train.higher_is_better else 1e9
        result = {
            "objective": worst if loop.state.best is None else round_score(loop.state.best),
            "score": last.get(f"eval/mean/{metric}", worst),
            "nll": last.get("eval/mean/nll", float("nan")),
            "best_step": loop.state.best_step,
            "evaluation": loop.evaluation,
            "trained_steps": loop.state.step,
            "total_steps": loop.total_steps,
            "trained_s": seconds,
            "finished": done,
            "done": done,
            "diverged": "" if self.failed is None else str(self.failed),
        }
        if len(self.segments) > 1:
            # What it reported before it took over another trial's state is no longer its history.
            result["segments"] = json.dumps(self.segments)
        if len(self.segments) > 1 or self.went_on:
            # A driver that was killed may not have heard of the evaluation that the checkpoint was written at.
            self.went_on = False
            result["history"] = json.dumps(
                [
                    (k, int(h["step"]), h[f"eval/mean/{metric}"], h["eval/mean/nll"])
                    for k, h in enumerate(loop.state.history, start=1)
                ]
            )
        return result

    # checkpoints ---------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks: before a pause, and before another trial goes on from here."""
        where = Path(checkpoint_dir) / "where.json"
        where.write_text(json.dumps(self._save().url), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a checkpoint, perhaps another trial's, with this trial's own sample."""
        where = StorageFolder(json.loads((Path(checkpoint) / "where.json").read_text(encoding="utf-8")))
        wrong = find_problem(where, world=self._required_world())
        if wrong is not None:
            raise FileNotFoundError(f"the checkpoint {where.url} cannot be used: {wrong}")
        self._all("begin", self.sample, where.url)
        self.rank.points.clear()  # another trial's curve, or one that was told
        self.unbegun = None
        self._take_over(where)

    def _take_over(self, checkpoint: StorageFolder) -> None:
        """The checkpoint's history becomes this trial's; from here on its own sample holds."""
        self.segments = [(int(step), dict(sample)) for step, sample in json.loads(checkpoint.read(SEGMENTS))]
        if self.segments[-1][1] != self.sample:
            self.segments.append((self.loop.state.step, self.sample))

    def _required_world(self) -> int | None:
        """Return how many ranks a checkpoint must be of, where DeepSpeed cannot convert it."""
        stage = build_deepspeed_config(self.context.base.train, self.rank.world)["zero_optimization"].get(
            "stage", 0
        )
        return self.rank.world if stage == 3 else None

    @property
    def _folder(self) -> StorageFolder:
        return StorageFolder(self.context.folder).child(self.trial_id)

    def _save(self) -> StorageFolder:
        """Write a new checkpoint; every rank writes its part."""
        info = CheckpointInfo(JOB, self.loop.config.fingerprint(), self.rank.world, self.loop.state.step)
        target = self._folder.child(checkpoint_name(info, time.time_ns()))
        points, files = [*self.told, *self.rank.points], {SEGMENTS: json.dumps(self.segments)}
        self._all("save", target.url, info, points, files)
        self.last_save = time.monotonic()
        return target

    def _send(self, *events: Event) -> None:
        """All points since the last time in one message."""
        total = self.loop.total_steps
        points = [Event("point", self.trial_id, point, total) for point in self.rank.points]
        self.told += self.rank.points
        self.rank.points.clear()
        if events or points:
            self.context.mailbox.put.remote(*events, *points)

    def cleanup(self) -> None:
        """The process ends."""
        self.rank.close()
        for other in self.others:
            ray.kill(other)
