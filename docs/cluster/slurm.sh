#!/bin/sh
# A plan as a job array: one group a task, each alone on its machine. Submit from the folder of the plan:
#     sbatch --array=0-2 slurm.sh plan.json results/
# with the last index that `resnext-bench plan` printed. The folder of the results is one that all machines share.
# The same line again measures what failed or was lost; what is there is left alone.
#SBATCH --job-name=resnext-bench
#SBATCH --exclusive
#SBATCH --time=01:00:00
#SBATCH --requeue
set -eu
exec resnext-bench run-cells "$1" --index "$SLURM_ARRAY_TASK_ID" --into "$2"
