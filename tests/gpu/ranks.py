"""1 and 2 GPUs: speed, memory, the loss curve, resume 1 -> 2 -> 1, kill -9 of a rank. Prints a table; exit code 0 if all held.

  CEILING=path/of/the/program tests/gpu/ranks.py DATASET [speed|curve|resume|kill ...]

Standard library only. DATASET holds at least a million tokens of a vocabulary below 50,000.
"""
import json
import pathlib
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
from harness import ceiling, children, kill, last_step, start, steps_of, wait_for_step

CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "models"


def config(root, name, dataset, model, **train):
    keys = {"steps": 60, "global_batch": 16, "micro_batch": 16, "lr": "3e-4", "warmup_steps": 10, "log_every": 5, "precision": "bf16", **train}
    path = root / f"{name}.yaml"
    path.write_text(
        f"base: {CONFIGS / (model + '.yaml')}\n"
        f"run: {{dir: {root}/runs/{name}, device: cuda}}\ndata: {{path: {dataset}, context: 2048, cross_document: allow}}\n"
        "train: {" + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}\n"
        "eval: {every: never}\ncheckpoint: {every: never, keep_best: false}\nparallel: {timeout: 60s}\n"
    )
    return path


def finish(process, code=0):
    _, err = process.communicate(timeout=400)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}:\n{err[-3000:]}"
    return err


def speed(root, dataset):
    for model in ("llama-160m", "retnet-160m"):
        rate = {}
        for gpus, zero in ((1, 1), (2, 1), (2, 0)):
            name = f"{model}-{gpus}-zero{zero}"
            path = config(root, name, dataset, model, global_batch=16 * gpus)
            finish(start(path, "--gpus", gpus, f"parallel.zero={zero}", "model.vocab_multiple=50304"))
            steps = steps_of(root / "runs" / name)
            rate[gpus, zero] = statistics.median(s["tokens_per_s"] for s in steps[3:])
            memory = max(s["memory_bytes"] for s in steps) / 2**30
            print(f"{model}: {gpus} GPU, zero {zero}: {rate[gpus, zero]:,.0f} tok/s, {rate[gpus, zero] / rate[1, 1]:.3f}x, {memory:.2f} GiB on rank 0", flush=True)


def curve(root, dataset):
    """The same global batch on 1 and 2 GPUs, and on 1 GPU in other micro-batches: how far another order of sums alone leads."""
    for model in ("llama-160m", "retnet-160m"):
        curves = {}
        for gpus, micro in ((1, 8), (1, 16), (2, 8)):
            name = f"{model}-curve-{gpus}-{micro}"
            path = config(root, name, dataset, model, steps=300, global_batch=16, micro_batch=micro, log_every=1)
            finish(start(path, "--gpus", gpus))
            curves[gpus, micro] = steps_of(root / "runs" / name)
        for other in ((1, 16), (2, 8)):
            a, b = curves[1, 8], curves[other]
            assert a[-1]["data_hash"] == b[-1]["data_hash"]
            gaps = [abs(x["loss_nats"] - y["loss_nats"]) for x, y in zip(a, b)]
            means = [abs(statistics.mean(x["loss_nats"] - y["loss_nats"] for x, y in zip(a[i : i + 50], b[i : i + 50]))) for i in range(0, 300, 50)]
            print(f"{model}: 300 steps, 1 GPU in micro-batches of 8 against {other[0]} GPU, {other[1]}: largest difference {max(gaps):.4f} nats, of 50-step means {max(means):.4f}", flush=True)


def resume(root, dataset):
    path = config(root, "elastic", dataset, "llama-160m", steps=90, global_batch=16, micro_batch=8, log_every=1)
    folder = root / "runs" / "elastic"
    for gpus, target in ((1, 30), (2, 60), (1, 90)):
        process = start(path, "--gpus", gpus)
        if target < 90:
            wait_for_step(process, folder, target)
            process.send_signal(signal.SIGTERM)
            finish(process, 128 + signal.SIGTERM)
        else:
            finish(process)
    audit = ceiling("data", "audit", folder)
    assert audit.returncode == 0, audit.stderr
    print(audit.stdout, flush=True)


def kill_one(root, dataset):
    path = config(root, "kill", dataset, "llama-160m", steps=80, global_batch=16, micro_batch=8, log_every=1)
    folder = root / "runs" / "kill"
    process = start(path, "--gpus", 2, "checkpoint.every=10")
    wait_for_step(process, folder, 25)
    begin = time.time()
    kill(children(process)[1])
    err = finish(process, 1)
    print(f"kill -9 of rank 1 at step {last_step(folder)}: the other ended after {time.time() - begin:.1f} s; said: {[x for x in err.splitlines() if 'is gone' in x]}", flush=True)
    finish(start(path, "--gpus", 2, "checkpoint.every=10"))
    audit = ceiling("data", "audit", folder)
    assert audit.returncode == 0, audit.stderr
    print(audit.stdout, flush=True)


def main():
    dataset, only = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        for test in (kill_one, resume, speed, curve):
            if not only or test.__name__ in only:
                test(pathlib.Path(name), dataset)


if __name__ == "__main__":
    sys.exit(main())
