#!/usr/bin/env bash
# Stages 4h and 5f, one after the other, in the half hour that a GPU is lent for (reckoned in TRAINING.md):
#
#   (setsid nohup bash scripts/gpu_runs.sh DATA FILES OUT > gpu_runs.log 2>&1 < /dev/null &)
#
# DATA is what --data takes. FILES holds what has to be there: start/ (config.json, model.safetensors and
# refiner.safetensors of weights/), taught/ (what 5f starts from; looked for when its turn comes),
# squeezenet1_1_features.safetensors and mobilenet_v2.safetensors (likewise). OUT/STAGE gets the weights in pieces of less than
# 15 MiB (cat model.part-* > model.safetensors), config.json, the logs and the last picture of fills, and then the file `done`; or
# `failed` where something is missing, or the stage ended in an error: what lies there may be of an earlier save. A stage that fails does not stop the next. Further arguments go to both: --cpu --set samples=...
set -u
data=$1 files=$2 out=$3
shift 3
python=${PYTHON:-python3}
runs=${RUNS:-/tmp/runs}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

begin() { # STAGE
    mkdir -p "$runs" "$out/$1"
    rm -f "$out/$1/done" "$out/$1/failed"
    echo "$(date +%T) $1"
}

finish() { # STAGE WEIGHTS EXIT-STATUS
    local from=$runs/$1 to=$out/$1 picture copied=1
    picture=$(ls "$from"/fills-*.jpg 2> /dev/null | tail -n 1)
    rm -f "$to/$2".part-*
    split -b 14m "$from/model/$2.safetensors" "$to/$2.part-" &&
        cp "$from/model/config.json" "$from/log.jsonl" ${picture:+"$picture"} "$to/" && copied=0
    case $copied,$3 in # a run that a signal ends has saved
        0,0 | 0,130 | 0,143) touch "$to/done" ;;
        *) touch "$to/failed" ;;
    esac
    echo "$(date +%T) $1 $(cd "$to" && ls done failed 2> /dev/null)"
}

# From what ships. Steps are bound by what the CPU tells the GPU: 45 to 55 ms each for 64 photographs of 208 px on an H200.
begin 4h
"$python" scripts/mix_heads.py "$files/start" --share 0
"$python" -m maerestore train-restorer scripts/recipes/restorer-gpu.yaml --data "$data" -o "$runs/4h" --model "$files/start" --workers 12 \
    --set samples=960000 --set 'resolution=[[0, 208]]' --set native=true --set compile=true --set adversarial.start=6400 \
    --set batch_size=64 --set base_lr=2.0e-3 --set decay_share=0.4 --set warmup_samples=12800 --set validate_every=200000 \
    --set adversarial.weight=0.3 --set adversarial.feature_matching=4.0 --set loss.l1=0.2 \
    --set "loss.perceptual={weight: 3.0, backbone: squeezenet1_1, weights: $files/squeezenet1_1_features.safetensors}" \
    "$@" > "$out/4h/run.log" 2>&1
finish 4h refiner $?

begin 5f
"$python" -m maerestore pretrain scripts/recipes/teach-cpu.yaml --data "$data" -o "$runs/5f" --init "$files/taught" --workers 12 \
    --set "contrastive.teacher.weights=$files/mobilenet_v2.safetensors" --set contrastive.teacher.side=224 \
    --set contrastive.side=160 --set batch_size=1024 --set contrastive.reconstruct=128 --set base_lr=1.0e-3 \
    --set samples=819200 --set warmup_samples=30000 --set ema_decay=0.995 --set compile=true \
    --set save_every=500000 --set validate_every=500000 --set log_every=51200 "$@" > "$out/5f/run.log" 2>&1
finish 5f model $?
