#!/usr/bin/env bash
# Fetch the wheels that a bare GPU machine lacks (Python 3.12 on Linux x86-64), in the versions of constraints.txt.
#
#   benchmarks/gpu_wheels.sh [FOLDER [PACKAGE...]]        FOLDER: .whl, which git ignores; PACKAGE: more, without what they need
#
# A wheel of over 60 MiB is split into parts that are copied more easily: cat NAME.whl.part-* >NAME.whl joins them.
# There:   python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl; export PYTHONPATH=SITE
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.whl}
shift || true
limit=$((60 * 1024 * 1024))

wanted=()
for name in pydantic pydantic_core annotated-types typing-inspection typing_extensions platformdirs "$@"; do
    case $name in *==*) wanted+=("$name"); continue ;; esac
    pin=$(grep -iE "^${name//[-_]/[-_]}==" constraints.txt | grep -v 'python_version < ' | head -n 1 | cut -d';' -f1 || true)
    wanted+=("${pin:-$name}")
done

mkdir -p "$folder"
rm -f "$folder"/*.whl "$folder"/*.whl.part-*
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --dest "$folder" "${wanted[@]}"

for wheel in "$folder"/*.whl; do
    size=$(stat -c %s "$wheel")
    if [ "$size" -gt "$limit" ]; then
        split --bytes="$limit" "$wheel" "$wheel.part-"
        rm "$wheel"
    fi
done
du -ch "$folder"/* | sed 's/^/  /'
