"""An exported RetNet in flash-linear-attention: its own class reads it, its own kernels give our logits.

Run by hand, since the environment of the other tests has no fla:
  pip install flash-linear-attention==0.6.0 torch==2.11.0 'numpy<2.3'      # Triton 3.6 interprets with no later NumPy
  CEILING=build/ceiling python tests/python/fla_retnet.py
fla's kernels need a GPU. Here Triton's interpreter runs them on the CPU: slowly, and of the forms only the recurrent one, which
is what fla itself takes for texts of up to 64 tokens. Prints what it measured; exit code 0 if all held.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRITON_INTERPRET"] = "1"
import torch
from safetensors.torch import load_file
from triton.runtime.autotuner import Autotuner

# There is nothing to tune without a device: the first configuration is as good as any.
Autotuner.do_bench = staticmethod(lambda kernel, quantiles=None: [1.0, 1.0, 1.0])
from fla.models import RetNetConfig, RetNetForCausalLM

CEILING = os.environ["CEILING"]
MODELS = [
    "d_model: 64, n_layers: 2, n_heads: 2",
    "d_model: 64, n_layers: 2, n_heads: 4, v_width: 64, d_ff: 96, tie_embeddings: true",
]
LENGTHS = [1, 16, 100]
TOLERANCE = 1e-4


def run(*args):
    done = subprocess.run([CEILING, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"


def train_and_export(model, root):
    words = "stone river walk green early north smoke window carry under seven winter".split()
    with open(root / "corpus.jsonl", "w") as out:
        for _ in range(300):
            out.write(json.dumps({"text": " ".join(random.choice(words) for _ in range(random.randint(3, 60)))}) + "\n")
    run("prepare", "--input", root / "corpus.jsonl", "--tokenizer", "byte", "--out", root / "data", "--valid-share", "0.1")
    (root / "run.yaml").write_text(
        f"run: {{dir: {root}/run, device: cpu}}\ndata: {{path: {root}/data, context: 64}}\n"
        f"model: {{architecture: retnet, {model}}}\n"
        "train: {steps: 60, global_batch: 8, lr: 5e-3, precision: fp32}\neval: {every: never}\n"
    )
    run("train", root / "run.yaml")
    run("export", root / "run", "--out", root / "export")
    return root / "export"


def check_tensors(export):
    with torch.device("meta"):
        theirs = RetNetForCausalLM(RetNetConfig.from_pretrained(export)).state_dict()
    if (tied := json.loads((export / "config.json").read_text())["tie_word_embeddings"]):
        theirs.pop("lm_head.weight", None)
    ours = load_file(export / "model.safetensors")
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    return len(ours), tied


def main():
    random.seed(5)
    torch.manual_seed(5)
    for model in MODELS:
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            export = train_and_export(model, root)
            n_tensors, tied = check_tensors(export)
            loaded, info = RetNetForCausalLM.from_pretrained(export, output_loading_info=True)
            assert not any(info.values()), info
            for layer in loaded.model.layers:
                layer.attn.mode = "fused_recurrent"
            worst = 0.0
            for length in LENGTHS:
                tokens = torch.randint(0, 258, (1, length))
                run("eval", root / "run", "--device", "cpu", "--logits", root / "logits.safetensors",
                    "--tokens", ",".join(map(str, tokens[0].tolist())))
                with torch.no_grad():
                    theirs = loaded(tokens).logits[0]
                worst = max(worst, (load_file(root / "logits.safetensors")["logits.0"] - theirs).abs().max().item())
            assert worst <= TOLERANCE, worst
            print(f"{model}: {n_tensors} tensors{', tied' if tied else ''}; logits differ by {worst:.1e} at most")


if __name__ == "__main__":
    sys.exit(main())
