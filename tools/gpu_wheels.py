"""List the wheels of the bundle for a GPU machine, from constraints.txt: see gpu_bundle.sh beside this file.

Usage: python tools/gpu_wheels.py CONSTRAINTS published|built

Everything that is pinned goes in, but for what is named here with its reason; so a new dependency is in the bundle
without anybody thinking of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

LEFT_OUT = {
    "a machine with a CUDA image of torch and transformers has it": """
        absl-py accelerate aiohappyeyeballs aiohttp aiosignal annotated-doc anyio attrs certifi charset-normalizer click
        cloudpickle colorama contourpy cycler einops filelock fonttools frozenlist fsspec grpcio h11 hf-xet httpcore2
        httpx2 huggingface_hub idna Jinja2 joblib kiwisolver lxml markdown-it-py MarkupSafe matplotlib mdurl mpmath
        msgpack multidict narwhals networkx ninja numpy packaging pandas peft pillow platformdirs portalocker propcache
        protobuf psutil py-cpuinfo pyarrow pycparser Pygments pyparsing python-dateutil PyYAML regex requests rich
        sacrebleu safetensors scikit-learn scipy sentencepiece shellingham six smmap sympy tabulate threadpoolctl
        tokenizers torch tqdm transformers truststore typer urllib3 wcwidth wrapt xxhash yarl zipp""",
    "no run imports it: MLflow's pages and server, clients of clouds, Ray's dashboard and launcher, charts as PNG": """
        aiohttp-cors blinker colorful distlib docker flask-cors Flask gitdb GitPython google-api-core google-auth
        googleapis-common-protos graphene graphql-core graphql-relay gunicorn huey itsdangerous mlflow-skinny
        mlflow-tracing opencensus-context opencensus opentelemetry-exporter-prometheus prettytable prometheus_client
        proto-plus psycopg2-binary py-spy pyasn1_modules pyasn1 python-discovery skops smart_open
        virtualenv vl-convert-python Werkzeug""",
    "for development": """
        ast_serialize defusedxml grimp hypothesis import-linter importlib_resources iniconfig kubernetes-validate librt
        mypy_extensions mypy pathspec pluggy pytest-timeout pytest ruff seqeval sortedcontainers types-PyYAML""",
}
BUILT = ("deepspeed", "rouge_score")
"""Published as sources only: their wheels are made when the bundle is."""


def select_pins(constraints: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the pins NAME==VERSION that the bundle holds: those published as wheels, and those to be built.

    Args:
        constraints: Lines of constraints.txt.

    Raises:
        ValueError: A name of `LEFT_OUT` or `BUILT` that is not pinned: it goes from there too.
    """
    pins = {normalise(line.partition("==")[0]): line.strip() for line in constraints if "==" in line}
    left_out = {normalise(name) for names in LEFT_OUT.values() for name in names.split()}
    built = {normalise(name) for name in BUILT}
    if stale := sorted((left_out | built) - pins.keys()):
        raise ValueError(f"no pin of {', '.join(stale)}")
    taken = {name: pin for name, pin in pins.items() if name not in left_out}
    return [pin for name, pin in taken.items() if name not in built], [taken[name] for name in built]


def normalise(name: str) -> str:
    """Return a project's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


if __name__ == "__main__":
    published, built = select_pins(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines())
    print("\n".join(published if sys.argv[2] == "published" else built))
