"""The union `Optimizer`: what turns gradients into steps, by name.

Decision record: members name classes of kept libraries (torch's; lion-pytorch for Lion, an extra), so no optimizer is
written or compiled here. Learning rate, schedule and weight decay stay keys of `train`, which all of them read. ZeRO
hands an optimizer a flat part of all parameters. That changes nothing where each number is updated by itself, and it
changes what Adafactor computes from rows and columns.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from raykd.errors import ConfigError
from raykd.spec import Spec

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerBase(Spec):
    """An optimizer of a library. Subclasses name its class and override `list_arguments`."""

    library: ClassVar[str] = "torch.optim"
    name: ClassVar[str]
    """Name of its class."""
    elementwise: ClassVar[bool] = True
    """Whether it updates each number by itself, so that ZeRO may split parameters anywhere."""
    moments: ClassVar[int] = 1
    """How many numbers it keeps for each parameter."""
    kind: str

    def find_class(self) -> type[Any]:
        """Return its class, a `torch.optim.Optimizer`.

        Raises:
            ConfigError: The library is not installed.
        """
        try:
            module = import_module(self.library)
        except ImportError:
            raise ConfigError(
                f"train.optimizer {self.kind} needs a package that is not installed",
                got=f"no package {self.library}",
                wanted=self.library.replace("_", "-"),
                next_step=f'pip install "raykd[{self.kind}]", or choose another optimizer',
            ) from None
        found: type[Any] = getattr(module, self.name)
        return found

    @abstractmethod
    def list_arguments(self) -> dict[str, object]:
        """Return its arguments, but for parameters, learning rate and weight decay."""

    def count_values(self) -> int:
        """Return how many numbers it keeps for each parameter as configured; 0 where rows and columns share them."""
        return self.moments


class AdamW(OptimizerBase):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    name: ClassVar[str] = "AdamW"
    moments: ClassVar[int] = 2
    kind: Literal["adamw"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the mean of gradients and of their squares."""
    epsilon: float = Field(1e-8, gt=0.0)
    """Added to the root of the squares."""

    def list_arguments(self) -> dict[str, object]:
        return {"betas": self.betas, "eps": self.epsilon}


class SGD(OptimizerBase):
    """Stochastic gradient descent with momentum. Its weight decay is added to the gradient, as torch does it."""

    name: ClassVar[str] = "SGD"
    kind: Literal["sgd"] = "sgd"
    momentum: Share = 0.9
    """Share of the last step that is kept; 0 is none."""
    nesterov: bool = False
    """Look ahead along the momentum before the gradient is added."""

    def list_arguments(self) -> dict[str, object]:
        return {"momentum": self.momentum, "nesterov": self.nesterov and self.momentum > 0.0}

    def count_values(self) -> int:
        return int(self.momentum > 0.0)


class Adafactor(OptimizerBase):
    """Squares of gradients by row and column (arXiv:1804.04235): an optimizer of almost no memory. Without ZeRO.

    The step is `learning_rate` (at most 1 / sqrt(step)) times the root mean square of the parameter.
    """

    name: ClassVar[str] = "Adafactor"
    elementwise: ClassVar[bool] = False
    moments: ClassVar[int] = 0
    kind: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, lt=0.0)
    """Power of the step by which the mean of squares forgets."""
    clipping: float = Field(1.0, gt=0.0)
    """Largest root mean square of an update."""

    def list_arguments(self) -> dict[str, object]:
        return {"beta2_decay": self.beta2_decay, "d": self.clipping}


class Lion(OptimizerBase):
    """The sign of a momentum (arXiv:2302.06675), of the package lion-pytorch. Wants about a tenth of AdamW's rate."""

    library: ClassVar[str] = "lion_pytorch"
    name: ClassVar[str] = "Lion"
    kind: Literal["lion"] = "lion"
    betas: tuple[Share, Share] = (0.9, 0.99)
    """Share of the momentum in the step, and in the next momentum."""

    def list_arguments(self) -> dict[str, object]:
        return {"betas": self.betas}


Optimizer = Annotated[AdamW | SGD | Adafactor | Lion, Field(discriminator="kind")]
