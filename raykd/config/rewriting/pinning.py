"""Pin models of the hub to the commits that a run starts with.

Decision record: a branch moves, so its name in a record would not say what was used, and workers that start at
different times could load different weights. The driver asks once, before anything is written. So `run.yaml`, MLflow's
parameters and every process name the same commit.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar, cast

from raykd.config.multi import Run
from raykd.config.teachers import SavedModelTeacher, TeacherBase
from raykd.errors import ModelError
from raykd.pretrained.hub import find_hub_model, find_local

R = TypeVar("R", bound=Run)


def pin_revisions(config: R) -> R:
    """Return a run whose models of the hub are named by commit.

    A model that cannot be found stays as it is, because the check of the run refuses it with its key.
    """
    stage = config.pretraining
    teachers = (*config.teachers, *(stage.teachers if stage else ()))
    sources = [*teachers, *(t.training.model for t in config.trained_teachers), config.student]
    sources += [member.peer.student for member in config.members.values() if member.peer is not None]
    # Answers in files have a path as well, and no revision.
    paths = [getattr(source, "path", "") for source in sources if hasattr(source, "revision")]
    if not any(map(_is_hub_name, paths)):
        return config
    tree = config.model_dump(mode="json")
    trained = [t["training"]["model"] for t in tree["teachers"] if "training" in t]
    others = tree["pretraining"]["teachers"] if stage else ()
    peers = [tree["peer"]["student"]] if tree.get("peer") else []
    for model in [*tree["teachers"], *others, *trained, tree["student"], *peers]:
        if "revision" in model and _is_hub_name(model["path"]):
            with suppress(ModelError):
                model["revision"] = find_hub_model(model["path"], model["revision"]).commit
    return cast(R, type(config).model_validate(tree))


def pin_teacher(teacher: TeacherBase) -> TeacherBase:
    """Return a teacher that is named by commit, if it is a model of the hub that can be found."""
    if isinstance(teacher, SavedModelTeacher) and _is_hub_name(teacher.path):
        with suppress(ModelError):
            commit = find_hub_model(teacher.path, teacher.revision).commit
            return teacher.model_copy(update={"revision": commit})
    return teacher


def _is_hub_name(path: str) -> bool:
    with suppress(ModelError):
        return find_local(path) is None
    return False
