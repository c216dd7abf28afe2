#!/bin/bash
# Start a Dask cluster in one SLURM allocation and build a store with it:
#   IMAGES_DIR=... CAPTIONS=... STORE_DIR=... sbatch examples/dask_slurm.sh
#SBATCH --job-name=scenestore-build
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
set -euo pipefail
: "${IMAGES_DIR:?folder of the images}" "${CAPTIONS:?captions file}" "${STORE_DIR:?store folder, on a file system shared by all nodes}"
export OMP_NUM_THREADS=1
file="$STORE_DIR/scheduler-$SLURM_JOB_ID.json"
mkdir -p "$STORE_DIR"
dask scheduler --scheduler-file "$file" --port 0 &
scheduler=$!
srun dask worker --scheduler-file "$file" --nthreads 1 --memory-limit 4GB --local-directory "${TMPDIR:-/tmp}" --death-timeout 60 &
workers=$!
trap 'kill "$workers" "$scheduler" 2>/dev/null || true; rm -f "$file"' EXIT
until [ -s "$file" ]; do sleep 1; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$file")
luigi --module workflows BuildFlickr30k --local-scheduler --images-dir "$IMAGES_DIR" \
  --captions "$CAPTIONS" --store-dir "$STORE_DIR" --scheduler-address "$address"
