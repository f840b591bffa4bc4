"""Where a run's time goes: stages of its processes, a file that trace viewers open, and shares that add up.

Decision record: stages are recorded in every run, because a question about time comes after the run; they are few and
cost microseconds. Parts of single steps are recorded with `--profile` alone. The run's folder keeps one file,
``timeline.json``, in the format of Chrome's traces, which chrome://tracing and Perfetto open and a resumed run reads
back. The module knows neither Ray nor torch: workers hand their spans to the driver with their other news.
"""

from raykd.timeline.epochs import EpochStages
from raykd.timeline.recording import (
    Span,
    Timeline,
    get_active,
    is_profiled,
    note_process_start,
    recording,
    stage,
    step_part,
)
from raykd.timeline.shares import OTHER, TRAINING, WORKER, Share, compute_shares
from raykd.timeline.trace import FILE, read_trace, write_trace

__all__ = [
    "FILE",
    "OTHER",
    "TRAINING",
    "WORKER",
    "EpochStages",
    "Share",
    "Span",
    "Timeline",
    "compute_shares",
    "get_active",
    "is_profiled",
    "note_process_start",
    "read_trace",
    "recording",
    "stage",
    "step_part",
    "write_trace",
]
