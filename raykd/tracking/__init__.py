"""Recording runs in MLflow, from the driver alone; the only room that imports mlflow.

Decision record: a package instead of one file, because an outage that loses nothing, redaction and MLflow's
settings by environment variables are each a piece of their own.
"""

from raykd.point import Point
from raykd.tracking.address import (
    Experiment,
    RedactingFilter,
    build_sqlite_uri,
    database_path,
    redact,
    slug,
    tracking_uri,
)
from raykd.tracking.delivery.replay import Sent, folders_to_send, replay
from raykd.tracking.delivery.unrecorded import lines_of_left
from raykd.tracking.environment import environment
from raykd.tracking.stores.look import RecordingPlace, find_recording_place
from raykd.tracking.stores.pages import serve_ui
from raykd.tracking.stores.probe import probe
from raykd.tracking.tracker import Tracker

__all__ = [
    "Experiment",
    "Point",
    "RecordingPlace",
    "RedactingFilter",
    "Sent",
    "Tracker",
    "build_sqlite_uri",
    "database_path",
    "environment",
    "find_recording_place",
    "folders_to_send",
    "lines_of_left",
    "probe",
    "redact",
    "replay",
    "serve_ui",
    "slug",
    "tracking_uri",
]
