"""Turn the errors of the hub, transformers and safetensors into raykd's, without secrets and with the next step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from raykd.errors import ModelError, RaykdError
from raykd.redaction import redact


@contextlib.contextmanager
def raise_as_model_error(what: str) -> Iterator[None]:
    """Turn whatever transformers or safetensors raise into a ModelError without secrets, which says `what`."""
    try:
        yield
    except RaykdError:
        raise
    except Exception as error:  # a dozen types of four libraries, and broken files of any kind
        raise ModelError(
            what,
            got=redact(f"{type(error).__name__}: {error}").strip()[:1000],
            wanted="whole files of one model, as save_pretrained writes them",
            next_step="install the package that is named there (pip install NAME)"
            if isinstance(error, ImportError)
            else "copy or download it again; was it cut off, or put together from several?",
        ) from None


@contextlib.contextmanager
def raise_as_hub_error(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into a ModelError that names the next step."""
    from huggingface_hub import errors, get_token

    here = Path.cwd()
    try:
        yield
    except RaykdError:
        raise
    except errors.GatedRepoError as error:
        step = "accept its terms on its page of the hub"
        token = (
            "set HF_TOKEN to a token of that account"
            if get_token() is None
            else "check that HF_TOKEN is of that account"
        )
        raise _build_error(
            f"{name} is gated: its files need an account that was let in",
            error,
            f"{step}, and {token} (on every node)",
        ) from None
    except errors.RevisionNotFoundError as error:
        raise _build_error(
            f"{name} has no revision {revision}", error, "correct revision: a branch, a tag or a commit"
        ) from None
    except errors.RepositoryNotFoundError as error:
        what = f"{name} is neither a directory here ({here}) nor a model that the hub shows"
        if get_token() is None:
            step = "check the spelling; where it is private, set HF_TOKEN to a token that may read it (on every node)"
        else:
            step = "check the spelling; where it is private, HF_TOKEN must be of an account that may read it"
        raise _build_error(what, error, step) from None
    except Exception as error:  # of a dozen types: no network, time-outs, a hub that is down, a full disk
        raise _build_error(
            f"{name} is neither a directory here ({here}) nor a model that the Hugging Face hub gives",
            error,
            "check the spelling, the network and HF_HUB_OFFLINE, download it where there is a network (hf download "
            f"{name}), or give a local directory",
        ) from None


def _build_error(what: str, error: Exception, next_step: str) -> ModelError:
    reason = " ".join(redact(f"{type(error).__name__}: {error}").split())
    return ModelError(
        what, got=reason[:500], wanted="a model of the hub, or a local directory", next_step=next_step
    )
