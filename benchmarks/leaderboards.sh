#!/usr/bin/env bash
# Every method on every preset, three seeds: what is committed or begun is not made again, and results go where they are
# committed. To begin anew, delete benchmarks/results/leaderboard/PRESET.json and runs/leaderboard/PRESET.
#   benchmarks/leaderboards.sh DATA_ROOT [PRESET …]      DATA_ROOT holds the folders utkface, celeba, cifar10
# One thread each, so that two presets can share two cores: about seven hours of one core per preset of photographs.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
root=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
efface=${EFFACE:-.venv/bin/efface}
[ $# -gt 0 ] || set -- toyfaces-smiling-glasses utkface-gender-race celeba-smiling-male cifar10-living-class
out=benchmarks/results/leaderboard
export OMP_NUM_THREADS=1
for preset in "$@"; do
  more=()
  [ ! -e "$out/$preset.json" ] || more+=(--join "$out/$preset.json")
  [ "$preset" = toyfaces-smiling-glasses ] || more+=(--data "$root/${preset%%-*}")
  "$efface" compare "$preset" "${more[@]}" --methods all --suite standard --seeds "${SEEDS:-3}" --set engine.threads=1 \
    --out "runs/leaderboard/$preset" --resume --quiet
  cp "runs/leaderboard/$preset/leaderboard.json" "$out/$preset.json"
  cp "runs/leaderboard/$preset/leaderboard.md" "$out/$preset.md"
  cp "runs/leaderboard/$preset/pareto.svg" "$out/$preset.svg"
done
