"""Loss curves of the fast path (bf16 kernels on a GPU) against those of the reference path (fp32 on the CPU).

python3 tests/gpu/loss_curves.py CEILING DATASET [STEPS]; needs a GPU. The runs see the same tokens in the same order (equal data
hashes). How far bf16 noise carries a run from fp32 is measured, by a third run: bf16 on the CPU, other kernels and other rounding.
The fast path may part from fp32 as far as twice that, by means of the loss over 50 steps and by the last validation loss.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

CONFIGS = {"llama": "configs/quickstart-llama.yaml", "retnet": "configs/quickstart.yaml"}


def train(ceiling, config, dataset, folder, steps, *overrides):
    command = [ceiling, "train", config, f"data.path={dataset}", f"run.dir={folder}", f"train.steps={steps}", "train.log_every=1",
               "checkpoint.every=never", "eval.prompts=[]", *overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in open(pathlib.Path(folder) / "metrics.jsonl")]
    losses = [e["loss_nats"] for e in events if e["event"] == "step"]
    hashes = [e["data_hash"] for e in events if e["event"] == "step"]
    valid = [e["loss_nats"] for e in events if e["event"] == "valid"]
    return losses, hashes[-1], valid[-1]


def main():
    ceiling, dataset = sys.argv[1:3]
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    for name, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as root:
            fp32 = train(ceiling, config, dataset, root + "/fp32", steps, "run.device=cpu", "train.precision=fp32")
            noisy = train(ceiling, config, dataset, root + "/noisy", steps, "run.device=cpu", "train.precision=bf16")
            fast = train(ceiling, config, dataset, root + "/fast", steps, "run.device=cuda", "train.precision=bf16")
        assert len(fast[0]) == len(fp32[0]) == len(noisy[0]) == steps, (len(fast[0]), len(fp32[0]), len(noisy[0]))
        assert fast[1] == fp32[1] == noisy[1], "the runs saw different data"

        def distance(run):  # the largest difference of means over 50 steps, and that of the last validation
            means = [abs(sum(run[0][i:i + 50]) - sum(fp32[0][i:i + 50])) / 50 for i in range(steps - 49)]
            return max(means), abs(run[2] - fp32[2])

        of_fast, of_noisy = distance(fast), distance(noisy)
        print(f"{name}: {steps} steps, validation {fast[2]:.4f} (GPU bf16), {noisy[2]:.4f} (CPU bf16), {fp32[2]:.4f} (CPU fp32); largest "
              f"difference from fp32 of means over 50 steps: {of_fast[0]:.4f} (GPU), {of_noisy[0]:.4f} (CPU bf16)", flush=True)
        for got, noise, what in zip(of_fast, of_noisy, ("training losses", "validation losses")):
            assert got <= 2 * noise + 0.01, f"the {what} part"


if __name__ == "__main__":
    main()
