#!/bin/bash
# Start a Dask cluster in one SLURM allocation and build a store with it:
#   IMAGES_DIR=... CAPTIONS=... STORE_DIR=... sbatch examples/dask_slurm.sh
# LAUNCH=env TASK=BuildDataset tries it without SLURM, with one worker. Other arguments go to luigi.
# Whoever can connect to a Dask scheduler can run code as you. The cluster therefore speaks TLS, with a
# certificate that is made for this job and that only you can read.
#SBATCH --job-name=scenestore-build
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
set -euo pipefail
: "${IMAGES_DIR:?folder of the images}" "${CAPTIONS:?captions file}" "${STORE_DIR:?store folder, on a file system shared by all nodes}"
export OMP_NUM_THREADS=1
mkdir -p "$STORE_DIR"
private=$(umask 077 && mktemp -d "$STORE_DIR/.dask-XXXXXX") # every node sees it, other users do not
stop() { # workers first: they complain about a scheduler that has gone
  for process in "${workers:-}" "${scheduler:-}"; do
    [ -z "$process" ] || { kill "$process" 2>/dev/null && wait "$process" || true; }
  done
  rm -rf "$private"
}
trap stop EXIT
openssl req -x509 -newkey rsa:3072 -nodes -days 30 -subj /CN=scenestore \
  -keyout "$private/key.pem" -out "$private/cert.pem" 2>/dev/null
tls=(--tls-ca-file "$private/cert.pem" --tls-cert "$private/cert.pem" --tls-key "$private/key.pem")
export DASK_DISTRIBUTED__COMM__TLS__CA_FILE="$private/cert.pem"
export DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT="$private/cert.pem"
export DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY="$private/key.pem"
# Dask opens a port for pages even with --no-dashboard; without routes there is nothing on them.
export DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES='[]' DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'
export DASK_LOGGING__DISTRIBUTED=warning # no stack traces of connections that end with the build
file="$private/scheduler.json"
dask scheduler --scheduler-file "$file" --host "tls://$(hostname)" --port 0 --no-dashboard "${tls[@]}" &
scheduler=$!
${LAUNCH:-srun} dask worker --scheduler-file "$file" --nthreads 1 --memory-limit 4GB --no-dashboard \
  --local-directory "${TMPDIR:-/tmp}" --death-timeout 60 "${tls[@]}" &
workers=$!
until [ -s "$file" ]; do sleep 1; done
address=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$file")
luigi --module workflows "${TASK:-BuildFlickr30k}" --local-scheduler --images-dir "$IMAGES_DIR" \
  --captions "$CAPTIONS" --store-dir "$STORE_DIR" --scheduler-address "$address" "$@"
