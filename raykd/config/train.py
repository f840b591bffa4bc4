"""Define the `train` and `workers` parts of a run: how a student is trained, and on which workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raykd.config.kinds.optimizers import AdamW, Optimizer
from raykd.distill.adversarial.alignment import Alignment
from raykd.distill.adversarial.perturbations import Adversarial
from raykd.distill.schedules import Schedule, WarmupStableDecay
from raykd.parse import JsonObject
from raykd.spec import Spec
from raykd.tasks.scores.metrics import MetricName, is_higher_better


class TrainConfig(Spec):
    """How a student (or a teacher, or the baseline) is trained."""

    epochs: float | None = Field(None, gt=0.0)
    """Passes over the training rows; fractions are allowed."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give either epochs or steps (3 epochs if neither is given)."""
    batch_size: int = Field(32, ge=1)
    """Rows per optimizer step, over all workers and micro-batches."""
    gradient_accumulation: int = Field(1, ge=1)
    """Micro-batches per worker and optimizer step."""
    learning_rate: float = Field(1e-3, gt=0.0)
    """Peak of the learning rate."""
    lr_schedule: Schedule = WarmupStableDecay(warmup=0.1, decay=0.9)
    """Factor on the learning rate, a function of progress."""
    optimizer: Optimizer = AdamW()
    """What turns gradients into steps."""
    weight_decay: float = Field(0.01, ge=0.0)
    """Weight decay of matrices; biases and norms have none."""
    gradient_clipping: float = Field(1.0, ge=0.0)
    """Largest gradient norm; 0 is off."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the student's computations. The optimizer keeps float32: with bfloat16 and no ZeRO, torch's
    autocast multiplies float32 weights in bfloat16; under ZeRO 1 to 3 weights are bfloat16 beside a float32 copy that
    is split."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage: what is split over workers (1 optimizer states, 2 gradients too, 3 parameters
    too)."""
    deepspeed: str | JsonObject | None = None
    """A DeepSpeed configuration, as a JSON file or a mapping. Keys that raykd sets itself are refused."""
    adversarial: Adversarial | None = None
    """Moves the embedded tokens of each text to where the loss is larger, and trains there too; None does not."""
    alignment: Alignment | None = None
    """Makes the student's features alike over languages or domains, adversarially; None does not."""
    evaluations: int = Field(10, ge=1)
    """Number of evaluations on the validation set, evenly spread over the run. Each writes a checkpoint."""
    metric: MetricName | None = None
    """The validation metric (mean over languages) that chooses the best checkpoint and stops early; None takes the
    first of the task's."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without a better metric; None trains to the end."""
    max_skipped_steps: int = Field(3, ge=0)
    """Consecutive steps with a non-finite loss or gradient that are skipped. One more returns to the last checkpoint,
    once; after that it ends the run."""
    max_failures: int = Field(1, ge=0)
    """How often lost workers are started again from the last checkpoint."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs or steps, not both")
        own = self.deepspeed.get("zero_optimization") if isinstance(self.deepspeed, dict) else None
        stage = own.get("stage") if isinstance(own, dict) else 0
        if (self.zero_stage or stage) and not self.optimizer.elementwise:
            raise ValueError(
                f"optimizer {self.optimizer.kind} computes from rows and columns, which ZeRO takes apart: wanted "
                "zero_stage 0, or another optimizer"
            )
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of the run."""
        if self.steps is not None:
            return self.steps
        return max(1, round((3.0 if self.epochs is None else self.epochs) * steps_per_epoch))

    @property
    def higher_is_better(self) -> bool:
        """Direction of `metric`."""
        return is_higher_better(self.metric or "accuracy")


class WorkersConfig(Spec):
    """The workers that hold the student: one is a plain actor, several are hosted by Ray Train."""

    num_workers: int = Field(1, ge=1)
    """Data-parallel workers; they share `train.batch_size`."""
    num_cpus: float = Field(1.0, gt=0.0)
    """CPUs of one worker; it runs as many threads as whole CPUs, at least one."""
    num_gpus: float = Field(0.0, ge=0.0)
    """GPUs of one worker."""
    resources: dict[str, float] = {}
    """Custom resources of one worker, for example {student: 1}."""

    @property
    def threads(self) -> int:
        """Threads of one worker."""
        # A sum of shares, such as ten times 0.1, may fall just below a whole CPU.
        return max(1, int(self.num_cpus + 1e-6))
