"""Recording runs in MLflow, from the driver alone; the only room that imports mlflow.

Decision record: a package instead of one file, because an outage that loses nothing, redaction and MLflow's
settings by environment variables are each a piece of their own.
"""

from raykd.point import Point
from raykd.tracking.address import RedactingFilter, redact, slug, tracking_uri
from raykd.tracking.environment import environment
from raykd.tracking.part import PartTracker
from raykd.tracking.probe import probe
from raykd.tracking.replay import Sent, folders_to_send, replay
from raykd.tracking.tracker import Tracker, serve_ui

__all__ = [
    "PartTracker",
    "Point",
    "RedactingFilter",
    "Sent",
    "Tracker",
    "environment",
    "folders_to_send",
    "probe",
    "redact",
    "replay",
    "serve_ui",
    "slug",
    "tracking_uri",
]
