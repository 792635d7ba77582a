#!/usr/bin/env bash
# Writes the locks of the images again, from pyproject.toml. Versions that still fit stay; --upgrade takes new ones.
# Runs anywhere: what is resolved for is named here, not found.
set -euo pipefail
cd "$(dirname "$0")/../.."
UV=${UV:-.venv/bin/uv}
FOLDER=deploy/requirements
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

lock() { # NAME SOURCE FLAGS...
    local name=$1 source=$2 machine
    shift 2
    for machine in x86_64 aarch64; do
        if [ -e "$FOLDER/$name.txt" ]; then cp "$FOLDER/$name.txt" "$SCRATCH/$machine.txt"; fi
        # Wheels only, for the glibc of Debian 12: an image has no compiler. What a lock says must not depend on where it
        # was made: no header, no index. It has the hashes of all files of a version, for every machine.
        "$UV" pip compile --quiet --python-version 3.11 --python-platform "$machine-manylinux_2_36" --no-build \
            --generate-hashes --no-header --annotation-style line --output-file "$SCRATCH/$machine.txt" "$@" "$source"
    done
    cmp "$SCRATCH/x86_64.txt" "$SCRATCH/aarch64.txt" || {
        echo "lock.sh: $name needs other packages on aarch64 than on x86_64; give each its own file" >&2
        exit 1
    }
    mv "$SCRATCH/x86_64.txt" "$FOLDER/$name.txt"
    rm "$SCRATCH/aarch64.txt"
    echo "$FOLDER/$name.txt"
}

lock orchestrator pyproject.toml --no-config --extra tracing "$@"
# Beside the orchestrator's versions, so that one image more has no other ones.
lock models pyproject.toml --config-file "$FOLDER/uv.toml" --extra models --extra tracing --no-emit-package torch \
    --constraints "$FOLDER/orchestrator.txt" "$@"
lock torch-cuda "$FOLDER/torch.in" --no-config --constraints "$FOLDER/models.txt" "$@"
