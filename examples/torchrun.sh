#!/usr/bin/env bash
# Train on all GPUs of one or more machines with torchrun; the same command runs on each of them.
#   DATA=/data/audioset NAME=fmn10_tf ./examples/torchrun.sh
#   DATA=... NAME=... NODES=2 HEAD=host0:29500 ./examples/torchrun.sh     # on both machines
#
# The global batch is batch_size x accumulate_grad_batches x GPUs: the published 64 x 4 on one GPU is 64 x 1 on four.
# Learning rates belong to the global batch, so they stay as they are when it does.
set -euo pipefail
: "${DATA:?folder with the HDF5 files}" "${NAME:?name of the run}"
NODES=${NODES:-1}
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
OUT=${OUT:-runs}
if [ "$NODES" -gt 1 ]; then
    MEET=(--nnodes="$NODES" --rdzv_backend=c10d --rdzv_endpoint="${HEAD:?host:port of the first machine}" --rdzv_id="$NAME")
else
    MEET=(--standalone)
fi
RESUME=()
for folder in "$OUT/$NAME"*; do  # a run that broke off before its first checkpoint leaves its name taken
    rest=${folder#"$OUT/$NAME"}
    [[ $rest =~ ^(-[0-9]+)?$ ]] || continue
    if [ -e "$folder/last.ckpt" ] || compgen -G "$folder/step_*.ckpt" > /dev/null; then RESUME=(--resume); fi
done

exec torchrun "${MEET[@]}" --nproc_per_node="$GPUS" ex_audioset_strong.py \
    --data_dir="$DATA" --output_dir="$OUT" --experiment_name="$NAME" "${RESUME[@]}" \
    --num_devices="$GPUS" --num_nodes="$NODES" --strategy=ddp --sync_batchnorm --precision=bf16-mixed \
    --model_name=fmn10 --seq_model_type=tf --seq_model_dim=256 --pretrained=weak \
    --batch_size=64 --accumulate_grad_batches=1 --max_lr=3e-3 --seq_lr=3e-3 "$@"
