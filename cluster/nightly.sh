#!/bin/sh
# Every night on one machine, by cron or by systemd (vibray-night.timer): jobs/nightly.py, its exit code, one at a time.
#
#   cluster/nightly.sh --dry-run
#
# Put your folders into the command; s3:// URIs do too. What stands on this line stands behind it: --dry-run, --local.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 # one thread a Ray worker

# the lock goes with the process that holds it, however that ends; two at a time would do no harm, but the same work twice
exec 9> "${VIBRAY_LOCK:-$HOME/.vibray-night.lock}"
flock --nonblock 9 || { echo "error: the night before still runs: this one's shards are the next night's" >&2; exit 3; }

exec python jobs/nightly.py --run /srv/vibray/runs/a --input /srv/vibray/raw --nights /srv/vibray/nights --sample-rate-hz 8192 \
  --standing /srv/vibray/decisions/2024 --reference /srv/vibray/scores/2024 "$@"
