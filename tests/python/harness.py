"""Small runs for the tests that start whole processes. Standard library only; CEILING is the path of the program."""
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import struct
import subprocess
import time

# A background job of a shell ignores SIGINT, one of nohup SIGHUP, and so would the programs that it starts. What has a handler here
# is at its default there.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, lambda number, frame: None)

CEILING = os.path.abspath(os.environ.get("CEILING", "build/ceiling"))
MODELS = {
    "llama": "{architecture: llama, d_model: 32, n_layers: 2, n_heads: 2}",
    "retnet": "{architecture: retnet, d_model: 32, n_layers: 2, n_heads: 2}",
}


def ceiling(*args, **kwargs):
    return subprocess.run([CEILING, *map(str, args)], capture_output=True, text=True, **kwargs)


def prepare(root, seed=5, noisy=0):
    """A dataset of documents of 3 to 60 words in root/data; `noisy` of them are of random letters instead."""
    chosen = random.Random(seed)
    words = "stone river walk green early north smoke window carry under seven winter".split()
    with open(root / "corpus.jsonl", "w") as out:
        for i in range(300):
            text = " ".join(chosen.choice(words) for _ in range(chosen.randint(3, 60)))
            if noisy and i % (300 // noisy) == 150 // noisy:
                text = "".join(chosen.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(300))
            out.write(json.dumps({"text": text}) + "\n")
    made = ceiling("prepare", "--input", root / "corpus.jsonl", "--tokenizer", "byte", "--out", root / "data", "--valid-share", "0.1")
    assert made.returncode == 0, made.stderr


def write_config(root, name, model, **sections):
    """root/NAME.yaml of a tiny fp32 run in root/runs/NAME; sections add to or replace keys, as train="steps: 9"."""
    parts = {
        "run": f"dir: {root}/runs/{name}, seed: 3, device: cpu",
        "data": f"path: {root}/data, context: 64",
        "train": "steps: 60, global_batch: 12, micro_batch: 2, lr: 3e-3, warmup_steps: 10, log_every: 1, precision: fp32",
        "eval": "every: 20",
        "checkpoint": "every: 7, keep_last: 2",
        "parallel": "check_every: 10, timeout: 60s",
    }
    parts.update(sections)
    path = root / f"{name}.yaml"
    path.write_text("".join(f"{key}: {{{value}}}\n" for key, value in parts.items()) + f"model: {model}\n")
    return path


def start(config, *overrides, env=None, cwd=None, program=None, largest_file=None):
    """A training in the background. `largest_file`: bytes that a file may have, as a disk that is full."""
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))) if largest_file else None
    return subprocess.Popen(
        [program or CEILING, "train", str(config), *map(str, overrides)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, **(env or {})}, cwd=cwd, preexec_fn=limit,
    )


def steps_of(folder):
    """The logged steps of a run, last line first dropped if it is half written."""
    try:
        lines = (folder / "metrics.jsonl").read_text().split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}") and '"event":"step"' in line]


def last_step(folder):
    steps = steps_of(folder)
    return steps[-1]["step"] if steps else 0


def wait_for_step(process, folder, target):
    while process.poll() is None and last_step(folder) < target:
        time.sleep(0.002)


def children(process):
    """Process ids of the ranks that `process` has started, by rank."""
    try:
        ids = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(i) for i in ids]


def last_weights(folder, step):
    return hashlib.sha256((folder / "checkpoints" / f"step-{step:08}" / "weights.safetensors").read_bytes()).hexdigest()


def weights(folder, step):
    """All numbers of the fp32 weights file, in the order of the file."""
    data = (folder / "checkpoints" / f"step-{step:08}" / "weights.safetensors").read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    return struct.unpack(f"<{(len(data) - begin) // 4}f", data[begin:])


def leftovers(folder):
    return [p.name for p in (folder / "checkpoints").iterdir() if ".tmp-" in p.name]


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False
