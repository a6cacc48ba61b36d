#!/usr/bin/env bash
# One GPU, under 10 minutes, no network: epoch latency and memory by network, batch size and schedule; then, in the time
# that is left, unlearning CIFAR-10's class.
#
#   benchmarks/gpu.sh [FOLDER]              default: benchmarks/results/gpu
#   CIFAR10=DIR benchmarks/gpu.sh           DIR has the parquet files, whole, or cut by `split -b 60MB FILE FILE.part-`
#   SMOKE=1 benchmarks/gpu.sh DIR           tiny, on whatever is there
#   SITE=DIR benchmarks/gpu.sh              packages that the machine lacks, from `pip install --no-deps --target DIR ...`
#
# Needs Python 3.11 or newer with the packages that benchmarks/gpu_needs.py looks for; installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
python=${PYTHON:-python3}
export PYTHONPATH="src${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH}"
limit=${SECONDS_IN_ALL:-570}

within() { timeout $((limit > SECONDS ? limit - SECONDS : 1)) "$@"; } # nothing here takes longer than what is left
within "$python" benchmarks/gpu_needs.py ${CIFAR10:+--run}
within "$python" benchmarks/gpu_check.py "$out/check.json" || failed=1 # the figures below are worth having all the same
within "$python" -m efface bench gpu ${SMOKE:+--smoke} --minutes "${MINUTES:-3}" --out "$out/gpu.json"

[ -n "${CIFAR10:-}" ] || exit "${failed:-0}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
data=$CIFAR10
if compgen -G "$CIFAR10/*.part-aa" >/dev/null; then
  data=$work/cifar10
  mkdir "$data"
  for first in "$CIFAR10"/*.part-aa; do
    whole=$(basename "${first%.part-aa}")
    cat "${first%aa}"* >"$data/$whole"
  done
fi
# All images and the full width; five attackers and no more: one whole run has to end in the time that is left.
size=(--set 'model.options={width: 64}' --set data.limit=null --set engine.batch_size=512 --set audit.reconstruction=false
  --set 'audit.attackers=[resnet18, conv, mlp, linear, least-squares]' --set 'audit.beyond=[]')
[ -z "${SMOKE:-}" ] || size+=(--set 'model.options={width: 8}' --set data.limit=400 --set engine.epochs=1
  --set engine.original_epochs=1 --set engine.batch_size=64 --set 'audit.attackers=[linear]')
for method in ${METHODS:-detachment original adversarial masked_retrain}; do
  left=$((limit - SECONDS))
  [ "$left" -gt 30 ] || { echo "$method: left out, the time was up"; continue; }
  if timeout "$left" "$python" -m efface run cifar10-living-class --data "$data" --quiet --out "$work/$method" \
    --set "method.name=$method" "${size[@]}"; then
    "$python" benchmarks/summarise.py "$work/$method" --out "$out/cifar10-$method" >/dev/null
    rm "$out/cifar10-$method/README.md" # its notes are about other machines
  else
    echo "$method: not finished in the $left s that were left, or failed"
  fi
done
exit "${failed:-0}"
