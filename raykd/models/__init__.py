"""Students and teachers: how a model and its tokenizer are made, saved, checked and loaded.

Decision record: a student is a member of the union `Student` (behaviour and hyperparameters in one frozen class), and
every model is a transformers model with the head of its task (`raykd.networks.heads`), so that a student that raykd
trained is a teacher of the next run, and anybody can load it without raykd's training code. Importing this package
imports neither torch nor transformers: a configuration must be readable in a moment. The networks that raykd adds
itself (`raykd_linear`, `raykd_lstm`) are in `raykd.networks.recurrent`; `load_model` imports it, and `register()`
does so for those who load with transformers' auto classes. How a language model is read without its logits, and how
it generates, is in `raykd.models.lm`, and a model for several tasks in `raykd.models.multi`; both import torch.
"""

from raykd.head import Head
from raykd.models.bases import build_student
from raykd.models.checkpoints import PretrainedStudent
from raykd.models.identity import count_stored_parameters, fingerprint, measure_stored_megabytes
from raykd.models.inspection import Inspection, inspect_model
from raykd.models.loading import load_model
from raykd.models.students import (
    LinearStudent,
    LSTMStudent,
    Student,
    TransformerStudent,
)
from raykd.models.textmodel import ModelCard, TextModel, count_parameters, save_model
from raykd.networks.generators import DecoderStudent, EncoderDecoderStudent
from raykd.networks.heads import HEADS, LABELLED, LANGUAGE, SPAN, register
from raykd.pretrained.files import ModelInfo, find_task_folder, inspect_directory, list_tasks, read_labels
from raykd.pretrained.hub import describe_hub_model, find_hub_model, find_local, preview_model, resolve_model
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.tokenizers.ngrams import HashedNgrams

__all__ = [
    "HEADS",
    "LABELLED",
    "LANGUAGE",
    "SPAN",
    "DecoderStudent",
    "EncoderDecoderStudent",
    "HashedNgrams",
    "Head",
    "Inspection",
    "LSTMStudent",
    "LinearStudent",
    "ModelCard",
    "ModelInfo",
    "PretrainedStudent",
    "Student",
    "TextModel",
    "TransformerStudent",
    "build_student",
    "count_parameters",
    "count_stored_parameters",
    "describe_hub_model",
    "find_hub_model",
    "find_local",
    "find_task_folder",
    "fingerprint",
    "inspect_directory",
    "inspect_model",
    "list_tasks",
    "load_model",
    "load_tokenizer",
    "measure_stored_megabytes",
    "preview_model",
    "read_labels",
    "register",
    "resolve_model",
    "save_model",
]
