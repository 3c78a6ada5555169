#!/bin/sh
# A job that survives pre-emption, its time limit, requeues and dead nodes:
#
#     sbatch --export=ALL,PAWL_REPLICA=dir:/shared/pawl tools/slurm/job.sh ./sim input
#
# Needs RequeueExit=85 in slurm.conf, and a directory that all nodes share for the replica. See README.md here.
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --open-mode=append

: "${PAWL_REPLICA:?say where snapshots are to go: PAWL_REPLICA=dir:/shared/directory}"
pawl=${PAWL:-pawl}

# Each node has a store of its own, on its own disk; what counts is the replica.
export PAWL_STORE="${PAWL_STORE:-${TMPDIR:-/tmp}/pawl-$(id -u)-${SLURMD_NODENAME:-$(uname -n)}}"

# One name for the whole life of the job, whatever node it is on.
name=${PAWL_NAME:-${SLURM_JOB_NAME:-job}-${SLURM_JOB_ID:?to be run by sbatch}}

# Slurm signals this shell only (B:). exec makes it pawl, which saves the job and ends with 85, and Slurm
# puts the job back into the queue for that.
# shellcheck disable=SC2086
exec "$pawl" run -n "$name" -i "${PAWL_INTERVAL:-5m}" --keep 3 --replicate "$PAWL_REPLICA" $PAWL_OPTIONS -- "$@"
