#!/bin/bash
# A search on the nodes of a SLURM job: sbatch slurm.sh. Submitted again, or requeued, it goes on where it was.
#SBATCH --job-name=tvm-mnas
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --time=48:00:00
#SBATCH --requeue
set -euo pipefail
PATH=$HOME/tvm-mnas/bin:$PATH
# On a file system that every node sees.
run=${RUN:-$PWD/run}
port=${PORT:-6379}

# This script runs on the first node, which is the head too.
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export RAY_ADDRESS
RAY_ADDRESS=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):$port
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port="$port" --disable-usage-stats --block &
until ray status --address="$RAY_ADDRESS" >/dev/null 2>&1; do sleep 2; done
others=$((SLURM_JOB_NUM_NODES - 1))
if [[ $others -gt 0 ]]; then
  srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --address="$RAY_ADDRESS" --disable-usage-stats --block &
fi

if [[ -f $run/config.toml ]]; then
  tvm-mnas search --resume "$run"
else
  tvm-mnas search --space mnasnet --data imagenet:/data/imagenet --recipe imagenet-proxy --device pixel4 \
    --target-latency 80ms --trials 8000 --batch 512 --lag 1 --executor ray:cpus=8 --run "$run"
fi
