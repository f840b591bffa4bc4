"""Names of huggingface_hub that are not exported to type checkers: its HTTP session, headers and errors (2.4).

Why: the header of a safetensors file is read by ranges. The library reads it the same way
(`HfApi.parse_safetensors_file_metadata`), and returns it parsed, where raykd needs the bytes.
"""

from __future__ import annotations


def read_range(name: str, revision: str, file: str, begin: int, size: int) -> bytes:
    """Return some bytes of a file on the hub.

    Args:
        name: The hub name of a model.
        revision: Its commit.
        file: A file of its top folder.
        begin: The first byte.
        size: How many bytes.

    Raises:
        Exception: Of huggingface_hub or its HTTP library.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    # The session drops the token where it is led to another host.
    reply = get_session().get(
        hf_hub_url(name, file, revision=revision),
        headers={**build_hf_headers(), "Range": f"bytes={begin}-{begin + size - 1}"},
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    )
    hf_raise_for_status(reply)
    return bytes(reply.content[:size])


def silence_progress() -> type:
    """Return a class of progress bars that show nothing (the library's own `silent_tqdm` lacks `total`)."""
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: object, **settings: object) -> None:
            super().__init__(*args, **{**settings, "disable": True})

    return Silent
