#!/bin/bash
# Train on the machines of a Slurm job: one launcher on each, which find each other by themselves.
#
#   sbatch --nodes=4 --gpus-per-node=8 pipelines/slurm.sh ctr=dcnv2 data=criteo data.source=<folder>
#   PROCESSES=4 sbatch --nodes=2 --cpus-per-task=16 pipelines/slurm.sh ctr=autoint
#
# The arguments are those of pipelines.train. A process that dies is started again, and a job that
# Slurm puts back into its queue is begun again: both continue from the last checkpoint, so the
# folder must be on a file system that all machines see.
#
#   PROCESSES  on each machine; else its GPUs, else 1
#   RESTARTS   how often processes are started again, 1
#   PYTHON     the interpreter, python
#SBATCH --job-name=recsys
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

: "${SLURM_JOB_ID:?is missing: this is a batch script, submit it with sbatch}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}
share=$((${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}} / processes))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 1 ? share : 1))}

# What belongs to this job, wherever it runs next; what the user says comes later, and wins.
own=("trainer.resume=auto")
[[ " $* " == *" output_dir="* ]] || own+=("output_dir=outputs/slurm-$SLURM_JOB_ID")

exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$processes" \
    --max-restarts "${RESTARTS:-1}" \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:$((20000 + SLURM_JOB_ID % 20000))" \
    -m pipelines.train "${own[@]}" "$@"
