"""kill -9 at random moments, start-up and saves included: the finished weights equal those of an uninterrupted run.

Needs only the standard library; CEILING is the path of the program. Prints what it did; exit code 0 if all held.
"""
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

CEILING = os.environ["CEILING"]
KILLS = int(os.environ.get("KILLS", "6"))
MODELS = {
    "llama": "{architecture: llama, d_model: 32, n_layers: 2, n_heads: 2}",
    "retnet": "{architecture: retnet, d_model: 32, n_layers: 2, n_heads: 2}",
}


def run(*args, **kwargs):
    return subprocess.run([CEILING, *args], capture_output=True, text=True, **kwargs)


def last_weights(folder):
    return hashlib.sha256((folder / "checkpoints" / "step-00000120" / "weights.safetensors").read_bytes()).hexdigest()


def last_step(folder):
    """The last step that the run has logged."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    steps = [json.loads(line)["step"] for line in lines if line.endswith("}") and '"event":"step"' in line]
    return steps[-1] if steps else 0


def kill_at_random(process, folder):
    """Some steps further on, or within the start. By the run's own progress: no clock knows how fast a busy machine is."""
    if random.random() < 0.3:
        time.sleep(random.uniform(0.02, 0.3))
    else:
        target = last_step(folder) + random.randint(1, 14)
        while process.poll() is None and last_step(folder) < target:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.01))  # within a step, or a save
    process.kill()


def main():
    random.seed(5)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        words = "stone river walk green early north smoke window carry under seven winter".split()
        with open(root / "corpus.jsonl", "w") as out:
            for _ in range(300):
                text = " ".join(random.choice(words) for _ in range(random.randint(3, 60)))
                out.write(json.dumps({"text": text}) + "\n")
        made = run("prepare", "--input", str(root / "corpus.jsonl"), "--tokenizer", "byte", "--out", str(root / "data"), "--valid-share", "0.1")
        assert made.returncode == 0, made.stderr
        for architecture, model in MODELS.items():
            config = root / f"{architecture}.yaml"
            config.write_text(
                f"run: {{dir: {root}/runs/{architecture}, seed: 3, device: cpu}}\n"
                f"data: {{path: {root}/data, context: 64}}\n"
                f"model: {model}\n"
                "train: {steps: 120, global_batch: 8, lr: 3e-3, warmup_steps: 10, log_every: 1}\n"
                "eval: {every: 40}\ncheckpoint: {every: 7, keep_last: 2}\n"
            )
            whole = run("train", str(config), f"run.dir={root}/runs/{architecture}-whole")
            assert whole.returncode == 0, whole.stderr
            kills = 0
            while True:
                process = subprocess.Popen([CEILING, "train", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                if kills < KILLS:
                    kill_at_random(process, root / "runs" / architecture)
                _, err = process.communicate()
                if process.returncode == 0:
                    break
                assert process.returncode == -9, err.decode()
                kills += 1
            # A run that was never killed would prove nothing.
            assert kills >= min(3, KILLS), f"{architecture}: only {kills} kills before the run was finished"
            folder = root / "runs" / architecture
            whole_folder = root / "runs" / f"{architecture}-whole"
            assert last_weights(folder) == last_weights(whole_folder), f"{architecture}: weights differ after {kills} kills"
            leftovers = [p.name for p in (folder / "checkpoints").iterdir() if ".tmp-" in p.name]
            assert not leftovers, leftovers
            steps = [json.loads(line)["step"] for line in open(folder / "metrics.jsonl") if '"event":"step"' in line]
            assert len(steps) == len(set(steps)), "a step is logged twice"
            print(f"{architecture}: {kills} kills, weights equal bit for bit")


if __name__ == "__main__":
    sys.exit(main())
