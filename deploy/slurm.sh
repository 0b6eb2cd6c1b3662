#!/usr/bin/env bash
# A whole study on Slurm: Ray on every node of the allocation, `pkdray pipeline` on the first.
#
#   sbatch deploy/slurm.sh SPACE RUN [OPTION_OF_PIPELINE...]
#   sbatch --nodes=4 deploy/slurm.sh biovid_mtpkdot pain --seeds 10
#
# PKDRAY_RUNS names the runs dir, which all nodes see (default: runs, below the folder that sbatch is called in), and
# PKDRAY_VENV the environment (default: .venv there). When the time is nearly up, or the job is preempted, the pipeline
# is interrupted as by Ctrl-C, the job goes back into the queue, and there continues where it was.
#SBATCH --job-name=pkdray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pkdray-%j.log
# TERM to this script alone, five minutes before the end: enough to write the checkpoints of the trials that run.
#SBATCH --signal=B:TERM@300
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "Usage: sbatch deploy/slurm.sh SPACE RUN [OPTION_OF_PIPELINE...]" >&2
  exit 2
fi
space="$1" run="$2"
shift 2
cd "${SLURM_SUBMIT_DIR:-$PWD}"
runs="${PKDRAY_RUNS:-$PWD/runs}"
export PATH="${PKDRAY_VENV:-$PWD/.venv}/bin:$PATH"

# One token for all nodes, in the home that they share; whoever else is on the network cannot use this Ray.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
[ -s "$HOME/.ray/auth_token" ] || (umask 077 && ray get-auth-token --generate >/dev/null)
chmod 600 "$HOME/.ray/auth_token"

# An address of this node, the first of the allocation, that the others can reach; hosts files often say 127.0.1.1.
address="${PKDRAY_HEAD_IP:-$(getent ahostsv4 "$(hostname)" | awk '$1 !~ /^127\./ {print $1; exit}')}"
address="${address:-$(hostname -I | awk '{print $1}')}"
port=$((20000 + SLURM_JOB_ID % 10000))
# A node that starts slowly (a cold disk full of Python) is waited for.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}"
# Short: Ray puts sockets below it, whose paths may have 107 characters.
sockets="/tmp/ray-$SLURM_JOB_ID"

driver="$(mktemp)"
trap 'rm -f "$driver"' EXIT
ulimit -n 65536 2>/dev/null || true

interrupted="" step=""
interrupt() {
  # The step is starting, and its number not known yet: it is told below.
  if [ -z "$step" ]; then interrupted=early; return; fi
  interrupted=yes
  echo "Slurm wants the nodes back: interrupting the pipeline."
  # The driver runs on this node. Before it does there is nothing to save.
  if [ -s "$driver" ]; then kill -INT "$(cat "$driver")" 2>/dev/null || true; else kill -TERM "$step"; fi
}
trap interrupt TERM

# With job control, so that the shell does not have the step ignore Ctrl-C's signal.
set -m
# symmetric-run starts Ray on every node, runs what follows -- on the one with the address, and stops Ray.
# shellcheck disable=SC2016  # The inner shell expands these.
srun ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --temp-dir="$sockets" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
  -- bash -c 'echo $$ >"$0"; exec "$@"' "$driver" \
  pkdray pipeline "$space" --name "$run" --runs-dir "$runs" --address "$address:$port" "$@" &
step=$!
set +m
if [ "$interrupted" = early ]; then interrupt; fi

# `wait` returns at a signal; the step has ended when it is gone. Asked first: it knows of one that is gone already.
while :; do
  status=0
  wait "$step" || status=$?
  kill -0 "$step" 2>/dev/null || break
done

if [ -n "$interrupted" ] && [ "$status" -ne 0 ]; then
  echo "Back into the queue; the next start continues the run $run."
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$status"
