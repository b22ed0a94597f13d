"""Loss curves of the fast path (kernels on a GPU) against those of the reference path (CPU), in fp32 and in bf16.

python3 tests/gpu/loss_curves.py CEILING DATASET [--steps 500] [--reference FOLDER] [--cpu-only]; needs a GPU unless --cpu-only. FOLDER
keeps the CPU's curves, minutes each, to be made on a machine without a GPU and used again.

All runs of a model see the same tokens in the same order (equal data hashes). Every order of sums makes another run: LLaMA's fp32 curves
stay together for 500 steps, RetNet's part by themselves after 20. So a few runs on each side, which differ in the micro-batch alone,
measure that noise, and the mean curves of both sides may differ by 4 standard errors. That this can tell a fault is checked, too, by runs
on the GPU with twice the learning rate.
"""
import argparse
import json
import math
import pathlib
import subprocess
import tempfile

CONFIGS = {"llama": "configs/quickstart-llama.yaml", "retnet": "configs/quickstart.yaml"}
MICRO_BATCHES = (16, 8, 4)
WINDOW = 50  # steps
BOUND = 4  # standard errors
FAULTY_RATE = 6e-3  # of configs that have 3e-3
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


def train(args, config, kept, device, precision, micro_batch, *overrides):
    """Of the run that is kept as this file, made if it is not there."""
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / "run"
            command = [args.ceiling, "train", config, f"data.path={args.dataset}", f"run.dir={run}", f"run.device={device}",
                       f"train.steps={args.steps}", f"train.precision={precision}", f"train.micro_batch={micro_batch}",
                       "train.log_every=1", "checkpoint.every=never", "eval.prompts=[]", *overrides]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            kept.write_text((run / "metrics.jsonl").read_text())
    return Curve(kept, args.steps)


def mean(values):
    return sum(values) / len(values)


def columns_of(some, others):
    """For each window, its values in both groups."""
    return list(zip(zip(*(c.values for c in some)), zip(*(c.values for c in others))))


def standard_errors(some, others):
    """Of the difference of the two groups' means, for each window. The spread within the groups is pooled over them and, as three runs
    say little about it, over all windows; where a window's own is larger, that counts."""
    free = len(some) + len(others) - 2
    variances = [sum((x - mean(side)) ** 2 for side in two for x in side) / free for two in columns_of(some, others)]
    scale = 1 / len(some) + 1 / len(others)
    return [max(LEAST_ERROR, math.sqrt(max(v, mean(variances)) * scale)) for v in variances]


def apart(some, others, errors):
    """The difference of the groups' means where it is largest in standard errors: that many, and nats."""
    differences = [mean(a) - mean(b) for a, b in columns_of(some, others)]
    return max(((abs(d) / e, d) for d, e in zip(differences, errors)), key=lambda pair: pair[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ceiling")
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--cpu-only", action="store_true")
    args = parser.parse_args()
    assert args.steps % WINDOW == 0, f"--steps must be a multiple of {WINDOW}"
    with tempfile.TemporaryDirectory() as root:
        here = pathlib.Path(root)
        reference = args.reference or here
        reference.mkdir(parents=True, exist_ok=True)
        for name, config in CONFIGS.items():
            print(f"{name}, {args.steps} steps; means of {WINDOW} steps each, then the last validation", flush=True)
            for precision in ("fp32", "bf16"):
                def runs(folder, side, device, *overrides):
                    return [train(args, config, folder / f"{name}-{side}{precision}-{m}.jsonl", device, precision, m, *overrides)
                            for m in MICRO_BATCHES]

                cpu = runs(reference, "", "cpu")
                if args.cpu_only:
                    continue
                gpu, fault = runs(here, "gpu-", "cuda"), runs(here, "fault-", "cuda", f"train.lr={FAULTY_RATE}")
                assert len({curve.data_hash for curve in [*cpu, *gpu, *fault]}) == 1, "the runs saw different data"
                for side, curves in (("CPU", cpu), ("GPU", gpu)):
                    for micro_batch, curve in zip(MICRO_BATCHES, curves):
                        print(f"  {side} {precision}, micro-batch {micro_batch:<3}", *(f"{value:.4f}" for value in curve.values))
                errors = standard_errors(gpu, cpu)
                (of_gpu, nats), (of_fault, nats_of_fault) = apart(gpu, cpu, errors), apart(fault, cpu, errors)
                print(f"  {precision}, GPU from CPU: at most {of_gpu:.1f} standard errors, {nats:+.5f} nats (bound {BOUND}); "
                      f"with twice the learning rate {of_fault:.1f}, {nats_of_fault:+.5f}", flush=True)
                assert of_gpu <= BOUND, f"{name}: the paths part in {precision}"
                assert of_fault > BOUND, f"{name}: the bound does not tell a fault in {precision}"


if __name__ == "__main__":
    main()
