"""Copies golden fixtures into tests/golden, keeping every seventh position of the long logits.

Run: python3 scripts/golden_trim.py FIXTURES NAME [NAME ...]     (needs safetensors and torch)
FIXTURES holds one folder per model: config.json, weights, io and io_long .safetensors and a README that names the
reference code. Numbers are copied as they are.
"""
import pathlib
import shutil
import sys

from safetensors.torch import load_file, save_file

source, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
for name in names:
    target = pathlib.Path(__file__).parent.parent / "tests" / "golden" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "README.md", "weights.safetensors", "io.safetensors"):
        shutil.copyfile(source / name / file, target / file)
    long = load_file(source / name / "io_long.safetensors")
    long["logits"] = long["logits"][:, ::7].contiguous()
    save_file(long, target / "io_long.safetensors")
    print(name, sum(f.stat().st_size for f in target.iterdir()), "bytes")
