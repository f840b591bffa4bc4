"""Students and teachers: how a model and its tokenizer are made, saved, checked and loaded.

Decision record: a student is a member of the union `Student` (behaviour and hyperparameters in one frozen class), and
every model is a transformers model with the head of its task (`raykd.networks.heads`), so that a student that raykd
trained is a teacher of the next run, and anybody can load it without raykd's training code. Importing this package
imports neither torch nor transformers: a configuration must be readable in a moment. The networks that raykd adds
itself (`raykd_linear`, `raykd_lstm`) are in `raykd.networks.recurrent`; `load` imports it, and `register()` does so for
those who load with transformers' auto classes. How a language model is read without its logits, and how it generates,
is in `raykd.models.lm`, and a model for several tasks in `raykd.models.multi`; both import torch.
"""

from raykd.models.identity import fingerprint, stored_parameters
from raykd.models.inspection import Inspection, inspect_model
from raykd.models.loading import load
from raykd.models.students import LSTM, Linear, Pretrained, Student, Transformer
from raykd.models.textmodel import ModelCard, TextModel, parameter_count, save
from raykd.networks.generators import Decoder, EncoderDecoder
from raykd.networks.heads import HEADS, LABELLED, LANGUAGE, SPAN, Head, register
from raykd.pretrained.files import ModelInfo, folder_of, inspect_directory, read_labels, tasks_of
from raykd.pretrained.hub import resolve
from raykd.pretrained.tokenizers import load_tokenizer
from raykd.tokenizers.ngrams import HashedNgrams

__all__ = [
    "HEADS",
    "LABELLED",
    "LANGUAGE",
    "LSTM",
    "SPAN",
    "Decoder",
    "EncoderDecoder",
    "HashedNgrams",
    "Head",
    "Inspection",
    "Linear",
    "ModelCard",
    "ModelInfo",
    "Pretrained",
    "Student",
    "TextModel",
    "Transformer",
    "fingerprint",
    "folder_of",
    "inspect_directory",
    "inspect_model",
    "load",
    "load_tokenizer",
    "parameter_count",
    "read_labels",
    "register",
    "resolve",
    "save",
    "stored_parameters",
    "tasks_of",
]
