#!/usr/bin/env bash
# submit.sh RUN_OR_SPACE [KEY=VALUE...] [options of raykd submit]
#
# Sends a run to a RayCluster on Kubernetes: brings its dashboard to this machine, takes its token, calls raykd submit.
# With RAY_ADDRESS (and, where the cluster asks for one, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH) it calls that alone.
#
#   CLUSTER    name of the RayCluster                     (raykd)
#   NAMESPACE  its namespace                              (that of the current context)
#   OUTPUT     where runs lie on the cluster              (/raykd/runs)
#   PORT       port of this machine for the dashboard     (8265)
set -euo pipefail

if [[ $# -eq 0 || "$1" == -h || "$1" == --help ]]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
  exit $(($# == 0 ? 2 : 0))
fi

export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
output="${OUTPUT:-/raykd/runs}"

if [[ -z "${RAY_ADDRESS:-}" ]]; then
  cluster="${CLUSTER:-raykd}"
  port="${PORT:-8265}"
  namespace=()
  if [[ -n "${NAMESPACE:-}" ]]; then namespace=(--namespace "$NAMESPACE"); fi
  # In the environment of this script's processes only: no file, no argument that `ps` shows.
  RAY_AUTH_TOKEN="$(kubectl "${namespace[@]}" get secret "$cluster" --output jsonpath='{.data.auth_token}' | base64 --decode)"
  export RAY_AUTH_TOKEN
  kubectl "${namespace[@]}" port-forward "service/${cluster}-head-svc" "${port}:8265" > /dev/null &
  forward=$!
  trap 'kill "$forward" 2> /dev/null || true' EXIT
  export RAY_ADDRESS="http://127.0.0.1:${port}"
  for _ in $(seq 50); do
    if (exec 3<> "/dev/tcp/127.0.0.1/${port}") 2> /dev/null; then break; fi
    kill -0 "$forward" 2> /dev/null || { echo "kubectl port-forward ended; is there a RayCluster ${cluster}?" >&2; exit 5; }
    sleep 0.2
  done
fi

raykd submit "$@" --address "$RAY_ADDRESS" --output "$output"
