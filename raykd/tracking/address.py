"""Decide where MLflow records: the tracking URI and the experiment.

Decision record: the URI is always explicit. MLflow's own default looks at the current folder and picks a file store
where an old one lies there, which then raises. A password inside a URI is refused rather than stripped, because MLflow
repeats the URI in its exceptions and in the environment of every child process. A key of the run wins over the
environment, for the URI and for the experiment alike.

No mlflow here, so that a preflight check stays quick.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from raykd.config import TrackingConfig
from raykd.environ import is_this_machine
from raykd.errors import TrackingError
from raykd.redaction import redact

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
DEFAULT_EXPERIMENT = "raykd"
LONGEST_NAME = 500
"""Characters that MLflow takes in the name of an experiment."""
URI, NAME, ID, RUN, FILES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
    "MLFLOW_ALLOW_FILE_STORE",
)
"""Variables of MLflow that raykd follows, or says that it does not follow."""


@dataclass(frozen=True)
class Experiment:
    """The experiment that is asked for.

    Attributes:
        name: Empty where an id is asked for; then MLflow alone knows the name.
        id: What MLFLOW_EXPERIMENT_ID says.
        source: The key or variable that names it, for messages.
    """

    name: str = DEFAULT_EXPERIMENT
    id: str | None = None
    source: str = "tracking.experiment"

    def __str__(self) -> str:
        return f"{self.name!r}" if self.id is None else f"with the id {self.id}"

    @staticmethod
    def of(config: TrackingConfig) -> Experiment:
        """Return the experiment that the run's key names, else the environment, else `raykd`.

        Raises:
            TrackingError: MLflow takes no such name.
        """
        if config.experiment is not None:
            return Experiment(config.experiment)
        if name := os.environ.get(NAME):
            if len(name) > LONGEST_NAME:
                raise TrackingError(
                    f"{NAME} is too long",
                    got=f"{len(name)} characters",
                    wanted=f"at most {LONGEST_NAME}",
                    next_step="shorten it, or set tracking.experiment",
                )
            return Experiment(name, source=NAME)
        if number := os.environ.get(ID):
            return Experiment("", number, ID)
        return Experiment()


def list_environment_notes(config: TrackingConfig) -> list[str]:
    """Return what a reader must know of MLflow's variables: which count for this run and which do not."""
    asked, notes = Experiment.of(config), []
    if asked.source in (NAME, ID):
        notes.append(
            f"records go to the MLflow experiment {asked} ({asked.source}; tracking.experiment is not set)"
        )
    elif config.experiment is not None and (named := os.environ.get(NAME) or os.environ.get(ID)):
        variable = NAME if os.environ.get(NAME) else ID
        notes.append(f"{variable}={named} is ignored: the run says tracking.experiment: {config.experiment}")
    if config.uri and os.environ.get(URI):
        notes.append(f"{URI} is ignored: the run says tracking.uri: {redact(config.uri)}")
    if os.environ.get(RUN):
        notes.append(
            f"{RUN} is ignored: a run of raykd opens an MLflow run of its own, and --resume goes on with it"
        )
    return notes


def resolve_tracking_uri(config: TrackingConfig, output: Path) -> str:
    """Return the explicit MLflow URI: the config's, else ``MLFLOW_TRACKING_URI``, else SQLite under ``output``.

    Raises:
        TrackingError: The URI holds credentials, or names a store that raykd does not use (``file:``, a bare path).
    """
    given = (config.uri or os.environ.get(URI) or "").strip()
    if not given:
        return build_sqlite_uri(output.expanduser().resolve() / "mlflow.db")
    return check_uri(given, "tracking.uri" if config.uri else URI)


def check_uri(uri: str, source: str = "the tracking URI") -> str:
    """Return the URI if raykd can use it, with an SQLite path made absolute.

    Args:
        uri: Address of MLflow as the user wrote it.
        source: Where the URI comes from, for messages.

    Raises:
        TrackingError: See `resolve_tracking_uri`.
    """
    scheme = uri.split(":", 1)[0].split("+", 1)[0].lower() if "://" in uri or uri.startswith("file:") else ""
    if scheme in ("", "file") and _may_use_files():
        return _build_file_uri(uri)
    if scheme not in SERVERS + DATABASES:
        raise TrackingError(
            f"{source} is no address that raykd can record to: MLflow keeps no runs in plain folders",
            got=redact(uri),
            wanted="http(s)://host:port or sqlite:///path/mlflow.db (or postgresql://, mysql://, mssql://)",
            next_step="remove it to use SQLite under `output`, or start a server: mlflow server --port 5000"
            + (f"; {FILES}=true if it must be a folder" if scheme in ("", "file") else ""),
        )
    if "@" in uri and (scheme in SERVERS or urlsplit(uri).password is not None):
        _refuse_credentials(source, scheme, uri)
    if scheme in SERVERS and not urlsplit(uri).hostname:
        raise TrackingError(f"{source} names no host", got=redact(uri), wanted="http://host:port")
    return _check_sqlite_uri(uri, source) if scheme == "sqlite" else uri


def _may_use_files() -> bool:
    return os.environ.get(FILES, "").lower() in ("true", "1")


def _build_file_uri(uri: str) -> str:
    path = unquote(urlsplit(uri).path) if uri.startswith("file:") else uri
    return Path(path or "mlruns").expanduser().resolve().as_uri()


def _check_sqlite_uri(uri: str, source: str) -> str:
    path, _, query = uri.split(":///", 1)[1].partition("?") if ":///" in uri else ("", "", "")
    if not path or path == ":memory:":
        raise TrackingError(
            f"{source} names no database file",
            got=redact(uri),
            wanted="sqlite:///path/mlflow.db",
            next_step="give a path; a database in memory is gone before anyone reads it",
        )
    if path.startswith("file:"):  # SQLite's own form of a path, which only SQLite reads
        return uri
    read = Path(unquote(path) if _decodes_percent() else path).expanduser().resolve()
    return build_sqlite_uri(read) + (f"?{query}" if query else "")


@cache
def _decodes_percent() -> bool:
    """Return whether SQLAlchemy reads %20 in the path of a database as a blank, as it does since 2.1."""
    version = [int(number) for number in re.findall(r"\d+", importlib.metadata.version("sqlalchemy"))[:2]]
    return version >= [2, 1]


def build_sqlite_uri(path: Path) -> str:
    """Return the URI of a database file, whatever signs its folders have.

    Raises:
        TrackingError: This SQLAlchemy has no way to write such a path.
    """
    text = path.as_posix()
    if _decodes_percent():
        return "sqlite:///" + text.replace("%", "%25").replace("?", "%3F")
    if "?" in text:
        raise TrackingError(
            "the MLflow database cannot lie in a folder with a question mark in its name",
            got=text,
            wanted="another output, or SQLAlchemy 2.1 or newer",
            next_step="rename the folder, or: pip install -U sqlalchemy",
        )
    return f"sqlite:///{text}"


def find_database_path(uri: str) -> Path | None:
    """Return the file that a URI from `check_uri` names; None for any store but SQLite."""
    if not uri.startswith("sqlite") or ":///" not in uri:
        return None
    path = uri.split(":///", 1)[1].partition("?")[0]
    return None if path.startswith("file:") else Path(unquote(path) if _decodes_percent() else path)


def _refuse_credentials(source: str, scheme: str, uri: str) -> None:
    step = (
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN) in the environment"
        if scheme in SERVERS
        else "put an MLflow server before the database and log in with MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or use the database's own password file"
    )
    raise TrackingError(
        f"{source} holds credentials, which would show in logs and in child processes",
        got=redact(uri),
        wanted="a URI without user:password@",
        next_step=f"remove them from the URI and {step}",
    )


def is_server(uri: str) -> bool:
    """Return whether the URI is a server that answers over HTTP."""
    return urlsplit(uri).scheme in SERVERS


def format_mlflow_command(uri: str, words: str) -> str:
    """Return a command of MLflow that works as it is printed, in this folder or any other."""
    program = "mlflow" if shutil.which("mlflow") else f"{shlex.quote(sys.executable)} -m mlflow"
    host = urlsplit(uri).hostname or "" if is_server(uri) else ""
    bypass = f"NO_PROXY={host} " if getproxies_environment() and host and is_this_machine(host) else ""
    return f"{bypass}{URI}={shlex.quote(redact(uri))} {program} {words}"


def format_sync_command(uri: str, folder: Path) -> str:
    """Return the command that sends what a run's folder keeps, with the URI where only the environment names it."""
    given = os.environ.get(URI, "").strip()
    before = f"{URI}={shlex.quote(redact(uri))} " if given and check_uri(given) == uri else ""
    return f"{before}raykd mlflow sync {shlex.quote(str(folder))}"
