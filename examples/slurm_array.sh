#!/bin/bash
# One array task per GPU; each takes its part of the episodes. Send it with
#
#     SOURCE=/data/episodes OUTPUT=/scratch/$USER/transferred CHECKPOINTS=/data/checkpoints sbatch examples/slurm_array.sh
#
# All tasks share one output folder. A task that is preempted, killed or out of time is queued again and goes on
# where it was: finished episodes are skipped, the one in hand continues from its finished room view.
#SBATCH --job-name=guided-transfer
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=96G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
#SBATCH --output=guided-transfer-%A_%a.log

set -euo pipefail
: "${SOURCE:?folder of data_<k>.hdf5 files}" "${OUTPUT:?folder that every node sees under this path}"
CHECKPOINTS=${CHECKPOINTS:-bundled}

guided-transfer transfer \
  --source_data_dir "$SOURCE" \
  --output_data_dir "$OUTPUT" \
  --checkpoint_dir "$CHECKPOINTS" \
  --engine local \
  --shard "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" \
  --offload_text_encoder_model &

# TERM comes a minute before the time is up: the run abandons the episode in hand, its stages kept, and the task
# queues itself again.
child=$!
queue_again() {
  kill -TERM "$child"
  wait "$child" || true
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
  exit 0
}
trap queue_again TERM
wait "$child"
