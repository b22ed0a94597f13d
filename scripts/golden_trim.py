"""Copies golden fixtures into tests/golden, keeping every seventh position of the long logits.

Run: python3 scripts/golden_trim.py FIXTURES NAME [NAME ...]     (needs safetensors and torch)
FIXTURES holds one folder per model: config.json, weights, io, io_long and for some io_packed .safetensors and a README
that names the reference code; init_stats has the spread of parameters under the authors' initialisation. Numbers are copied as they are; fixtures of google-deepmind/recurrentgemma get the names
and layouts of transformers' RecurrentGemma, so that one table (modules/architectures/griffin.cpp) reads both.
"""
import json
import pathlib
import re
import shutil
import sys

from safetensors.torch import load_file, save_file

DEEPMIND = [
    (r"embedder\.input_embedding", "model.embed_tokens.weight"),
    (r"final_norm\.scale", "model.final_norm.weight"),
    (r"blocks\.", "model.layers."),
    (r"_norm\.scale", "_norm.weight"),
    (r"recurrent_block\.|attention_block\.", "temporal_block."),
    (r"conv_1d\.w$", "conv_1d.weight"),
    (r"conv_1d\.b$", "conv_1d.bias"),
    (r"rg_lru\.a_param", "rg_lru.recurrent_param"),
    (r"rg_lru\.a_gate\.", "rg_lru.recurrent_gate_"),
    (r"rg_lru\.input_gate\.", "rg_lru.input_gate_"),
    (r"_gate_w$", "_gate_weight"),
    (r"_gate_b$", "_gate_bias"),
    (r"proj_final", "o_proj"),
    (r"proj_([qkv])", r"\1_proj"),
    (r"ffw_down", "down_proj"),
]


def rename(name):
    for pattern, replacement in DEEPMIND:
        name = re.sub(pattern, replacement, name)
    return name


def as_transformers(tensors):
    """A weights or io file of DeepMind's code, renamed."""
    result = {}
    for name, value in tensors.items():
        name = rename(name)
        if name.endswith("conv_1d.weight"):
            value = value.t().unsqueeze(1)
        if name.endswith(("conv1d_state", ".keys", ".values")):
            value = value.transpose(1, 2)  # the ring is in order: T is a multiple of the window
        if match := re.fullmatch(r"(.*)ffw_up\.(w|b)", name):
            kind = {"w": "weight", "b": "bias"}[match[2]]
            for part, half in zip(("gate_proj", "up_proj"), value):
                result[f"{match[1]}{part}.{kind}"] = half.t() if kind == "weight" else half.flatten()
        elif not name.endswith("num_tokens"):
            result[name] = value
    return result


def config_as_transformers(config):
    return {
        "model_type": "griffin",
        "hidden_size": config["width"],
        "intermediate_size": 2 * config["mlp_expanded_width"],
        "num_hidden_layers": len(config["block_types"]),
        "num_attention_heads": config["num_heads"],
        "num_key_value_heads": 1,
        "lru_width": config["lru_width"],
        "attention_window_size": config["attention_window_size"] + 1,  # transformers counts the token itself
        "block_types": [block.lower() for block in config["block_types"]],
        "logits_soft_cap": config["logits_soft_cap"],
        "embeddings_scale_by_sqrt_dim": config["embeddings_scale_by_sqrt_dim"],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vocab_size": config["vocab_size"],
    }


source, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
for name in names:
    target = pathlib.Path(__file__).parent.parent / "tests" / "golden" / name
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / name / "config.json").read_text())
    deepmind = "mlp_expanded_width" in config
    if deepmind:
        config = config_as_transformers(config)
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    else:
        shutil.copyfile(source / name / "config.json", target / "config.json")
    readme = (source / name / "README.md").read_text()
    if deepmind:
        readme += "\nHere names and layouts are those of transformers' RecurrentGemma (scripts/golden_trim.py), " \
                  "attention_window_size is one larger (it counts the token itself), numbers are unchanged.\n"
    (target / "README.md").write_text(readme)
    for file in ("weights", "io", "io_long", "io_packed"):
        if not (source / name / f"{file}.safetensors").exists():
            continue
        tensors = load_file(source / name / f"{file}.safetensors")
        if deepmind:
            tensors = as_transformers(tensors)
        tensors = {re.sub(r"^(state\.\d+\.)(key|value)s$", r"\1\2", key): value for key, value in tensors.items()}
        if file == "io_long":
            tensors["logits"] = tensors["logits"][:, ::7]
        save_file({key: value.contiguous() for key, value in tensors.items()}, target / f"{file}.safetensors")
    statistics = source / "init_stats" / f"{name}.json"
    if deepmind and statistics.exists():
        # The two halves of ffw_up are drawn alike: both get the statistics of the whole.
        found = {}
        for key, value in json.loads(statistics.read_text())["parameters"].items():
            value = {field: value[field] for field in ("mean", "std", "min", "max")}
            key = rename(key)
            parts = ("gate_proj", "up_proj") if "ffw_up" in key else ("",)
            for part in parts:
                kind = {"w": "weight", "b": "bias"}.get(key[-1])
                found[re.sub(r"ffw_up\.[wb]$", f"{part}.{kind}", key)] = value
        (target / "init.json").write_text(json.dumps(found, indent=1) + "\n")
    print(name, sum(f.stat().st_size for f in target.iterdir()), "bytes")
