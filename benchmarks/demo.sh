#!/usr/bin/env bash
# The main job on real input: export two networks, prove them, classify pictures, benchmark every backend that is here.
set -euo pipefail
out=${1:-demo}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
say() { printf '\n== %s\n' "$*"; }

say "1/5  export the shipped, trained digits network to ONNX"
resnext-export --format onnx --weights digits --output "$out/digits-onnx" --force
say "2/5  classify pictures with the exported file"
resnext-classify "$here"/resnext/weights/shipped/images/digits/{0_0,3_3,7_7}.png --artifact "$out/digits-onnx"
say "3/5  export ResNeXt-50 32x4d to ONNX"
resnext-export --format onnx --model resnext50_32x4d --output "$out/resnext50-onnx" --force
say "4/5  parity of the file on disk against float64 PyTorch, rows of batches against each other, a stored verdict"
resnext-parity --artifact "$out/resnext50-onnx" --backend ort --json "$out/resnext50-parity.json"
resnext-parity --artifact "$out/digits-onnx" --backend ort --json "$out/digits-parity.json"
resnext-parity --artifact "$out/digits-onnx" --backend ort --batch-integrity
resnext-parity --artifact "$out/digits-onnx" --backend ort --verdict > /dev/null
resnext-parity verify "$out/digits-onnx"
say "5/5  benchmark every backend that this machine has (about two minutes)"
resnext-bench --backend all --batch 1,8 --artifact "$out/resnext50-onnx" --duration 3 --precision-target 3% \
  --json "$out/benchmark.json" --markdown "$out/benchmark.md" --html "$out/report.html"
say "written: two ONNX artifacts, parity and benchmark as JSON and Markdown, and the page $out/report.html"
