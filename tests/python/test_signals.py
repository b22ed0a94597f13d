"""Ctrl-C once, twice, ten times, and a terminal that closes: at start-up, in training, in evaluation, in a save, in prepare.

The first saves and exits with 128 + signal; a second exits at once. Never is anything half-written left: no temporary folder, no
lock that keeps the next start away, no checkpoint that does not verify. Standard library only; CEILING is the path of the program.
"""
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from harness import CEILING, MODELS, ceiling, children, kill, last_step, leftovers, prepare, start, wait_for_step, write_config

ONCE, TWICE, TEN_TIMES = [0], [0, 0.1], [0.01] * 10


def send(process, number, pauses):
    for pause in pauses:
        time.sleep(pause)
        if process.poll() is None:
            process.send_signal(number)


def wait_for_save(process, folder):
    deadline = time.time() + 3
    while process.poll() is None and time.time() < deadline:
        if (folder / "checkpoints").exists() and leftovers(folder):
            return


def training(root, ranks):
    settings = "steps: 100000, global_batch: 6, micro_batch: 2, lr: 3e-3, log_every: 1, precision: fp32"
    config = write_config(root, f"signals-{ranks}", MODELS["llama"], train=settings, eval="every: 10", checkpoint="every: 4, keep_last: 2")
    folder = root / "runs" / f"signals-{ranks}"
    chosen = random.Random(3)
    for moment in ("start", "training", "evaluation", "save"):
        for number, pauses, what in ((signal.SIGINT, ONCE, "once"), (signal.SIGINT, TWICE, "twice"), (signal.SIGINT, TEN_TIMES, "ten times"), (signal.SIGHUP, ONCE, "hangup")):
            before = last_step(folder)
            process = start(config, "--ranks", ranks)
            if moment == "start":
                time.sleep(chosen.uniform(0, 0.4))
            elif moment == "training":
                wait_for_step(process, folder, before + chosen.randint(2, 9))
            elif moment == "evaluation":
                wait_for_step(process, folder, (before // 10 + 2) * 10)  # evaluated after this step
            else:
                wait_for_step(process, folder, before + 3)
                wait_for_save(process, folder)
            started = children(process)
            send(process, number, pauses)
            _, err = process.communicate(timeout=60)
            assert process.returncode in (128 + number, -number) if moment == "start" else process.returncode == 128 + number, f"{moment}, {what}: {process.returncode}\n{err}"
            assert err.count("stopping (signal received)") <= 1, err
            if pauses == ONCE and moment != "start":
                assert "stopped by signal" in err, err
            deadline = time.time() + 10
            while any(pathlib.Path(f"/proc/{pid}").exists() for pid in started) and time.time() < deadline:
                time.sleep(0.02)
            assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in started), f"{moment}, {what}: a rank is left"
            deadline = time.time() + 3  # a process of its own cleans up after an exit at once
            while (folder / "checkpoints").exists() and leftovers(folder) and time.time() < deadline:
                time.sleep(0.02)
            assert not (folder / "checkpoints").exists() or not leftovers(folder), f"{moment}, {what}: {leftovers(folder)}"
            if (folder / "checkpoints").exists():
                verified = ceiling("checkpoint", "verify", folder)
                assert verified.returncode == 0, f"{moment}, {what}: {verified.stderr}"
        print(f"{ranks} ranks, {moment}: once, twice, ten times, hangup", flush=True)


def nohup(root, ranks):
    """A hangup that was ignored at the start stays ignored, by every rank."""
    settings = "steps: 100000, global_batch: 6, micro_batch: 2, lr: 3e-3, log_every: 1, precision: fp32"
    config = write_config(root, f"nohup-{ranks}", MODELS["llama"], train=settings, eval="every: never")
    folder = root / "runs" / f"nohup-{ranks}"
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = start(config, "--ranks", ranks)
    signal.signal(signal.SIGHUP, handler)
    wait_for_step(process, folder, 3)
    for pid in (process.pid, *children(process)):  # as a terminal that closes
        kill(pid, signal.SIGHUP)
    wait_for_step(process, folder, last_step(folder) + 20)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped by signal 15" in err, f"{process.returncode}\n{err}"
    print(f"{ranks} ranks, nohup: trained on after a hangup", flush=True)


def preparing(root):
    with open(root / "large.txt", "w") as out:
        for i in range(400000):
            out.write(f"line {i} of a text that is long enough to be interrupted\n\n")
    for pauses in (ONCE, TWICE, TEN_TIMES):
        out = root / "interrupted"
        process = subprocess.Popen([CEILING, "prepare", "--input", str(root / "large.txt"), "--tokenizer", "byte", "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(root.glob("interrupted*")):
            time.sleep(0.002)
        send(process, signal.SIGINT, pauses)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT, f"{process.returncode}\n{err}"
        deadline = time.time() + 3
        while list(root.glob("interrupted*")) and time.time() < deadline:
            time.sleep(0.02)
        assert not list(root.glob("interrupted*")), list(root.glob("interrupted*"))
    print("prepare: once, twice, ten times", flush=True)


def main():
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        prepare(root)
        for ranks in (1, 3):
            training(root, ranks)
            nohup(root, ranks)
        preparing(root)


if __name__ == "__main__":
    sys.exit(main())
