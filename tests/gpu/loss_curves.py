"""Loss curves of the fast path (kernels on a GPU) against those of the reference path (CPU), in fp32 and in bf16.

python3 tests/gpu/loss_curves.py CEILING DATASET [--steps 500] [--seeds 6] [--jobs 1] [--reference FOLDER] [--cpu-only]; needs a GPU
unless --cpu-only. FOLDER keeps the CPU's curves, minutes each, to be made on a machine without a GPU and used again; --jobs runs go on at
a time.

The two runs of a seed begin with the same weights and see the same tokens in the same order (equal data hashes). Still they part: a bf16
run by its roundings, RetNet after 20 steps by the order of its sums alone. That is noise, which falls on either side, where a fault falls
on one. So it is measured by the spread of the differences over the seeds, and their mean may be 4 of its standard errors. (Runs of one
seed that differ in the micro-batch would not do: they share most of their roundings, and say less noise than there is.) That this can
tell a fault is checked, too, by runs on the GPU with twice the learning rate.
"""
import argparse
import concurrent.futures
import itertools
import json
import math
import pathlib
import subprocess
import sys
import tempfile

CONFIGS = {"llama": "configs/quickstart-llama.yaml", "retnet": "configs/quickstart.yaml"}
PRECISIONS = ("fp32", "bf16")
SIDES = {"cpu": ["run.device=cpu"], "gpu": ["run.device=cuda"], "fault": ["run.device=cuda", "train.lr=6e-3"]}  # configs have 3e-3
WINDOW = 50  # steps
BOUND = 4  # standard errors
LEAST_ERROR = 0.0005  # nats: no standard error is taken for less, where the order of sums hardly shows


class Curve:
    """Means of the training loss over windows, then the last validation loss."""

    def __init__(self, file, steps):
        events = [json.loads(line) for line in open(file)]
        losses = [e["loss_nats"] for e in events if e["event"] == "step"]
        assert len(losses) == steps, f"{file}: {len(losses)} steps instead of {steps}"
        self.data_hash = [e["data_hash"] for e in events if e["event"] == "step"][-1]
        self.values = [sum(losses[i:i + WINDOW]) / WINDOW for i in range(0, steps, WINDOW)]
        self.values.append([e["loss_nats"] for e in events if e["event"] == "valid"][-1])


def train(args, kept, name, precision, side, seed):
    """Of the run that is kept as this file, made if it is not there."""
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / "run"
            command = [args.ceiling, "train", CONFIGS[name], f"data.path={args.dataset}", f"run.dir={run}", f"run.seed={seed}",
                       f"train.steps={args.steps}", f"train.precision={precision}", "train.micro_batch=16", "train.log_every=1",
                       "checkpoint.every=never", "eval.prompts=[]", *SIDES[side]]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            kept.write_text((run / "metrics.jsonl").read_text())
    return Curve(kept, args.steps)


def mean(values):
    return sum(values) / len(values)


def differences(curves, others):
    """For each window, some - others of each seed."""
    return [[a - b for a, b in zip(*two)] for two in zip(zip(*(c.values for c in curves)), zip(*(c.values for c in others)))]


def standard_error(of_window, of_all):
    """Of the mean of a window's differences. Few seeds say little about the spread, so it is pooled over all windows; where a window's
    own is larger, that counts."""
    variances = [sum((d - mean(window)) ** 2 for d in window) / (len(window) - 1) for window in [of_window, *of_all]]
    return max(LEAST_ERROR, math.sqrt(max(variances[0], mean(variances[1:])) / len(of_window)))


def apart(curves, others, noise):
    """The mean difference where it is largest in standard errors, which are those of the noise: that many, nats, the error."""
    found = [(mean(window), standard_error(own, noise)) for window, own in zip(differences(curves, others), noise)]
    nats, error = max(found, key=lambda pair: abs(pair[0]) / pair[1])
    return abs(nats) / error, nats, error


def judge(name, precision, runs, seeds):
    cpu, gpu, fault = ([runs[name, precision, side, seed] for seed in seeds] for side in SIDES)
    for seed, *curves in zip(seeds, cpu, gpu, fault):
        assert len({curve.data_hash for curve in curves}) == 1, f"{name}, {precision}, seed {seed}: the runs saw different data"
    for side, curves in (("CPU", cpu), ("GPU", gpu)):
        for seed, curve in zip(seeds, curves):
            print(f"  {side} {precision}, seed {seed}", *(f"{value:.4f}" for value in curve.values))
    noise = differences(gpu, cpu)
    of_gpu, nats, error = apart(gpu, cpu, noise)
    of_fault, nats_of_fault, _ = apart(fault, cpu, noise)
    print(f"  {precision}, GPU from CPU: at most {of_gpu:.1f} standard errors, {nats:+.5f} +- {error:.5f} nats (bound {BOUND}); with twice "
          f"the learning rate {of_fault:.1f}, {nats_of_fault:+.5f}", flush=True)
    assert of_gpu <= BOUND, f"{name}: the paths part in {precision}"
    assert of_fault > BOUND, f"{name}: the bound does not tell a fault in {precision}"


def say_cost_of_bf16(name, runs, seeds):
    """Said, not judged: it is the precision's, whichever the path."""
    for side in ("cpu", "gpu"):
        fp32, bf16 = ([runs[name, precision, side, seed] for seed in seeds] for precision in PRECISIONS)
        windows = differences(bf16, fp32)
        nats, error = mean(windows[-1]), standard_error(windows[-1], windows)
        print(f"  {side.upper()}, bf16 from fp32, last validation: {nats:+.5f} +- {error:.5f} nats")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ceiling")
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--cpu-only", action="store_true")
    args = parser.parse_args()
    assert args.steps % WINDOW == 0, f"--steps must be a multiple of {WINDOW}"
    assert args.seeds > 1, "--seeds must be at least 2: their spread is the noise"
    seeds = range(1, args.seeds + 1)
    with tempfile.TemporaryDirectory() as root, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        reference = args.reference or pathlib.Path(root)
        reference.mkdir(parents=True, exist_ok=True)
        pending = {}
        for seed, side, name, precision in itertools.product(seeds, ["cpu"] if args.cpu_only else SIDES, CONFIGS, PRECISIONS):
            kept = (reference if side == "cpu" else pathlib.Path(root)) / f"{name}-{precision}-{side}-{seed}.jsonl"
            pending[name, precision, side, seed] = pool.submit(train, args, kept, name, precision, side, seed)
        try:
            for n_done, done in enumerate(concurrent.futures.as_completed(pending.values()), 1):
                done.result()
                print(f"\r{n_done} of {len(pending)} runs", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            runs = {key: future.result() for key, future in pending.items()}
        finally:
            pool.shutdown(cancel_futures=True)
        if args.cpu_only:
            return
        for name in CONFIGS:
            print(f"{name}, {args.steps} steps; means of {WINDOW} steps each, then the last validation")
            say_cost_of_bf16(name, runs, seeds)
            for precision in PRECISIONS:
                judge(name, precision, runs, seeds)


if __name__ == "__main__":
    main()
