"""Several CPU ranks: the same loss curve and the same data as one process, whatever the number of ranks, resumed at any other.

Needs only the standard library; CEILING is the path of the program.
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import time

from harness import CEILING, MODELS, ceiling, children, kill, last_weights, leftovers, prepare, start, steps_of, wait_for_step, weights, write_config

STEPS = 60


def close(a, b, tolerance):
    return abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-30)


def finish(process, code=0):
    _, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}:\n{err}"
    return err


def same_curve(root, architecture, model):
    """1, 2, 3 and 4 ranks, both ways to keep the optimizer: equal up to the order of sums."""
    config = write_config(root, architecture, model)
    whole = root / "runs" / f"{architecture}-1"
    finish(start(config, f"run.dir={whole}"))
    reference = steps_of(whole)
    assert len(reference) == STEPS
    valid = [json.loads(x) for x in open(whole / "metrics.jsonl") if '"event":"valid"' in x]
    for ranks, zero in ((2, 1), (3, 1), (4, 1), (2, 0), (3, 0)):
        folder = root / "runs" / f"{architecture}-{ranks}-zero{zero}"
        finish(start(config, f"run.dir={folder}", "--ranks", ranks, f"parallel.zero={zero}"))
        steps = steps_of(folder)
        assert [s["data_hash"] for s in steps] == [s["data_hash"] for s in reference], "other data"
        for ours, theirs in zip(steps, reference):
            # In the first ten steps the difference is that of a few sums; later it grows as any rounding does in training,
            # in the norm of a spiking gradient fastest.
            early = ours["step"] <= 10
            for key, tolerance in (("loss_nats", 1e-6 if early else 1e-4), ("grad_norm", 1e-6 if early else 1e-2)):
                assert close(ours[key], theirs[key], tolerance), f"{ranks} ranks, step {ours['step']}: {key} {ours[key]} {theirs[key]}"
            assert ours["n_targets"] == theirs["n_targets"] and ours["tokens"] == theirs["tokens"]
        for ours, theirs in zip((json.loads(x) for x in open(folder / "metrics.jsonl") if '"event":"valid"' in x), valid):
            assert close(ours["loss_nats"], theirs["loss_nats"], 1e-4) and ours["n_targets"] == theirs["n_targets"]
        worst = max(abs(a - b) for a, b in zip(weights(folder, STEPS), weights(whole, STEPS)))
        print(f"{architecture}: {ranks} ranks, zero {zero}: same data, same curve; weights within {worst:.1e} after {STEPS} steps", flush=True)


def elastic(root, architecture, model):
    """1 -> 3 -> 2 -> 4 ranks, each stopped by a signal: each sample once, the curve of an uninterrupted run."""
    config = write_config(root, f"{architecture}-elastic", model)
    folder = root / "runs" / f"{architecture}-elastic"
    for ranks, target in ((1, 12), (3, 25), (2, 40), (4, STEPS)):
        process = start(config, "--ranks", ranks)
        if target < STEPS:
            wait_for_step(process, folder, target)
            process.send_signal(signal.SIGTERM)
            finish(process, 128 + signal.SIGTERM)
        else:
            finish(process)
    reference = steps_of(root / "runs" / f"{architecture}-1")
    steps = steps_of(folder)
    assert [s["step"] for s in steps] == list(range(1, STEPS + 1)), "a step is missing or logged twice"
    assert steps[-1]["data_hash"] == reference[-1]["data_hash"]
    assert all(close(a["loss_nats"], b["loss_nats"], 1e-3) for a, b in zip(steps, reference))
    audit = ceiling("data", "audit", folder)
    assert audit.returncode == 0, audit.stderr
    assert "by 4 ranks" in audit.stdout and "by 1 process" in audit.stdout, audit.stdout
    # The audit notices a record that was changed, one that is missing, and one that is there twice.
    log = folder / "consumed.txt"
    lines = log.read_text().splitlines(keepends=True)
    digest = lines[30].split()[4]
    for damaged in (
        lines[:30] + [lines[30].replace(digest, f"{int(digest, 16) ^ 1:016x}")] + lines[31:],
        lines[:30] + lines[31:],
        lines[:30] + [lines[29]] + lines[30:],
    ):
        log.write_text("".join(damaged))
        assert ceiling("data", "audit", folder).returncode == 1
    log.write_text("".join(lines))
    print(f"{architecture}: resumed 1 -> 3 -> 2 -> 4 ranks, audit passed", flush=True)


def bitwise(root, architecture, model):
    """At equal number of ranks a resumed run is the uninterrupted one bit for bit."""
    config = write_config(root, f"{architecture}-bitwise", model)
    folder = root / "runs" / f"{architecture}-bitwise"
    for target in (9, 31, STEPS):
        process = start(config, "--ranks", 3)
        if target < STEPS:
            wait_for_step(process, folder, target)
            process.send_signal(signal.SIGINT)
            finish(process, 128 + signal.SIGINT)
        else:
            finish(process)
    assert last_weights(folder, STEPS) == last_weights(root / "runs" / f"{architecture}-3-zero1", STEPS)
    print(f"{architecture}: interrupted twice at 3 ranks, weights equal bit for bit", flush=True)


def signals(root):
    """To one rank, to the parent, to the group: all ranks save once and leave nothing behind. A second one: at once."""
    config = write_config(root, "signals", MODELS["llama"], train="steps: 100000, global_batch: 12, micro_batch: 2, log_every: 1, precision: fp32", eval="every: never", checkpoint="every: never")
    folder = root / "runs" / "signals"
    for to in ("one rank", "parent", "group"):
        process = start(config, "--ranks", 3)
        begin = len(steps_of(folder))
        wait_for_step(process, folder, begin + 5)
        ranks = children(process)
        assert len(ranks) == 3
        if to == "one rank":
            kill(ranks[1], signal.SIGTERM)
        elif to == "parent":
            kill(process.pid, signal.SIGTERM)
        else:
            for pid in (process.pid, *ranks):  # as a batch system does
                kill(pid, signal.SIGTERM)
        err = finish(process, 128 + signal.SIGTERM)
        assert err.count("stopped by signal 15") == 1, err
        assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks)
        assert not leftovers(folder)
        assert ceiling("checkpoint", "list", folder).returncode == 0
        print(f"SIGTERM to {to}: saved once, exit code 143", flush=True)
    process = start(config, "--ranks", 3)
    wait_for_step(process, folder, len(steps_of(folder)) + 5)
    ranks = children(process)
    kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    deadline = time.time() + 20
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks), "a rank is left"
    verified = ceiling("checkpoint", "verify", folder)
    assert verified.returncode == 0, verified.stderr
    print("a second SIGINT: exit at once, the last checkpoint verifies", flush=True)


def spikes(root):
    """Noise that falls on one rank is skipped by all, at the same steps whatever their number; the samples count as consumed."""
    (root / "noisy").mkdir()
    prepare(root / "noisy", noisy=1)
    settings = "steps: 120, global_batch: 6, micro_batch: 2, lr: 3e-3, log_every: 1, precision: fp32, spike: {policy: skip, window: 16, threshold: 6}"
    config = write_config(root, "spikes", MODELS["llama"], data=f"path: {root}/noisy/data, context: 64", train=settings)
    found = {}
    for ranks in (1, 2, 3):
        folder = root / "runs" / f"spikes-{ranks}"
        finish(start(config, f"run.dir={folder}", "--ranks", ranks))
        skips = [json.loads(x) for x in open(folder / "metrics.jsonl") if '"event":"skip"' in x]
        found[ranks] = [s["step"] for s in skips]
        for skip in skips:  # the rank that is named had those samples
            step = skip["step"] - 1
            first, last = 6 * step + 6 * skip["rank"] // ranks, 6 * step + 6 * (skip["rank"] + 1) // ranks - 1
            assert (skip["first_sample"], skip["last_sample"]) == (first, last), skip
        assert ceiling("data", "audit", folder).returncode == 0
    assert len(found[1]) >= 2 and found[1] == found[2] == found[3], found
    print(f"spikes: steps {found[1]} skipped by 1, 2 and 3 ranks", flush=True)


def faults(root):
    """A damaged checkpoint, a shard that becomes unreadable, a disk that fills: said, and the run goes on as if it had not been."""
    config = write_config(root, "faults", MODELS["llama"])
    folder, whole = root / "runs" / "faults", root / "runs" / "faults-whole"
    finish(start(config, f"run.dir={whole}", "--ranks", 2))

    process = start(config, "--ranks", 2)
    wait_for_step(process, folder, 30)
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    before, newest = sorted((folder / "checkpoints").iterdir())[-2:]  # where it stopped depends on the machine, and may be a multiple of `every`
    damaged = newest / "optimizer-00001-of-00002.safetensors"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    process = start(config, "--ranks", 2)
    wait_for_step(process, folder, 40)
    process.send_signal(signal.SIGTERM)
    err = finish(process, 128 + signal.SIGTERM)
    assert f"{newest.name}: skipped" in err and damaged.name in err and f"resuming from {before.name}" in err, err
    print("a damaged checkpoint: walked back to the one before, and said so", flush=True)

    shard = next((root / "data").glob("train-*.h5"))
    good = shard.read_bytes()
    shard.write_bytes(good[: len(good) // 2])
    err = finish(start(config, "--ranks", 2), 1)
    assert str(shard) in err and err.count("ceiling: error:") == 1, err
    shard.write_bytes(good)
    print("a truncated shard: named by one rank, all end", flush=True)

    before = sorted(p.name for p in (folder / "checkpoints").iterdir())
    weights_bytes = (folder / "checkpoints" / before[-1] / "weights.safetensors").stat().st_size
    err = finish(start(config, "--ranks", 2, largest_file=weights_bytes // 2), 1)
    assert "was not saved" in err and "Earlier checkpoints are untouched" in err, err
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == before, "something half-written is left"
    finish(start(config, "--ranks", 2))
    assert last_weights(folder, STEPS) == last_weights(whole, STEPS), "weights differ after the faults"
    assert ceiling("data", "audit", folder).returncode == 0
    print("a disk that fills: said, earlier checkpoints untouched; the finished weights equal bit for bit", flush=True)


def refused(root):
    """Environments and ranks that do not fit: refused before the first step, with what differs."""
    config = write_config(root, "refused", MODELS["llama"], data="path: data, context: 64")
    folder = root / "runs" / "refused"
    port = str(20000 + int(time.time() * 1000) % 10000)

    def ranks(overrides=((), ()), cwds=(root, root), programs=(None, None)):
        started = []
        for rank in range(2):
            variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            started.append(start(config, *overrides[rank], env=variables, cwd=cwds[rank], program=programs[rank]))
        ends = [(p.communicate(timeout=120)[1], p.returncode) for p in started]
        assert all(code != 0 for _, code in ends), ends
        assert not steps_of(folder), "trained all the same"
        said = "\n".join(err for err, _ in ends)
        assert said.count("ceiling: error:") == 1, said
        return said

    said = ranks(overrides=((), ("train.lr=1e-3",)))
    assert "rank 1 was started with another configuration than rank 0" in said and "train.lr: 0.003 -> 0.001" in said, said
    other = root / "other host"
    other.mkdir()
    prepare(other, seed=6)
    said = ranks(cwds=(root, other))  # the same path, other data there
    assert "rank 1 sees other data than rank 0" in said and "parts/0/tokens" in said, said
    other_build = root / "ceiling"
    shutil.copy(CEILING, other_build)
    with open(other_build, "ab") as program:
        program.write(b"another build")
    said = ranks(programs=(None, str(other_build)))
    assert "rank 1 runs another build than rank 0" in said, said

    def alone(expected, *arguments, **variables):
        said = ceiling("train", config, *arguments, env={"PATH": os.environ["PATH"], **variables}, cwd=root).stderr
        assert expected in said and said.count("\n") == 1, said

    alone("RANK=3 but WORLD_SIZE=2: ranks are 0 to 1", RANK="3", WORLD_SIZE="2")
    alone("parallel.ranks: 2 processes are wanted, torchrun has started 1", "--ranks", "2", RANK="0", WORLD_SIZE="1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = str(taken.getsockname()[1])
        alone(f"cannot listen on port {used}: Address already in use", RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=used)
    assert not steps_of(folder)
    print("refused: other config, data, build; RANK >= WORLD_SIZE; two launchers; a port in use", flush=True)


def main():
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        prepare(root)
        for architecture, model in MODELS.items():
            for test in (same_curve, elastic, bitwise):
                if not only or test.__name__ in only:
                    test(root, architecture, model)
        for test in (signals, spikes, faults, refused):
            if not only or test.__name__ in only:
                test(root)


if __name__ == "__main__":
    sys.exit(main())
