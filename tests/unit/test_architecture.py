"""The house keeps its shape: layers, one door to each engine, files that can be read, no paths of one machine."""

from __future__ import annotations

import ast
import collections
import contextlib
import graphlib
import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "raykd"
CODE = sorted(PACKAGE.rglob("*.py"))
FILES = [p for folder in ("raykd", "tests", "examples", "benchmarks", "cluster", "tune_spaces")
         for p in sorted((ROOT / folder).rglob("*")) if p.suffix in {".py", ".yaml", ".sh", ".j2", ".md"}]  # fmt: skip
LONGEST = 400


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_import_contracts_hold() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command, "import-linter is not installed"
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("library", "allowed"), [("deepspeed", "student/"), ("mlflow", "tracking/")], ids=lambda x: x
)
def test_a_library_has_one_door(library: str, allowed: str) -> None:
    importing = [str(p.relative_to(PACKAGE)) for p in CODE if library in imported(p)]
    assert importing and [p for p in importing if not p.startswith((allowed, "compat/"))] == []


def test_files_can_be_read_at_one_sitting() -> None:
    long = {p.name: n for p in CODE if (n := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST}
    assert long == {}


def test_every_module_says_why_it_is_there() -> None:
    silent = [str(p) for p in CODE if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    absolute = re.compile(r"(?<![\w.~*])/(?:home|root|work|Users|mnt)/\w")
    naming = [
        f"{p.relative_to(ROOT)}:{number}"
        for p in FILES
        for number, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
        if absolute.search(line)
    ]
    assert naming == []


MOST_FILES = 14


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_a_public_name_stands_once_in_the_package() -> None:
    places: dict[str, list[str]] = collections.defaultdict(list)
    for path in CODE:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}


def imports_at_start(path: Path) -> set[str]:
    """Modules of the package that a file needs while it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE.name):
            found.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {module_name(path): path for path in CODE}
    needs = {name: imports_at_start(path) & set(modules) - {name} for name, path in modules.items()}
    graph = graphlib.TopologicalSorter(needs)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_a_room_holds_few_files() -> None:
    rooms = collections.Counter(
        str(path.parent.relative_to(PACKAGE))
        for path in CODE
        # A task is one file by the rule, so the room of tasks grows with them.
        if path.name != "__init__.py" and "@register_task" not in path.read_text(encoding="utf-8")
    )
    crowded = {room: count for room, count in rooms.items() if count > MOST_FILES}
    assert crowded == {}


LIBRARIES = re.compile(r"\b(?:ray|tune|deepspeed|transformers|mlflow)(?:\.\w+)*\._[a-z]\w*")
HOOKS = {"_init_weights"}
"""Private names that a library asks its users to override: every model of transformers defines this one."""
OPEN_THOUGH_PRIVATE = {"os._exit", "sys._current_frames"}
"""Functions that Python documents for everybody."""


def is_private(name: object) -> bool:
    """Whether a name begins with one underscore."""
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def own_private_names() -> collections.Counter[str]:
    """How often each private name is defined in the package outside `compat`."""
    found: collections.Counter[str] = collections.Counter()
    for path in OUTSIDE_COMPAT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] += 1
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found[node.id] += 1
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found[node.attr] += ast.unparse(node.value) in ("self", "cls")
    return found


def private_uses(tree: ast.AST, own: collections.Counter[str]) -> set[str]:
    """Private names that are imported, read or asked for by name, and that the package does not define itself."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            parts = ".".join([getattr(node, "module", None) or "", *names]).split(".")
            if any(is_private(part) and not own[part] for part in parts):
                found.add(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            times = own[node.attr]
            if times == 0 or (ast.unparse(node.value) == "super()" and times < 2):
                found.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if any(is_private(name) and not own[str(name)] for name in names):
                found.add(ast.unparse(node))
    return {use for use in found - OPEN_THOUGH_PRIVATE if use.rpartition(".")[2] not in HOOKS}


OUTSIDE_COMPAT = [p for p in CODE if not p.is_relative_to(PACKAGE / "compat")]


def test_private_names_of_libraries_stand_in_compat_alone() -> None:
    own = own_private_names()
    found = {}
    for path in OUTSIDE_COMPAT:
        text = path.read_text(encoding="utf-8")
        uses = private_uses(ast.parse(text), own) | {match[0] for match in LIBRARIES.finditer(text)}
        if uses:
            found[str(path.relative_to(PACKAGE))] = sorted(uses)
    assert found == {}


def test_the_search_for_private_names_finds_each_way_to_use_one() -> None:
    text = """
from ray._private import services
import mlflow.tracking._tracking_service as service
from ray.tune.schedulers.hyperband import _Bracket
engine._config.x = 1
getattr(model, "_keys")
class Own(Theirs):
    def _serialize(self):
        return super()._serialize()
"""
    own = collections.Counter({"_serialize": 1})
    assert len(private_uses(ast.parse(text), own)) == 6


USERS = sorted(p for d in ("benchmarks", "tests", "tools", "examples") for p in (ROOT / d).rglob("*.py"))
"""Programs that use the package. No test runs the benchmarks, so nothing else tells that a name is gone."""


def missing_names(tree: ast.AST) -> list[str]:
    """Names of the package that a program imports, or reads of a module that it imports, and that are not there."""
    modules: dict[str, object] = {}
    missing = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "raykd"):
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            if (
                not hasattr(module, alias.name)
                and importlib.util.find_spec(f"{node.module}.{alias.name}") is None
            ):
                missing.append(f"{node.module}.{alias.name}")
            elif isinstance(member := getattr(module, alias.name, None), type(ast)):
                modules[alias.asname or alias.name] = member
    uses = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return missing + [
        f"{use.value.id}.{use.attr}"
        for use in uses
        if use.value.id in modules and not hasattr(modules[use.value.id], use.attr)
    ]


def list_programs(path: Path) -> list[ast.AST]:
    """The file, and the scripts that it holds as texts and runs in processes of their own."""
    programs: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for node in ast.walk(programs[0]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nfrom raykd" in node.value:
            with contextlib.suppress(SyntaxError):  # prose, or a template
                programs.append(ast.parse(textwrap.dedent(node.value)))
    return programs


def test_what_programs_import_of_the_package_is_there() -> None:
    found = {
        str(p.relative_to(ROOT)): [name for program in list_programs(p) for name in missing_names(program)]
        for p in USERS
    }
    assert {path: names for path, names in found.items() if names} == {}
    broken = "from raykd import models; from raykd.models import nowhere\nmodels.nothing"
    assert missing_names(ast.parse(broken)) == ["raykd.models.nowhere", "models.nothing"]
