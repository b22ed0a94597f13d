"""transformers loads an exported model with default arguments and agrees on logits, ids and text; import gives the same logits.

Run: test_export.py [ARCHITECTURE ...]     (default: all below)
Needs torch and transformers; CEILING is the path of the program. Prints what it measured; exit code 0 if all held.
Tied and untied head, fp32 and bf16 export, byte and SentencePiece tokenizer with and without padded vocabulary.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

CEILING = os.environ["CEILING"]
PROMPTS = ["stone river walk", "Green  window, \n\u00e9arly <s> 42", "winter"]
# bf16: weights are rounded to 8 bits, activations by transformers as well. RecurrentGemma's logits reach 8.0 here: rounded
# weights alone, in fp32 arithmetic, move them by 0.036, transformers' arithmetic, whose steps are 0.03 there, to 0.067.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
TOLERANCE_GEMMA = {"fp32": 1e-4, "bf16": 0.1}
SIZES = "d_model: 32, n_layers: 2, n_heads: 4"
# Mamba-2: rounded weights alone, in fp32 arithmetic, move logits of 5 by 0.14.
TOLERANCE_MAMBA2 = {"fp32": 1e-4, "bf16": 0.25}
GEMMA = "d_model: 32, n_heads: 2, embedding_scale: true, logit_cap: 30"
MAMBA2 = "d_model: 32, n_layers: 3, head_dim: 16, d_state: 24"
CASES = [  # architecture, tokenizer, model keys
    ("llama", "byte", f"{SIZES}, tie_embeddings: true"),
    ("llama", "byte", f"{SIZES}, n_kv_heads: 2"),
    ("llama", "spm:400", f"{SIZES}, tie_embeddings: true, vocab_multiple: 64"),
    ("llama", "spm:400", f"{SIZES}, vocab_multiple: 64, head_dim: 16"),
    # RecurrentGemma: a recurrence wider than the model, a window that is shorter than the prompts.
    ("griffin", "byte", f"{GEMMA}, n_layers: 3, lru_width: 64, window: 9, tie_embeddings: true"),
    ("griffin", "spm:400", f"{GEMMA}, n_layers: 2, pattern: [attention, recurrent], vocab_multiple: 64, tie_embeddings: false"),
    ("hawk", "byte", f"{GEMMA}, n_layers: 2, lru_width: 48, d_ff: 40, tie_embeddings: true"),
    ("mamba2", "byte", f"{MAMBA2}, tie_embeddings: true"),
    ("mamba2", "spm:400", f"{MAMBA2}, vocab_multiple: 64, d_conv: 3, expand: 3, dt_limit_max: 0.5"),
]


def run(*args):
    done = subprocess.run([CEILING, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
    return done.stdout


def write_corpus(path):
    random.seed(5)
    words = "stone river walk green early north smoke window carry under seven winter \u00e9t\u00e9".split()
    with open(path, "w") as out:
        for _ in range(400):
            text = " ".join(random.choice(words) for _ in range(random.randint(3, 60)))
            out.write(json.dumps({"text": text}) + "\n")


def our_logits(checkpoint, rows, folder):
    out = folder / "logits.safetensors"
    run("eval", checkpoint, "--device", "cpu", "--logits", out, "--tokens", ";".join(",".join(map(str, row)) for row in rows))
    found = load_file(out)
    return [found[f"logits.{i}"].clone() for i in range(len(rows))]  # the file they are mapped onto is written again


def largest_difference(ours, theirs):
    return max((a - b.float()).abs().max().item() for a, b in zip(ours, theirs))


def check_files(export, precision, tied):
    config = json.loads((export / "config.json").read_text())
    generation = json.loads((export / "generation_config.json").read_text())
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert config["dtype"] == dtype and config["tie_word_embeddings"] == tied, config
    assert config["eos_token_id"] == generation["eos_token_id"]
    with safe_open(export / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(str(file.get_tensor(name).dtype) == f"torch.{dtype}" for name in names)
    assert ("lm_head.weight" in names) == (not tied) and any("embed" in name for name in names), names


def load(export):
    model, info = AutoModelForCausalLM.from_pretrained(export, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], (key, info[key])
    return model.eval()


def check_export(root, run_dir, precision, tied, tolerance):
    export = root / f"{run_dir.name}-{precision}"
    run("export", run_dir, "--out", export, "--precision", precision)
    check_files(export, precision, tied)

    tokenizer = AutoTokenizer.from_pretrained(export)
    rows = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    for prompt, row in zip(PROMPTS, rows):
        assert row.count(tokenizer.bos_token_id) == 1 and row[0] == tokenizer.bos_token_id, row
        assert tokenizer.decode(row, skip_special_tokens=True) == prompt

    model = load(export)
    assert next(model.parameters()).dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert model.config.vocab_size == len(tokenizer)
    assert GenerationConfig.from_pretrained(export).eos_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        theirs = [model(torch.tensor([row])).logits[0] for row in rows]
    ours = our_logits(run_dir, rows, root)
    difference = largest_difference(ours, theirs)
    assert difference <= tolerance[precision], difference

    # What transformers saves again loads again, here and there.
    again = root / f"{export.name}-again"
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    with torch.no_grad():
        assert torch.equal(load(again)(torch.tensor([rows[0]])).logits[0], theirs[0])
    assert AutoTokenizer.from_pretrained(again)(PROMPTS[1]).input_ids == rows[1]

    for folder in (export, again):
        imported = root / f"{folder.name}-imported"
        run("import", folder, "--out", imported)
        back = largest_difference(ours, our_logits(imported, rows, root))
        assert back == 0 if precision == "fp32" else back <= tolerance["bf16"], (folder, back)
    return difference


def check_sampled_text(root, run_dir):
    """Greedy text of both programs, which also proves that prompts get the same ids."""
    export = root / f"{run_dir.name}-fp32"
    tokenizer, model = AutoTokenizer.from_pretrained(export), load(export)
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id,
                                use_cache=model.config.use_cache)[0]  # False for Hawk: see its layout
    ours = run("generate", run_dir, "--device", "cpu", "--prompt", PROMPTS[0], "--temperature", "0", "--max-tokens", "12")
    text = tokenizer.decode(theirs, skip_special_tokens=True)
    assert ours.rstrip("\n") == text.rstrip("\n"), (ours, text)


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        write_corpus(root / "corpus.jsonl")
        cases = [case for case in CASES if case[0] in (sys.argv[1:] or {case[0] for case in CASES})]
        for tokenizer in sorted({tokenizer for _, tokenizer, _ in cases}):
            run("prepare", "--input", root / "corpus.jsonl", "--tokenizer", tokenizer, "--out", root / f"data-{tokenizer.replace(':', '')}")
        for i, (architecture, tokenizer, keys) in enumerate(cases):
            run_dir = root / f"run{i}"
            config = root / f"run{i}.yaml"
            config.write_text(
                f"run: {{dir: {run_dir}, device: cpu}}\n"
                f"data: {{path: {root}/data-{tokenizer.replace(':', '')}, context: 64}}\n"
                f"model: {{architecture: {architecture}, {keys}}}\n"
                "train: {steps: 30, global_batch: 8, lr: 1e-2, warmup_steps: 5, precision: fp32}\n"
                "eval: {every: never}\ncheckpoint: {every: 30}\n"
            )
            run("train", config)
            tied = "tie_embeddings: true" in keys
            tolerance = {"llama": TOLERANCE, "mamba2": TOLERANCE_MAMBA2}.get(architecture, TOLERANCE_GEMMA)
            worst = {p: check_export(root, run_dir, p, tied, tolerance) for p in ("fp32", "bf16")}
            check_sampled_text(root, run_dir)
            print(f"{architecture}, {tokenizer}, {keys}: largest difference of logits fp32 {worst['fp32']:.1e}, bf16 {worst['bf16']:.1e}")


if __name__ == "__main__":
    sys.exit(main())
