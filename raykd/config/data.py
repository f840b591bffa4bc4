"""Define the `data` part of a run: what is read, and how it is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raykd.config.augmentation import Augmentation, check_augmentations
from raykd.errors import ConfigError
from raykd.spec import Spec
from raykd.tasks.forms import LABELLED_FORMS, RowForm
from raykd.tasks.schemes import parse_scheme

ColumnKey = Literal[
    "text",
    "text_pair",
    "label",
    "tokens",
    "tags",
    "head",
    "tail",
    "direction",
    "question",
    "context",
    "answers",
    "value",
    "labels",
    "query",
    "candidates",
    "relevances",
    "query_id",
    "candidate",
    "relevance",
    "positive",
    "negative",
    "source",
    "target",
    "language",
    "source_language",
    "group",
    "id",
]
"""The keys of `Columns`."""


class Files(Spec):
    """JSON lines, CSV, TSV, Parquet or plain text files (.txt: one text a line, under the key `text`); the ending says
    which. All but Parquet may be packed (.gz, .zst, .bz2, .xz)."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, read in this order; a pattern (`train-*.jsonl`) stands for those that match, sorted by name. Relative
    paths are relative to the YAML that holds them; a URL of fsspec (`s3://bucket/train-*.parquet`) is read as a
    stream."""
    delimiter: str | None = None
    """What separates the fields of CSV and TSV: one sign, or `tab`. None finds out by the header (`,` tab `;` or `|`)
    or by Excel's first line `sep=;`, and says so."""
    quoting: Literal["minimal", "none"] | None = None
    """Whether fields of CSV and TSV may stand in double quotes (minimal), or quotes are part of the text and every line
    is a row (none). None is minimal for CSV and none for TSV, unless a TSV's header stands in quotes."""
    columns: dict[ColumnKey, str] = {}
    """Overrides of `data.columns` for these files only."""
    language: str | None = None
    """The language of all rows, for files that have no language column."""
    source_language: str | None = None
    """The language of all sources, for files without such a column (see `Columns.source_language`)."""
    rows_per_language: int | None = Field(None, ge=1)
    """Use only so many rows per language, spread over the files (as many with a label as without); None takes all."""

    @field_validator("delimiter")
    @classmethod
    def _one_sign(cls, value: str | None) -> str | None:
        value = {"tab": "\t", "\\t": "\t"}.get(value or "", value)
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError('one sign that separates fields and is no quote ("|" stands in quotes), or tab')
        return value


class Hub(Spec):
    """A data set of the Hugging Face hub (or a local data set folder), by name."""

    kind: Literal["hub"] = "hub"
    name: str
    """Name of the data set, or a folder that `save_to_disk` wrote."""
    config_name: str | None = None
    """Configuration of a data set that has several."""
    split: str = "train"
    """A split, or a part of one: `train[:50%]`, `train[100:200]`, `train+validation`."""
    revision: str | None = None
    """Branch, tag or commit."""
    columns: dict[ColumnKey, str] = {}
    """As for files."""
    language: str | None = None
    """As for files."""
    source_language: str | None = None
    """As for files."""
    rows_per_language: int | None = Field(None, ge=1)
    """As for files."""


class Embedded(Spec):
    """A corpus that ships with raykd, in zh, en and fr. The form of the task's rows decides which one.

    Opinions to classify, texts with names to tag, questions about a few facts, sentences to translate, or a dialogue
    to go on with; and by name documents to summarise.
    """

    kind: Literal["embedded"] = "embedded"
    split: Literal["train", "validation", "test", "unlabeled"] = "train"
    """Which part of the corpus."""
    corpus: Literal["summaries"] | None = None
    """A corpus by name: summaries (documents about a few persons) for seq2seq. None: that of the task's rows."""
    rows_per_language: int = Field(1000, ge=1)
    """Rows that are generated for each language."""
    seed: int = 0
    """Seed of the order of rows; 0 keeps the order in which they ship."""
    label_noise: float = Field(0.05, ge=0.0, lt=0.5)
    """Share of rows (in tagging: of names) with a wrong gold label. No system can be right more often than one minus
    this share."""


Source = Annotated[Files | Hub | Embedded, Field(discriminator="kind")]


class Columns(Spec):
    """Names of the columns in the files; None if there is no such column.

    Only columns of the task's rows are read. Renaming another one is an error.
    """

    text: str = "text"
    """Text to classify; of unlabelled rows of token classification also raw text, where there are no tokens. A language
    model of whole texts reads tokens, or the context, where `text` keeps its default and is not there."""
    text_pair: str | None = None
    """Second text of a pair."""
    label: str | None = "label"
    """The class of a row; null reads no class of any row, with `empty_label: unlabeled`."""
    tokens: str = "tokens"
    """A list of words (in CSV: JSON, or words between blanks)."""
    tags: str | None = "tags"
    """One label per word, in the same form; null reads none of any row, with `empty_label: unlabeled`."""
    head: str = "head"
    """First entity of a relation: its text, `[begin, end]` in characters, or `{text, begin, end}`. Where head and tail
    keep their defaults and are not there, the texts hold the markers [E1] [/E1] [E2] [/E2]."""
    tail: str = "tail"
    """Second entity, in the same form."""
    direction: str | None = None
    """Which entity comes first in the relation: `head-tail` or `tail-head`, empty where that is no question. A label
    then ends in (e1,e2) or (e2,e1)."""
    question: str = "question"
    """Question, in question answering."""
    context: str = "context"
    """The text that holds the answer."""
    answers: str = "answers"
    """`{text: [...], answer_start: [...]}` or a list of `{text, answer_start}`; offsets count characters. Empty lists
    (or `is_impossible: true`) where the context does not answer the question."""
    value: str = "score"
    """The number of a row; of embedding how much a pair means the same, not read where it keeps its default and is not
    there."""
    labels: str = "labels"
    """All labels of a row, as a list (in CSV also as JSON, or with `|`, `;` or `,` between them); an empty list is a
    row with none of them. Where it keeps its default and is not there, each label has a column of its own, 0 or 1."""
    query: str = "query"
    """Query, in ranking."""
    candidates: str = "candidates"
    """The texts that are ranked for it, a list (in CSV as JSON). Where it is not there, a row holds one candidate
    (`candidate`, `relevance`) or a `positive` and a `negative`, and the rows of a query are put together."""
    relevances: str = "relevances"
    """How relevant each candidate is, numbers from 0 on. Where it keeps its default and is not there, `label` is read:
    the place of the one right candidate, counted from 0."""
    query_id: str = "query_id"
    """Which rows are of one query; where it is not there, its text says so."""
    candidate: str = "candidate"
    """The one candidate of a row."""
    relevance: str = "relevance"
    """Its relevance."""
    positive: str = "positive"
    """A relevant candidate, or a list of them."""
    negative: str = "negative"
    """One that is not, or a list; columns `negative_1`, `negative_2`, ... too."""
    source: str | None = "src"
    """The source or prompt; where it keeps its default and is not there, `prompt` is read, and where a prompt may be
    empty and that is not there either, none."""
    target: str = "tgt"
    """The text to be written."""
    language: str | None = "lang"
    """Where it keeps its default and is not there, rows with targets read `tgt_lang`: scores are compared by the
    language that is written."""
    source_language: str | None = "src_lang"
    """Language of the source, by any name, for models that read it (mBART, NLLB, M2M-100); not read where it keeps its
    default and is not there."""
    group: str | None = None
    """A text by which rows are chosen (`data.select_groups`), weighted (`objective.weighting: by_column`) and scored,
    such as a domain. Unlabelled files may lack it."""
    id: str | None = None
    """Name of a row in messages; without it rows are named by file and line."""

    @staticmethod
    def keys_of(form: RowForm) -> tuple[ColumnKey, ...]:
        """Return the keys that rows of this form may use."""
        return (*_OF_FORM[form], "language", "group", "id")


_OF_FORM: dict[RowForm, tuple[ColumnKey, ...]] = {
    "text": ("text", "text_pair", "label"),
    "words": ("tokens", "tags", "text"),
    "answers": ("question", "context", "answers"),
    "marked": ("text", "head", "tail", "label", "direction"),
    "target": ("source", "target"),
    "source_target": ("source", "target", "source_language"),
    "plain": ("text", "tokens", "context"),
    "value": ("text", "text_pair", "value"),
    "labels": ("text", "text_pair", "labels"),
    "sentences": ("text", "text_pair", "value"),
    "candidates": (
        *("query", "candidates", "relevances", "label"),
        *("query_id", "candidate", "relevance", "positive", "negative"),
    ),
}


class Replay(Spec):
    """Training rows of an earlier run, mixed in (experience replay). `from_run` writes it."""

    data: DataConfig
    """What the earlier run read, with the labels of this one."""
    share: float = Field(0.2, ge=0.0, le=1.0)
    """Share of its training rows, of each language and label alike; 0 learns none again."""
    seed: int = Field(0, ge=0)
    """Seed of their choice."""


class DataConfig(Spec):
    """What is read, and how it is sampled."""

    train: Source
    validation: Source
    test: Source | None = None
    unlabeled: Source | None = None
    """Texts without labels, added to the training rows. The hard term never sees them."""
    augment: tuple[Augmentation, ...] = ()
    """Changed copies of all training texts, added to them as texts without labels."""
    columns: Columns = Columns()
    replay: Replay | None = None
    """Rows of an earlier run that are learnt again, with their labels, so that they are not forgotten."""
    labels: tuple[str, ...] = ()
    """The run's label list (of token classification: the tags); its order is the order of all logits. Only tasks that
    choose among labels have one."""
    label_map: dict[str, str | None] = {}
    """Labels of the files to labels of the run, many to one (`{1 star: negative, 2 stars: negative}`); null leaves such
    rows out, counted. `2..4` is any number from 2 to 4; where ranges share an end, it is of the first. Of token
    classification tags or types (`{PERSON: PER, B-MISC: O}`)."""
    empty_label: Literal["fail", "unlabeled", "drop"] = "fail"
    """What a row does whose label (tags, answers) is empty, null or -1: is a bad row; joins the texts without labels
    (of validation and test it is left out); or is left out, counted. With unlabeled, a source may lack the column of
    labels; where no row of validation or test has one, scores there are agreement with the teachers together."""
    languages: tuple[str, ...] = Field(min_length=1)
    """All languages that may occur. A row in another one is an error."""
    select_languages: tuple[str, ...] | None = None
    """Keep only rows in these languages; None keeps all of `languages`."""
    select_groups: tuple[str, ...] | None = Field(None, min_length=1)
    """Learn from rows with these values of the column `columns.group` alone: a student of one domain. Teachers that the
    run trains learn from all. Test rows stay, and are scored value by value. None keeps all."""
    leave_out_groups: tuple[str, ...] = ()
    """Values of that column that neither the student nor a teacher that the run trains learns from; test rows stay.
    With either key rows without a value are left out too, because they may be of any."""
    labelled_per_language: int | None = Field(None, ge=1)
    """Use only so many labelled training rows per language, with the label shares of the data."""
    labelled_seed: int = Field(0, ge=0)
    """Seed of the choice of those rows."""
    undrawn: Literal["drop", "unlabeled"] = "drop"
    """What becomes of labelled training rows beyond `labelled_per_language`: nothing, or texts without labels."""
    labelled_share: float | None = Field(None, gt=0.0, lt=1.0)
    """Expected share of labelled rows in a batch where unlabelled rows are mixed in; None leaves the data's own."""
    language_temperature: float = Field(1.0, ge=1.0)
    """Languages are drawn in proportion to rows ** (1 / temperature): 1 keeps the shares of the data, a large value
    draws all equally often."""
    length_grouping: bool = True
    """Batches hold rows of similar length."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What a row does that has an empty text, an unknown label or language, tags that do not fit its words, an answer
    that is not in its context or no target; skipped rows are counted and logged."""
    max_bad_rows: float = Field(0.01, ge=0.0, le=1.0)
    """Share of rows that `skip` may skip before the run fails after all."""
    scheme: Literal["auto", "IO", "IOB1", "BIO", "BILOU", "BIOES", "BMES", "BMEWO"] = "auto"
    """Of token classification, the scheme of the tags in the files: auto is that of `labels`, another one is written in
    theirs. IOB1 files (I-X begins an entity) need it, because their tags look like BIO."""
    on_loose_inside: Literal["fail", "begin"] = "fail"
    """What a tag I-X does that no B-X or I-X precedes: makes the row a bad one, or begins an entity (is read as B-X,
    as IOB1 writes it; counted and logged)."""
    no_answer: Literal["auto", "always", "never"] = "auto"
    """Whether a question may have no answer (SQuAD v2), which is then one more choice for student and teachers. auto:
    where a labelled row has none; never: such a row is a bad one."""
    min_candidates: int | None = Field(None, ge=2)
    """Of ranking, candidates that a query has at least: what is missing is drawn, by the query's content, from those of
    other queries of its file and language, and is not relevant. None draws none."""
    max_candidates: int | None = Field(None, ge=2)
    """Of ranking, candidates that a training query has at most: relevant ones are kept, of the others some are drawn by
    the query's content. None keeps all. Validation and test keep all."""
    on_long_row: Literal["truncate", "drop", "fail"] = "truncate"
    """What a row with more tokens than the task's limits does, counted and logged: loses its end, is left out of
    training (never of evaluation), or stops the run before it begins."""

    @field_validator("labels", "languages")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"holds a name twice: {list(value)}")
        return value

    @field_validator("labels")
    @classmethod
    def _several(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1:
            raise ValueError(f"holds one label only: {list(value)}; wanted two at least")
        return value

    @model_validator(mode="after")
    def _selected_known(self) -> DataConfig:
        named = [key for key in ("select_groups", "leave_out_groups") if getattr(self, key)]
        if named and self.columns.group is None:
            raise ValueError(f"{named[0]} reads a column that no key names: set data.columns.group")
        unknown = set(self.select_languages or ()) - set(self.languages)
        if unknown:
            raise ValueError(
                f"select_languages names {sorted(unknown)}, not in languages {list(self.languages)}"
            )
        return self

    def check(self, form: RowForm) -> None:
        """Check that labels and columns suit rows of this form.

        Raises:
            ValueError: Labels are missing, or a label list, a setting or a column has no use for the task.
        """
        if form in LABELLED_FORMS and not self.labels:
            what = {
                "words": "one tag a word (O, B-PER, I-PER, ...)",
                "labels": "any number of labels a row",
            }.get(form, "the class of a row")
            raise ValueError(f"data.labels is missing: the task chooses {what} among them")
        if form == "words":
            try:
                parse_scheme(self.labels)
            except ConfigError as error:
                raise ValueError(f"data.labels are no tags of entities: {error}") from None
        self._check_label_map(form)
        gold = "tags" if form == "words" else "label"
        if getattr(self.columns, gold) is None and self.empty_label != "unlabeled":
            raise ValueError(
                f"data.columns.{gold} null reads no {gold.rstrip('s')}; set data.empty_label: unlabeled with it"
            )
        check_augmentations(self.augment, form, self.languages)
        if self.empty_label != "fail" and form in ("target", "source_target", "plain", "sentences"):
            raise ValueError("data.empty_label plays no part in this task, whose rows have no label")
        if form not in LABELLED_FORMS and self.labels:
            raise ValueError(f"data.labels {list(self.labels)}: the task has no labels; leave them out")
        own = {"scheme": "words", "no_answer": "answers"}
        own |= dict.fromkeys(("min_candidates", "max_candidates"), "candidates")
        for key, of in own.items():
            if getattr(self, key) not in ("auto", None) and form != of:
                raise ValueError(f"data.{key} {getattr(self, key)} plays no part in this task; leave it out")
        read = Columns.keys_of(form)
        renamed = [k for k, f in Columns.model_fields.items() if getattr(self.columns, k) != f.default]
        sources = {"train": self.train, "validation": self.validation, "test": self.test}
        named = {"data.columns": renamed} | {
            f"data.{name}.columns": list(getattr(source, "columns", {}))
            for name, source in (sources | {"unlabeled": self.unlabeled}).items()
        }
        for place, keys in named.items():
            idle = [key for key in keys if key not in read]
            if idle:
                raise ValueError(
                    f"{place}.{idle[0]} plays no part in this task, whose columns are {list(read)}"
                )

    def _check_label_map(self, form: RowForm) -> None:
        if self.label_map and form not in LABELLED_FORMS:
            raise ValueError("data.label_map plays no part in this task, whose rows have no label")
        if self.label_map and all(
            isinstance(s, Embedded) for s in (self.train, self.validation, self.test) if s
        ):
            raise ValueError(
                "data.label_map plays no part in the embedded corpus, whose labels are data.labels"
            )
        known = {*self.labels, *(label.partition("-")[2] for label in self.labels if form == "words")}
        targets = {key: target for key, target in self.label_map.items() if target not in known}
        wrong = {key: target for key, target in targets.items() if target is not None or form == "words"}
        if wrong:
            key, target = next(iter(wrong.items()))
            raise ValueError(
                f"data.label_map leads from {key!r} to {target!r}, not in data.labels {list(self.labels)}"
                + ("" if target is not None else "; map tags to O to leave them out")
            )
