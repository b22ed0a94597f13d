"""`ceiling compare` from its file to its report: killed at random moments it goes on without repeating what is finished and ends with
the results of a comparison that was left alone; a run, a dataset or a batch that is not the contract's is refused.

Standard library only; CEILING is the path of the program.
"""
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from harness import CEILING, ceiling, prepare

FILE = """
compare:    {{title: "A <test> & two", dir: {root}/{name}, lr: [1e-3, 3e-3], seeds: 2, recall_samples: 8, decode_lengths: [8, 32]}}
contenders:
  llama:    {{model: {{architecture: llama, n_heads: 2}}}}
  hawk:     {{model: {{architecture: hawk, n_heads: 2}}}}
model:      {{d_model: 32, n_layers: 2}}
run:        {{seed: 3, device: cpu}}
data:       {{path: {root}/data, context: 64}}
train:      {{steps: 24, global_batch: 6, micro_batch: 2, warmup_steps: 4, log_every: 2, precision: fp32}}
eval:       {{every: 8}}
checkpoint: {{every: 5, keep_last: 1}}
"""


def write(root, name):
    path = root / f"{name}.yaml"
    path.write_text(FILE.format(root=root, name=name))
    return path


def run_folders(root, name):
    return sorted(path.parent for path in (root / name / "runs").glob("*/*/metrics.jsonl"))


def logged(root, name):
    """How many events all runs have logged."""
    return sum((folder / "metrics.jsonl").read_text().count("\n") for folder in run_folders(root, name))


def finished(root, name):
    """Runs that have ended, with what would change if they were trained again."""
    texts = {str(folder): (folder / "metrics.jsonl").read_text() for folder in run_folders(root, name)}

    def last_steps(text):  # an evaluation that was given up comes after the last checkpoint, when the run resumes
        events = [json.loads(line) for line in text.split("\n") if line.endswith("}")]
        return {event["event"] for event in events if event.get("step") == 24}

    return {folder: text for folder, text in texts.items() if {"valid", "checkpoint"} <= last_steps(text)}


def comparable(root, name):
    """What does not depend on the time that things took."""
    results = json.loads((root / name / "results.json").read_text())
    runs = {}
    for run in results["runs"]:
        if run["budget"] == "time":  # their number of steps is measured
            continue
        evaluation = {key: value for key, value in (run.get("evaluation") or {}).items() if key != "seconds"}
        runs[run["name"]] = [run["data_hash"], run["eval_curve"], evaluation]
    return runs


def without_interruption(root):
    file = write(root, "calm")
    done = ceiling("compare", file)
    assert done.returncode == 0, done.stderr
    results = json.loads((root / "calm" / "results.json").read_text())
    tokens = [run for run in results["runs"] if run["budget"] == "tokens"]
    assert len(tokens) == 2 * (2 + 1), [run["name"] for run in tokens]
    assert {run["budget"] for run in results["runs"]} == {"tokens", "flops", "time"}
    judged = [run for run in results["runs"] if not run.get("grid_only")]
    for run in judged:
        assert len(run["evaluation"]["sample_nats"]) == run["evaluation"]["n_samples"] > 0
        assert {row["probe"] for row in run["evaluation"]["recall"]} >= {"induction", "copying", "mqar"}
    by_seed = {}
    for run in judged:
        if run["budget"] == "tokens":
            by_seed.setdefault(run["seed"], set()).add(run["data_hash"])
    assert all(len(hashes) == 1 for hashes in by_seed.values()) and len(set.union(*by_seed.values())) == 2, by_seed
    sizes = [contender["non_embedding_parameters"] for contender in results["contenders"]]
    assert abs(sizes[0] - sizes[1]) <= 0.01 * sizes[0], sizes
    flops = {run["contender"]: run["training_flops"] for run in judged if run["budget"] == "flops"}
    assert abs(flops["hawk"] / flops["llama"] - 1) < 0.5 / 20, flops  # to half a step
    for name in ("report.md", "report.html"):
        text = (root / "calm" / name).read_text()
        assert "<test>" not in text or name == "report.md"
        assert "A &lt;test&gt; &amp; two" in text or name == "report.md"
    before = {path: path.stat().st_mtime_ns for path in (root / "calm" / "runs").rglob("*") if path.is_file()}
    again = ceiling("compare", file)
    assert again.returncode == 0, again.stderr
    after = {path: path.stat().st_mtime_ns for path in (root / "calm" / "runs").rglob("*") if path.is_file()}
    assert before == after, "a finished comparison trained or wrote again"


def other_measurements(root):
    """What is measured anew is what was asked for in another way, and nothing else."""
    def times():
        return {path: path.stat().st_mtime_ns for folder in ("runs", "measured") for path in (root / "calm" / folder).rglob("*.json*") if path.is_file()}
    before = times()
    done = ceiling("compare", root / "calm.yaml", "compare.lr=[3e-3, 1e-3]", "log.progress=off", "checkpoint.keep_last=2")
    assert done.returncode == 0, done.stderr
    assert times() == before, "what has nothing to do with speed was measured anew"
    done = ceiling("compare", root / "calm.yaml", "compare.decode_lengths=[16]")
    assert done.returncode == 0, done.stderr
    changed = {path.name for path, when in times().items() if before.get(path) != when}
    assert {name.split(".")[1] for name in changed} == {"decode"}, changed
    before = times()
    done = ceiling("compare", root / "calm.yaml", "compare.decode_lengths=[16]", "compare.recall_samples=4")
    assert done.returncode == 0, done.stderr
    changed = {str(path.relative_to(root)) for path, when in times().items() if before.get(path) != when}
    assert changed and all("/measured/" in name and "seed" in name for name in changed), changed
    done = ceiling("compare", root / "calm.yaml")
    assert done.returncode == 0, done.stderr


def killed_and_resumed(root, kills):
    file = write(root, "killed")
    chosen = random.Random(7)
    keep = {}
    for i in range(kills):
        process = subprocess.Popen([CEILING, "compare", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        target = logged(root, "killed") + chosen.randint(5, 90)  # by its own progress: no clock knows how fast a busy machine is
        while process.poll() is None and logged(root, "killed") < target:
            time.sleep(0.01)
        time.sleep(chosen.uniform(0, 0.2))
        polite = i % 2 == 0
        process.send_signal(signal.SIGINT if polite else signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == (130 if polite else -9), (process.returncode, err)
        now = finished(root, "killed")
        for folder, text in keep.items():
            assert now[folder] == text, f"{folder} was finished and is another now"
        keep = now
    done = ceiling("compare", file)
    assert done.returncode == 0, done.stderr
    for folder, text in keep.items():
        assert finished(root, "killed")[folder] == text, f"{folder} was made twice"
    calm, killed = comparable(root, "calm"), comparable(root, "killed")
    assert calm == killed, f"other results: {[name for name in calm if calm[name] != killed.get(name)]}"
    assert keep, "no run was finished before the last interruption: this proves nothing"
    return len(keep)


def refusals(root):
    def refused(*words, args=(), file=root / "calm.yaml"):
        process = ceiling("compare", file, *args)
        assert process.returncode == 1 and process.stderr.count("ceiling: error:") == 1, process.stderr
        for word in words:
            assert word in process.stderr, (word, process.stderr)
        assert process.stderr[process.stderr.index("ceiling: error:") :].count("\n") <= 5, process.stderr

    without_checkpoints = write(root, "bare")
    done = ceiling("compare", without_checkpoints, "compare.keep_checkpoints=false", "compare.budgets=[tokens]", "compare.seeds=1", "compare.lr=[1e-3]")
    assert done.returncode == 0 and not list((root / "bare").rglob("checkpoints")), done.stderr
    folder = next(path for path in run_folders(root, "calm") if "llama/tokens" in str(path))
    for target in (folder / "config.yaml", folder.with_suffix(".yaml") if folder.suffix == ".yaml" else pathlib.Path(str(folder) + ".yaml")):
        text = target.read_text()
        target.write_text(text.replace("global_batch: 6", "global_batch: 12"))
        assert target.read_text() != text
        refused(str(target), "train.global_batch: 12 -> 6")
        target.write_text(text)
    refused("train.steps: 24 -> 30", args=["train.steps=30"])
    refused("train.weight_decay: 0.1 -> 0.2", args=["train.weight_decay=0.2"])
    refused("eval.samples: all -> 4", args=["eval.samples=4"])
    refused("a context of 4 is too short", "compare.recall_contexts", args=["compare.recall=true", "compare.recall_contexts=[4]"])
    # Other text under the same name, and one run's own record of its data.
    (root / "data").rename(root / "data-kept")
    prepare(root, seed=6)
    refused("was trained on other data", str(root / "data"), "checkpoints")
    refused("was trained on other data", str(root / "data"), "data.json", file=without_checkpoints)
    (root / "data").rename(root / "data-other")
    (root / "data-kept").rename(root / "data")
    consumed = folder / "consumed.txt"
    text = consumed.read_text()
    lines = text.split("\n")
    digit = lines[4].split(" ")
    digit[4] = format(int(digit[4], 16) ^ 1, "x")
    lines[4] = " ".join(digit)
    consumed.write_text("\n".join(lines))
    refused("saw other samples at step")
    consumed.write_text(text)
    # A run that is made again is judged again, and one that is gone is made again.
    evaluation = next(path for path in sorted((root / "calm" / "measured" / "llama").glob("tokens-*.json")))
    judged = root / "calm" / "runs" / "llama" / evaluation.stem
    evaluation.write_text(evaluation.read_text().replace('"loss_nats":', '"loss_nats":9', 1))
    shutil.rmtree(judged)
    done = ceiling("compare", root / "calm.yaml")
    assert done.returncode == 0 and '"loss_nats":9' not in evaluation.read_text() and (judged / "metrics.jsonl").exists(), done.stderr
    # Somebody else's folder stays as it is.
    (root / "foreign").mkdir()
    (root / "foreign" / "results.json").write_text("precious")
    refused(str(root / "foreign"), "no folder of a comparison", args=[f"compare.dir={root}/foreign"])
    assert [path.name for path in (root / "foreign").iterdir()] == ["results.json"]
    # Files that are lost or damaged: never a crash, never a result without what they said.
    metrics, speed = folder / "metrics.jsonl", root / "calm" / "measured" / "llama.train-64.json"
    for path, damages, words in (
        (metrics, (lambda text: "", lambda text: text[: len(text) // 3]), ("metrics.jsonl", "remove the folder")),
        (metrics, (lambda text: text.replace("loss_nats", "loss"),), (str(metrics), "is damaged")),
        (consumed, (lambda text: "", lambda text: "".join(text.splitlines(True)[:5])), ("consumed.txt", "of 24 steps")),
        (speed, (lambda text: "", lambda text: "{}", lambda text: text[:20]), (str(speed), "is damaged; remove it")),
    ):
        text = path.read_text()
        for damage in damages:
            path.write_text(damage(text))
            refused(*words)
            path.write_text(text)
    done = ceiling("compare", root / "calm.yaml")
    assert done.returncode == 0, done.stderr
    # A speed that was measured while something ran beside it is kept, and the report says so first.
    text = speed.read_text()
    measured = json.loads(text)
    assert 0 < measured["fastest_step_ms"] <= measured["step_ms"], text
    for times, said in ((1, False), (2, True)):
        speed.write_text(json.dumps(measured | {"fastest_step_ms": measured["step_ms"] / times}))
        done = ceiling("compare", root / "calm.yaml", "--report")
        first_words = (root / "calm" / "report.md").read_text().split("\n## ")[0]
        assert done.returncode == 0 and ("llama: when its speed at 64 tokens was measured, most steps took 2.0 times" in first_words) == said, first_words
    speed.write_text(text)


def a_rate_that_diverges(root):
    file = write(root, "wild")
    file.write_text(file.read_text().replace("[1e-3, 3e-3]", "[1e-3, 1e30]"))
    done = ceiling("compare", file, "compare.budgets=[tokens]", "train.clip=0")
    assert done.returncode == 0, done.stderr
    results = json.loads((root / "wild" / "results.json").read_text())
    for contender in results["contenders"]:
        assert contender["best_lr"] == 1e-3
        assert any("not finite" in point.get("failed", "") for point in contender["grid"]), contender["grid"]
    assert any("diverged" in mark for mark in results["marks"]), results["marks"]


def a_run_that_fails(root):
    """Another failure than a rate that diverges ends the comparison, with the words of the run."""
    file = write(root, "broken")
    (root / "broken" / "runs" / "hawk").mkdir(parents=True)
    (root / "broken" / "runs" / "hawk" / "tokens-lr-0.001-seed-3").write_text("no folder")
    failed = ceiling("compare", file)
    assert failed.returncode == 1 and failed.stderr.count("ceiling: error:") == 1, failed.stderr
    message = failed.stderr[failed.stderr.index("ceiling: error:") :]
    for word in ("hawk/tokens-lr-0.001-seed-3: ", "the command was: ./ceiling train ", "its log: "):
        assert word in message, message
    (root / "broken" / "runs" / "hawk" / "tokens-lr-0.001-seed-3").unlink()
    early = ceiling("compare", file, "--report")
    assert early.returncode == 0, early.stderr
    assert "before the end" in (root / "broken" / "report.md").read_text()


def main():
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    with tempfile.TemporaryDirectory(prefix="ceiling-compare-") as folder:
        root = pathlib.Path(folder)
        prepare(root)
        without_interruption(root)
        other_measurements(root)
        kept = killed_and_resumed(root, kills)
        refusals(root)
        a_rate_that_diverges(root)
        a_run_that_fails(root)
    print(f"compare: {kills} interruptions, {kept} runs finished before the last of them were not repeated")


if __name__ == "__main__":
    main()
