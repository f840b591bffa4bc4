#!/usr/bin/env bash
# Packs raykd, its benchmarks and what it needs at run time into one file of about 31 MiB, for a GPU machine without a network.
#
# Usage: tools/gpu_bundle.sh OUT [PART_MIB]
#   OUT       folder to write to: wheels/ (kept, so that a second call downloads nothing), site/, raykd.txz.00, .01, ...
#   PART_MIB  size of a part, for a narrow way; 0 (the default) writes one file
# Environment: PYTHON (a Python of the target's version, default python3.12), XZ (default -9e; -1 is quick and half as
# large again). It needs pip, unzip, strip and xz, and about three minutes of a core.
#
# It downloads wheels of the versions in constraints.txt (tools/gpu_wheels.py says which are left out, and why), makes
# those of deepspeed (no op is compiled), rouge_score and raykd, drops what no run imports (Ray's jars, RLlib, LLM part and
# dashboard pages, MLflow's pages and server, tests) and strips symbols from Ray's binaries.
#
# The machine: x86-64 Linux with the same Python, a CUDA build of torch, transformers and what a CUDA image brings beside
# them (the first list of tools/gpu_wheels.py), xz. raykd doctor says where a version is older than raykd asks for.
#
# There:
#   mkdir site && cat raykd.txz.* | xz -dc | tar xf - -C site
#   export PYTHONPATH=$PWD/site PYTHONPYCACHEPREFIX=$PWD/pyc HF_HUB_OFFLINE=1 MLFLOW_DISABLE_TELEMETRY=true
#   unset PYTHONDONTWRITEBYTECODE; python3 -m compileall -q -j 0 site; python3 -c "import raykd.runs.train, deepspeed"
#   python3 -m raykd.cli doctor
#   python3 -m raykd.cli train RUN.yaml workers.num_gpus=0.5 teacher_defaults.actor.num_gpus=0.1
#   python3 -m benchmarks.gpu --out figures                 # the table of docs/figures.md, in at most 8 minutes
#
# Bytecode first: without it every process compiles what it imports again, and a run has a driver, a controller, a worker
# and the teachers, one after the other. Where there is no name server, entries of the machine's own name and address in
# /etc/hosts spare look-ups that wait 10 s each. TORCH_CUDNN_SDPA_DEPRIORITIZED=1 takes cuDNN's attention, which builds a
# plan for each new padded shape, out of the first place: measure with and without it.
set -euo pipefail
CLONE=$(cd "$(dirname "$0")/.." && pwd) OUT=$(mkdir -p "$1" && cd "$1" && pwd) PART_MIB=${2:-0}
PYTHON=${PYTHON:-python3.12}
mkdir -p "$OUT/wheels"

PLATFORMS=$(for p in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1 manylinux_2_5; do
  echo "--platform ${p}_x86_64"; done)
VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

have() { # whether a wheel of NAME==VERSION is there
  local file; file=$(echo "${1%%==*}" | tr 'A-Z.-' 'a-z__')
  ls "$OUT/wheels" | tr 'A-Z' 'a-z' | grep -q "^$file-${1##*==}-"
}
for pin in $("$PYTHON" "$CLONE/tools/gpu_wheels.py" "$CLONE/constraints.txt" published); do
  have "$pin" || "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "$VERSION" \
    --implementation cp $PLATFORMS -d "$OUT/wheels" "$pin"
done
for pin in $("$PYTHON" "$CLONE/tools/gpu_wheels.py" "$CLONE/constraints.txt" built); do
  have "$pin" || DS_BUILD_OPS=0 "$PYTHON" -m pip wheel -q --no-deps -w "$OUT/wheels" "$pin"
done
rm -f "$OUT"/wheels/raykd-*.whl
copy=$(mktemp -d); cp -r "$CLONE/raykd" "$CLONE/pyproject.toml" "$CLONE/README.md" "$CLONE/LICENSE" "$copy"
"$PYTHON" -m pip wheel -q --no-deps -w "$OUT/wheels" "$copy"; rm -rf "$copy"

rm -rf "$OUT/site"; mkdir "$OUT/site"; cd "$OUT/site"
for wheel in "$OUT"/wheels/*.whl; do unzip -qo "$wheel"; done
cp -r "$CLONE/benchmarks" .
# Not needed at run time.
rm -rf ./*.data ray/jars ray/cpp ray/rllib ray/llm ray/dashboard/client mlflow/server/js mlflow/assistant/skills
find . -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
find . \( -name '*.map' -o -name '*.pyi' \) -delete
find . \( -name '*.so' -o -name raylet -o -name gcs_server \) -type f -size +200k -exec strip --strip-unneeded {} + || true

cd "$OUT"; rm -f raykd.txz.*
if [ "$PART_MIB" = 0 ]; then tar cf - -C site . | xz ${XZ:--9e} -T1 > raykd.txz.00
else tar cf - -C site . | xz ${XZ:--9e} -T1 | split -b "${PART_MIB}M" -d - raykd.txz.; fi
du -sm site | sed 's/\t.*/ MiB unpacked/'; ls -l raykd.txz.*
