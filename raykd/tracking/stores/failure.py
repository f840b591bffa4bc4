"""Turn an error of MLflow into one that says what helps: a proxy, a password, a server that is another one, a driver.

Decision record: MLflow and the libraries under it raise a page each, whose first line names the last thing that was
tried. The causes are told apart by words in that page; MLflow's own words are kept as what was got.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from raykd.environ import find_proxy
from raykd.errors import RaykdError, TrackingError
from raykd.redaction import redact
from raykd.tracking.address import is_server
from raykd.tracking.delivery.outbox import describe_error
from raykd.tracking.stores.database import make_away_error
from raykd.tracking.timeouts import PROBE_S

ELSEWHERE = "remove tracking.uri and MLFLOW_TRACKING_URI to record in an SQLite database under `output`"
DRIVERS = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "pymysql": "pymysql", "pyodbc": "pyodbc"}
"""The package of a database's driver, by its module."""


def convert_failure(uri: str, error: BaseException) -> RaykdError:
    """Return the error to show for one that was raised while MLflow was opened: why, and what helps."""
    if isinstance(error, RaykdError):
        return error
    text = str(error)
    got = describe_error(error, 500)
    what = f"MLflow cannot be used at {redact(uri)}"
    if isinstance(error, ModuleNotFoundError):
        return TrackingError(
            f"{what}: the driver of this database is not installed", got=got, wanted=f"the module {error.name}",
            next_step=f"pip install {DRIVERS.get(str(error.name), error.name)}",
        )  # fmt: skip
    if not is_server(uri):
        return make_away_error(
            what, got=got, wanted="a database that opens",
            next_step="see that it is there and may be written, or set tracking.uri to another database",
        )  # fmt: skip
    # MLflow's own words, then those of requests
    status = re.search(
        r"\b(?:error code|status code|HTTP)\D{0,3}(\d{3})\b|\b(\d{3}) (?:Client|Server) Error", text
    )
    code = "" if status is None else status[1] or status[2]
    if code in ("401", "403"):
        return TrackingError(
            f"the MLflow server {redact(uri)} lets nobody in without a name", got=got,
            wanted="a user or token that may write",
            next_step="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )  # fmt: skip
    if code in ("404", "405") or "not valid JSON" in text or "JSONDecode" in text:
        return TrackingError(
            f"what answers at {redact(uri)} is no MLflow server", got=got, wanted="the address of an MLflow server",
            next_step=f"correct tracking.uri or MLFLOW_TRACKING_URI; {ELSEWHERE}",
        )  # fmt: skip
    wanted = f"an answer within {PROBE_S + 1} s"
    if (proxy := find_proxy(uri)) is not None:
        return make_away_error(
            f"{what}: it was asked through a proxy", got=f"{got} ({redact(proxy)})", wanted=wanted,
            next_step=f"NO_PROXY={urlsplit(uri).hostname} asks it directly; or start the server, or correct the proxy",
        )  # fmt: skip
    return make_away_error(
        what, got=got, wanted=wanted,
        next_step=f"start the server (mlflow server --port {urlsplit(uri).port or 5000}) or correct tracking.uri; "
        f"{ELSEWHERE}",
    )  # fmt: skip
