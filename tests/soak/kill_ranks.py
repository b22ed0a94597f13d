"""kill -9 of one rank, of all ranks or of the parent, at random moments, saves and start-up included; then the run goes on.

  tests/soak/kill_ranks.py [KILLS] [RANKS]      default 200 kills at 2 ranks; CEILING is the path of the program

After all of it the weights equal those of a run that was never killed, bit for bit; the audit finds each sample as often as it
should be; no torn checkpoint was loaded, and nothing half-written is left. Standard library only.
"""
import pathlib
import random
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))
from harness import MODELS, ceiling, children, kill, last_step, last_weights, leftovers, prepare, start, wait_for_step, write_config


def saving(folder):
    return (folder / "checkpoints").exists() and bool(leftovers(folder))


def strike(process, folder, chosen, counts):
    """Waits for a random moment and kills someone; whether anyone was hit."""
    moment = chosen.choice(("start", "step", "step", "save"))
    if moment == "start":
        time.sleep(chosen.uniform(0.02, 0.6))
    else:
        wait_for_step(process, folder, last_step(folder) + chosen.randint(1, 12))
        deadline = time.time() + 5
        while moment == "save" and process.poll() is None and not saving(folder) and time.time() < deadline:
            time.sleep(0.0005)
    ranks = children(process)
    whom = chosen.choice(("one rank", "one rank", "all ranks", "parent"))
    targets = [process.pid] if whom == "parent" or not ranks else ranks if whom == "all ranks" else [chosen.choice(ranks)]
    if process.poll() is not None:
        return False
    hit = [kill(pid, signal.SIGKILL) for pid in targets]
    counts[f"{whom}, {'saving' if saving(folder) else moment}"] = counts.get(f"{whom}, {'saving' if saving(folder) else moment}", 0) + 1
    return any(hit)


def soak(root, kills, n_ranks, model="llama", seed=11):
    chosen = random.Random(seed)
    steps = max(60, 10 * kills)
    settings = f"steps: {steps}, global_batch: 6, micro_batch: 2, lr: 3e-3, warmup_steps: 10, log_every: 1, precision: fp32"
    config = write_config(root, "soak", MODELS[model], train=settings, eval="every: 50", checkpoint="every: 3, keep_last: 2")
    folder, whole = root / "runs" / "soak", root / "runs" / "whole"
    reference = start(config, f"run.dir={whole}", "--ranks", n_ranks)
    _, err = reference.communicate()
    assert reference.returncode == 0, err
    counts, done, sessions = {}, 0, 0
    while True:
        process = start(config, "--ranks", n_ranks)
        sessions += 1
        if done < kills:
            done += strike(process, folder, chosen, counts)
        ranks = children(process)
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        deadline = time.time() + 90  # ranks whose parent was killed stop by themselves
        while any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks):
            assert time.time() < deadline, "a rank outlives its parent"
            time.sleep(0.01)
        assert "Traceback" not in err and "is damaged" not in err, err
        if done % 20 == 0:
            print(f"{done} kills, step {last_step(folder)} of {steps}", flush=True)
    assert done >= kills, f"the run ended after {done} of {kills} kills: they did not come fast enough"
    assert last_weights(folder, steps) == last_weights(whole, steps), f"weights differ after {done} kills"
    assert not leftovers(folder), leftovers(folder)
    audit = ceiling("data", "audit", folder)
    assert audit.returncode == 0, audit.stderr
    print(f"{n_ranks} ranks, {done} kills in {sessions} sessions: weights equal bit for bit, audit passed")
    for what, n in sorted(counts.items()):
        print(f"  {n:4} {what}")


def main():
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    n_ranks = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        prepare(root)
        soak(root, kills, n_ranks)


if __name__ == "__main__":
    sys.exit(main())
