#!/usr/bin/env bash
# All benchmarks of the CPU, in order, on a machine that does nothing else: about 20 minutes on two cores.
#
#   benchmarks/bench.sh [FOLDER]      default: benchmarks/results/bench
#   SMOKE=1 benchmarks/bench.sh DIR   tiny: tries it out, says nothing
#   ONLY="data memory" benchmarks/bench.sh
#
# A round of `step` is 6 samples of 5 steps; `audit` is a whole run of the preset on drawn faces.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/bench}
efface=${EFFACE:-.venv/bin/efface}
python=${PYTHON:-.venv/bin/python}
for name in ${ONLY:-data step memory audit scale}; do
  begun=$SECONDS
  "$efface" bench "$name" ${SMOKE:+--smoke} --quiet --out "$out/$name.json" >/dev/null
  echo "$name: $((SECONDS - begun)) s"
done
"$python" benchmarks/benches.py "$out"
