"""Private names of Ray Train 2.60 (its second version): the trainer's hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class HostTrainer(Protocol):
    """A trainer whose controller can be reached while `fit` blocks."""

    controller: ActorHandle[object] | None
    """The actor from which Ray Train directs its workers; None until `fit` has started it."""

    def fit(self) -> object:
        """Run the training function on the workers, and wait for its end."""


def make_trainer_class(without: Collection[str]) -> Callable[..., HostTrainer]:
    """Return a `TorchTrainer` that leaves Ctrl-C to its caller and starts fewer actors.

    Ray Train's own handler of SIGINT ends the process with exit code 0, and it has no option against it; nor has it
    one against callbacks that it starts by default.

    Args:
        without: Class names of default callbacks that are not started.

    Returns:
        The class; it takes the arguments of `TorchTrainer`.
    """
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        controller: ActorHandle[object] | None = None

        def _register_sigint_handler(self, controller: ActorHandle[object]) -> None:
            self.controller = controller

        def _create_default_callbacks(self) -> list[object]:
            made: list[object] = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in made if type(callback).__name__ not in without]

    return Trainer
