"""Where MLflow records: the tracking URI, safe names.

Decision record: the URI is always explicit. MLflow's own default looks at the current folder and picks a file
store where an old one lies there, which then raises. A password inside a URI is refused rather than stripped,
because MLflow repeats the URI in its exceptions, and in the environment of every child process.

No mlflow here: this part can be used by a preflight check that must be quick.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from raykd.config import TrackingConfig
from raykd.errors import TrackingError
from raykd.redaction import RedactingFilter, redact, redact_value

__all__ = ["RedactingFilter", "checked_uri", "is_server", "redact", "redact_value", "slug", "tracking_uri"]

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LONGEST_KEY = 250
"""Characters MLflow takes in the name of a parameter, metric or tag."""


def slug(key: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag: no other signs, no ``..``, at most 250."""
    clean = re.sub(r"[^\w./ :-]", "_", key)
    clean = re.sub(r"\.\.+", ".", clean)
    clean = re.sub(r"/+", "/", clean).strip("/. ") or "_"
    return clean[:LONGEST_KEY].rstrip("/. ")


def tracking_uri(config: TrackingConfig, output: Path) -> str:
    """The explicit MLflow URI: the config's, else ``MLFLOW_TRACKING_URI``, else SQLite under ``output``.

    Raises:
        TrackingError: the URI holds credentials, or names a store that raykd does not use (``file:``, a
        bare path).
    """
    given = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if given is None:
        return f"sqlite:///{(output.expanduser().resolve() / 'mlflow.db').as_posix()}"
    source = "tracking.uri" if config.uri else "MLFLOW_TRACKING_URI"
    return checked_uri(given.strip(), source)


def checked_uri(uri: str, source: str = "the tracking URI") -> str:
    """The URI if raykd can use it, with an SQLite path made absolute.

    Raises:
        TrackingError: see `tracking_uri`.
    """
    scheme = uri.split("://", 1)[0].split("+", 1)[0].lower() if "://" in uri else ""
    if scheme not in SERVERS + DATABASES:
        raise TrackingError(
            f"{source} is no address that raykd can record to: MLflow keeps no runs in plain folders",
            got=redact(uri),
            wanted="http(s)://host:port or sqlite:///path/mlflow.db (or postgresql://, mysql://, mssql://)",
            next_step="remove it to use SQLite under `output`, or start a server: mlflow server --port 5000",
        )
    if "@" in uri and (scheme in SERVERS or urlsplit(uri).password is not None):
        _refuse_credentials(source, scheme, uri)
    if scheme == "sqlite":
        path = uri.split(":///", 1)[1].split("?", 1)[0] if ":///" in uri else ""
        if not path or path == ":memory:":
            raise TrackingError(
                f"{source} names no database file",
                got=redact(uri),
                wanted="sqlite:///path/mlflow.db",
                next_step="give a path; a database in memory is gone before anyone reads it",
            )
        return f"sqlite:///{Path(path).expanduser().resolve().as_posix()}"
    return uri


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
    """Whether the URI is a server that answers over HTTP."""
    return urlsplit(uri).scheme in SERVERS
