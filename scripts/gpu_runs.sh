#!/usr/bin/env bash
# Stages 3b, 4g and 5f, one after the other, in the half hour that a GPU is lent for (reckoned in TRAINING.md):
#
#   (setsid nohup bash scripts/gpu_runs.sh DATA FILES OUT > gpu_runs.log 2>&1 < /dev/null &)
#
# DATA is what --data takes. FILES holds what has to be there: start/ (config.json, model.safetensors and
# refiner.safetensors of weights/), taught/ (what 5f starts from; looked for when its turn comes),
# squeezenet1_1_features.safetensors and mobilenet_v2.safetensors. OUT/STAGE gets the weights in pieces of less than
# 15 MiB (cat model.part-* > model.safetensors), config.json, the logs and the last picture of fills, and, when all of it is there, the
# file `done`. A stage that fails does not stop the next. Further arguments go to all three: --cpu --set samples=...
set -u
data=$1 files=$2 out=$3
shift 3
python=${PYTHON:-python3}
runs=${RUNS:-/tmp/runs}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

begin() { # STAGE
    mkdir -p "$runs" "$out/$1"
    echo "$(date +%T) $1"
}

finish() { # STAGE WEIGHTS
    local from=$runs/$1 to=$out/$1 picture
    [ -f "$from/model/$2.safetensors" ] && split -b 14m "$from/model/$2.safetensors" "$to/$2.part-"
    picture=$(ls "$from"/fills-*.jpg 2> /dev/null | tail -n 1)
    cp "$from/model/config.json" "$from/log.jsonl" ${picture:+"$picture"} "$to/"
    touch "$to/done"
    echo "$(date +%T) $1 done"
}

begin 3b
"$python" -m maerestore pretrain scripts/recipes/default-gpu.yaml --data "$data" -o "$runs/3b" --init "$files/start" --workers 12 \
    --set samples=3993600 --set 'resolution=[[0, 256]]' --set decay_share=0.5 "$@" > "$out/3b/run.log" 2>&1
finish 3b model

# The shipped refiner beside the new autoencoder; where that is missing, beside the shipped one.
begin 4g
model=$runs/3b/model
if [ -f "$model/model.safetensors" ]; then
    "$python" - "$files/start" "$model" << 'END'
import sys
from pathlib import Path
from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_refiner
save_refiner(load_refiner(sys.argv[1]), Path(sys.argv[2]), read_refiner_notes(sys.argv[1]))
END
else
    model=$files/start
fi
"$python" -m maerestore train-restorer scripts/recipes/restorer-gpu.yaml --data "$data" -o "$runs/4g" --model "$model" --workers 12 \
    --set samples=448000 --set 'resolution=[[0, 192]]' --set adversarial.start=20000 --set batch_size=64 --set base_lr=2.0e-3 \
    --set validate_every=200000 \
    --set "loss.perceptual={weight: 3.0, backbone: squeezenet1_1, weights: $files/squeezenet1_1_features.safetensors}" \
    "$@" > "$out/4g/run.log" 2>&1
finish 4g refiner

begin 5f
"$python" -m maerestore pretrain scripts/recipes/teach-cpu.yaml --data "$data" -o "$runs/5f" --init "$files/taught" --workers 12 \
    --set "contrastive.teacher.weights=$files/mobilenet_v2.safetensors" --set contrastive.teacher.side=224 \
    --set contrastive.side=160 --set batch_size=1024 --set contrastive.reconstruct=128 --set base_lr=1.0e-3 \
    --set samples=819200 --set warmup_samples=30000 --set ema_decay=0.995 --set compile=true \
    --set save_every=500000 --set validate_every=500000 --set log_every=51200 "$@" > "$out/5f/run.log" 2>&1
finish 5f model
