"""The union `Tuning`: which weights of a checkpoint are trained: adapters beside frozen ones, or the head alone.

Decision record: peft makes, counts and merges the adapters. They are put into the model in place, so it keeps its
class, and whatever handles a student handles this one. What the checkpoint lacks (the task's head, often BERT's pooler)
begins with random weights, so it is always trained whole, beside any adapter. Frozen weights are in no optimizer, and
are read from the checkpoint again when the student is saved. A saved adapter names its base and belongs to exactly
these weights, so changes to the checkpoint (`layers`, a trimmed vocabulary) go with `merged: true` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LANGUAGE
from raykd.networks.routing import add_equal_adapters, name_adapter, route_adapters
from raykd.pretrained.adapters import TASK_TYPES, WEIGHTS, check_peft, silence_peft
from raykd.pretrained.structure import is_in_encoder
from raykd.spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_NAME = "default"
"""peft's name of the only adapter of a model."""
_QUERY_VALUE = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("q", "v"), ("Wqkv",))
"""Names of the layers that make queries and values, for architectures that peft names none of (DistilBERT, ALBERT)."""


class LoRA(Spec):
    """Low-rank adapters (LoRA, arXiv:2106.09685): W + (lora_alpha / rank) B A, with B and A alone trained."""

    weight_decomposed: ClassVar[bool] = False
    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1)
    """Rows of A. An adapted matrix [out, in] adds rank x (in + out) parameters."""
    lora_alpha: float = Field(16.0, gt=0.0)
    """Size of an adapter's product, divided by `rank`."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """On an adapter's input."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Endings of the names of adapted layers. None takes peft's own for the architecture (BERT: query, value), or the
    layers of queries and values where peft names none (DistilBERT: q_lin, v_lin)."""
    merged: bool = False
    """Save an ordinary checkpoint, with the adapters added to its weights. Otherwise the student is saved as an
    adapter, which peft loads beside its base."""
    by: Literal["language"] | None = None
    """`language` trains an adapter and a head for each language, beside one copy of the frozen weights; each row goes
    through those of its language. `merged` then saves a checkpoint for each language beside the adapters."""

    def apply(
        self,
        model: PreTrainedModel,
        head: Head,
        missing: Collection[str],
        base: str,
        languages: Sequence[str] = (),
    ) -> None:
        """Put adapters into a model, in place, and freeze the rest of what its checkpoint held.

        Args:
            model: The checkpoint with the head of its task. It may be on the meta device.
            head: What it learns.
            missing: Weights that the checkpoint lacks.
            base: The checkpoint's name, for messages and for the saved adapter.
            languages: Those that get an adapter each; () makes one for all.

        Raises:
            ModelError: peft is not installed, or there is nothing to adapt.
        """
        check_peft(f"student.tuning: {self.kind}")
        _check_head(self.kind, head)
        from peft import LoraConfig, get_peft_model

        targets = self._find_targets(model, base)
        settings = LoraConfig(
            task_type=TASK_TYPES.get(head),
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            fan_in_fan_out=_is_transposed(model, targets),
            modules_to_save=list(_list_whole_modules(model, head, missing)) or None,
            use_dora=self.weight_decomposed,
            base_model_name_or_path=base,
        )
        # peft takes the name from the model, where it is the place of a hub model on this machine.
        model.name_or_path = base
        with silence_peft():
            wrapped = get_peft_model(model, settings, adapter_name=name_adapter(0) if languages else _NAME)
            if languages:
                route_adapters(add_equal_adapters(wrapped, len(languages)), merged=self.merged)

    def _find_targets(self, model: PreTrainedModel, base: str) -> list[str]:
        """Return the endings of the layers' names: the user's, or peft's for the architecture."""
        from peft.utils import constants

        kind, known = model.config.model_type, constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        ends = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        usual: tuple[str, ...] = next((own for own in _QUERY_VALUE if ends.issuperset(own)), ())
        found = list(self.targets or known.get(kind, usual))
        names = [name for name, module in model.named_modules() if hasattr(module, "weight")]
        lost = [end for end in found if not any(name == end or name.endswith(f".{end}") for name in names)]
        if not found or lost:
            shown = sorted(end for end in ends if end and not end.isdigit())
            raise ModelError(
                f"student.tuning: {self.kind} does not know which layers of {base} to adapt",
                got=f"targets {', '.join(lost)}, which no layer is called"
                if found
                else f"model type {kind}, for which peft names none",
                wanted=f"tuning.targets among {', '.join(shown[:30])}",
            )
        return found


class DoRA(LoRA):
    """LoRA that trains the length of each output's weights apart from their direction (arXiv:2402.09353)."""

    weight_decomposed: ClassVar[bool] = True
    kind: Literal["dora"] = "dora"  # type: ignore[assignment]


class HeadOnly(Spec):
    """Train the head alone, and what else the checkpoint lacks. The student is saved as an ordinary checkpoint."""

    kind: Literal["head"] = "head"
    merged: ClassVar[bool] = True
    by: ClassVar[None] = None

    def apply(
        self,
        model: PreTrainedModel,
        head: Head,
        missing: Collection[str],
        base: str,
        languages: Sequence[str] = (),
    ) -> None:
        """Freeze what the checkpoint held of the encoder; see `LoRA.apply`.

        Raises:
            ModelError: The model has no head of its own.
        """
        _check_head(self.kind, head)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name in missing or not is_in_encoder(model, name)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ModelError(
                f"student.tuning: head trains nothing of {base}",
                got=f"a model for {head}, all of whose weights are the checkpoint's encoder",
                wanted="lora or dora, or no tuning",
            )


Tuning = Annotated[LoRA | DoRA | HeadOnly, Field(discriminator="kind")]


def is_by_language(student: object) -> bool:
    """Return whether a student has an adapter for each language."""
    tuning = getattr(student, "tuning", None)
    return tuning is not None and tuning.by is not None


def is_adapted(model: nn.Module) -> bool:
    """Return whether a model holds adapters of peft."""
    return hasattr(model, "peft_config")


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Add a model's adapters to its weights, in place; what is left is the plain architecture."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[_NAME])
    del model.peft_config
    return model


def save_adapter(model: PreTrainedModel, folder: Path, name: str = _NAME) -> None:
    """Write an adapter of a model as peft does, and its config.json, which names the labels."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapter: Any = model.peft_config[name]
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    named = {f"base_model.model.{name}": weight.contiguous() for name, weight in weights.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    adapter.inference_mode = True
    adapter.save_pretrained(str(folder))
    model.config.save_pretrained(str(folder))


def _is_transposed(model: PreTrainedModel, targets: Collection[str]) -> bool:
    """Return whether adapted layers hold their weights as [in, out], as GPT-2's; else peft finds out, and warns."""
    from transformers.pytorch_utils import Conv1D

    ends = tuple(f".{target}" for target in targets)
    return any(
        isinstance(module, Conv1D) and f".{name}".endswith(ends) for name, module in model.named_modules()
    )


def _check_head(kind: str, head: Head) -> None:
    if head == "embedding":
        raise ModelError(
            f"student.tuning: {kind} does not serve sentence vectors",
            got="a task whose answer is the encoder's own",
            wanted="a task with a head, or no tuning",
        )


def _list_whole_modules(model: PreTrainedModel, head: Head, missing: Collection[str]) -> Iterator[str]:
    """Yield the modules that are trained whole: those of the head, and those of the encoder with missing weights.

    A language model has its head from the checkpoint.
    """
    for name, child in () if head in LANGUAGE else model.named_children():
        if not is_in_encoder(model, f"{name}.") and any(True for _ in child.parameters()):
            yield name
    yield from sorted({".".join(name.split(".")[:2]) for name in missing if is_in_encoder(model, name)})
