"""Record runs in MLflow, from the driver alone; the only room that imports mlflow.

`tracker` records one run. `address` decides where, `opening` opens it, `delivery` keeps what waits in an outage,
`stores` looks after the database and the artifacts.
"""

from raykd.redaction import redact
from raykd.tracking.address import Experiment, build_sqlite_uri, find_database_path, resolve_tracking_uri
from raykd.tracking.afterwards import replace_files
from raykd.tracking.delivery.replay import SyncResult, find_waiting_folders, send_waiting
from raykd.tracking.delivery.unrecorded import take_unrecorded_lines
from raykd.tracking.environment import describe_environment
from raykd.tracking.stores.probe import probe_mlflow
from raykd.tracking.stores.recording_place import RecordingPlace, find_recording_place
from raykd.tracking.stores.ui import serve_ui
from raykd.tracking.tracker import Tracker

__all__ = [
    "Experiment",
    "RecordingPlace",
    "SyncResult",
    "Tracker",
    "build_sqlite_uri",
    "describe_environment",
    "find_database_path",
    "find_recording_place",
    "find_waiting_folders",
    "probe_mlflow",
    "redact",
    "replace_files",
    "resolve_tracking_uri",
    "send_waiting",
    "serve_ui",
    "take_unrecorded_lines",
]
