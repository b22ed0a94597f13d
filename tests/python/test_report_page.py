"""The report of a comparison in a real browser without a screen: every chart is drawn, and the page's script meets no error.

With what is awkward for charts: a length of zero on a logarithmic axis, a rate that diverges, one seed, a task whose
result is an accuracy. Standard library only; skipped (exit code 77) where there is no Chromium.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from harness import ceiling, prepare

FILE = """
compare:    {{title: page, dir: {root}/{name}, lr: [3e-3], seeds: 1, budgets: [tokens], recall_samples: 4, decode_lengths: [0, 32], speed_contexts: [32]}}
contenders:
  llama:    {{model: {{architecture: llama, n_heads: 2}}}}
  retnet:   {{model: {{architecture: retnet, n_heads: 2}}}}
model:      {{d_model: 32, n_layers: 2}}
run:        {{device: cpu}}
data:       {{{data}, context: 64}}
train:      {{steps: 12, global_batch: 4, warmup_steps: 2, log_every: 2, precision: fp32}}
eval:       {{every: 6}}
"""
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def look(page, profile):
    """The page as it is once its script has run, and what the script has complained of."""
    seen = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--enable-logging=stderr", "--window-size=1200,900",
         "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert seen.returncode == 0, seen.stderr
    complaints = [line for line in seen.stderr.split("\n") if "CONSOLE" in line]
    return re.sub(r"<script.*?</script>", "", seen.stdout, flags=re.S), complaints


def check(root, name, data, least_charts, *overrides):
    file = root / f"{name}.yaml"
    file.write_text(FILE.format(root=root, name=name, data=data))
    made = ceiling("compare", file, *overrides)
    assert made.returncode == 0, made.stderr
    page, complaints = look(root / name / "report.html", root / "profile")
    assert not complaints, complaints[:5]
    charts = re.findall(r'<svg class="plot".*?</svg>', page, flags=re.S)
    assert len(charts) >= least_charts, len(charts)
    for chart in charts:
        assert "NaN" not in chart and "Infinity" not in chart, chart[:500]
        marks = re.findall(r'<path [^>]*\bd="M[-\d]', chart)
        assert marks, chart[:500]
        label = re.search(r'aria-label="([^"]*)', chart)[1]
        print(f"{name}: {label}: {len(marks)} lines and dots", flush=True)


def main():
    if not BROWSER:
        print("no Chromium: the page is not looked at")
        return 77
    with tempfile.TemporaryDirectory() as made:
        root = pathlib.Path(made)
        prepare(root)
        check(root, "text", f"path: {root}/data", 6)
        check(root, "wild", f"path: {root}/data", 6, "compare.lr=[3e-3, 1e30]", "train.clip=0", "compare.recall=false")
        check(root, "task", "task: mqar, recall: {vocab_size: 64, valid_samples: 8}", 5)


if __name__ == "__main__":
    sys.exit(main())
