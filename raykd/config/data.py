"""What is read, and how it is sampled: the `data` part of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raykd.spec import Spec


class Files(Spec):
    """Local JSON lines, CSV or Parquet files; the ending says which."""

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1)
    """Files, read in this order. Relative paths are relative to the YAML that holds them."""
    columns: dict[Literal["text", "text_pair", "label", "language", "id"], str] = {}
    """Overrides of `data.columns` for these files alone."""
    language: str | None = None
    """The language of all rows, for files that have no language column."""


class Hub(Spec):
    """A data set of the Hugging Face hub (or a local data set folder), by name."""

    kind: Literal["hub"] = "hub"
    name: str
    config_name: str | None = None
    split: str = "train"
    revision: str | None = None
    columns: dict[Literal["text", "text_pair", "label", "language", "id"], str] = {}
    language: str | None = None


class Embedded(Spec):
    """The corpus that raykd generates itself: opinions in zh, en and fr with known Bayes accuracy."""

    kind: Literal["embedded"] = "embedded"
    split: Literal["train", "validation", "test", "unlabeled"] = "train"
    rows_per_language: int = Field(1000, ge=1)
    seed: int = 0
    """Seed of the world; splits of one seed never share a text."""
    label_noise: float = Field(0.05, ge=0.0, lt=0.5)
    """Share of rows whose label is flipped; Bayes accuracy is one minus it."""


Source = Annotated[Files | Hub | Embedded, Field(discriminator="kind")]


class Columns(Spec):
    """Names of the columns in the files. A name of None says that there is no such column."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    language: str | None = "lang"
    id: str | None = None


class DataConfig(Spec):
    """What is read, and how it is sampled."""

    train: Source
    validation: Source
    test: Source | None = None
    unlabeled: Source | None = None
    """Texts without labels, added to the training rows; the hard term never sees them."""
    columns: Columns = Columns()
    labels: tuple[str, ...] = Field(min_length=2)
    """The run's label list; its order is the order of all logits."""
    languages: tuple[str, ...] = Field(min_length=1)
    """Every language that may occur; a row of another one is an error."""
    select_languages: tuple[str, ...] | None = None
    """Keep only rows of these languages (of `languages`)."""
    labelled_per_language: int | None = Field(None, ge=1)
    """Use only so many labelled training rows a language, balanced over labels as the data are."""
    labelled_seed: int = Field(0, ge=0)
    """Which rows those are."""
    labelled_share: float | None = Field(None, gt=0.0, lt=1.0)
    """Expected share of labelled rows in a batch where unlabelled rows are mixed in; None leaves the data's own."""
    language_temperature: float = Field(1.0, ge=1.0)
    """Languages are drawn in proportion to rows ** (1 / temperature); 1 is the data's own, large is equal."""
    length_grouping: bool = True
    """Batches hold rows of similar length."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What a row with an empty text or an unknown label or language does; skipped rows are counted and logged."""
    max_bad_rows: float = Field(0.01, ge=0.0, le=1.0)
    """Share of rows that `skip` may skip before the run fails after all."""

    @field_validator("labels", "languages")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"holds a name twice: {list(value)}")
        return value

    @model_validator(mode="after")
    def _selected_known(self) -> DataConfig:
        unknown = set(self.select_languages or ()) - set(self.languages)
        if unknown:
            raise ValueError(
                f"select_languages names {sorted(unknown)}, not in languages {list(self.languages)}"
            )
        return self
