#include "train/run_config.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/text.h"
#include "data/probe.h"

namespace ceiling {

void RunSection::fields(Fields& f) {
  f("dir", dir, IsPath{},
    "folder of the run: checkpoints, metrics.jsonl, log, resolved config; needed")
      .free_to_change();
  f("seed", seed, AtLeast{0}, "of initialisation and data order");
  f("device", device, OneOf{"auto", "cpu", "cuda"}, "auto: a GPU if there is one").free_to_change();
  f("threads", threads, "auto", AtLeast{1},
    "CPU threads of each process; auto: all cores, shared by the processes")
      .free_to_change();
}

void MixtureItem::fields(Fields& f) {
  f("path", path, IsPath{}, "folder of a prepared dataset");
  f("weight", weight, MoreThan{0}, "share of samples, relative to the other items");
}

void RecallSection::fields(Fields& f) {
  f("vocab_size", vocab_size, "auto", AtLeast{8},
    "token ids; auto: of the published setting (mqar 8192, phonebook, needle and copying 64, else "
    "16)");
  f("items", items, "auto", AtLeast{1},
    "pairs, items or entries per sample; auto: mqar 4, 8, 16, 64 at context 64, 128, 256, 512, "
    "selective_copying 16, phonebook and copying as many as fit");
  f("name_tokens", name_tokens, AtLeast{1}, "tokens of a name (phonebook)");
  f("value_tokens", value_tokens, AtLeast{1}, "tokens of an answer (phonebook, needle)");
  f("power", power, MoreThan{0},
    "mqar: the key is asked again after gap i with a chance proportional to i^(power - 1)");
  f("samples", samples, AtLeast{1}, "training samples, seen again each epoch in another order");
  f("valid_samples", valid_samples, AtLeast{1},
    "samples of the test set, which is the same for every seed");
}

void DataSection::fields(Fields& f) {
  std::vector<std::string> tasks = recall_tasks();
  tasks.insert(tasks.begin(), "none");
  f("task", task, OneOf(std::move(tasks)), "a synthetic recall task to train on, in place of text");
  f.section("recall", recall, "options of `task`");
  // Where the tokens lie may change; that they are the same tokens is what the data's fingerprint
  // decides at a resume.
  f("path", path, IsPath{},
    "folder of the prepared dataset; with `source` it is prepared there at the first run")
      .free_to_change();
  f.list("mixture", mixture, "several prepared datasets, in place of `path`").free_to_change();
  f("source", source,
    "text that `path` is prepared from: bible-kjv, dict-gcide, or a text or JSONL file, folder or "
    "pattern");
  f("tokenizer", tokenizer,
    "byte, spm:VOCAB (trained on the source) or a SentencePiece .model file; without a source, "
    "what the dataset must have");
  f("context", context, Between{1, 1 << 24}, "tokens per sample T");
  f("cross_document", cross_document, OneOf{"mask", "allow"},
    "mask: a document sees nothing of the one before it in the row; allow: documents flow into "
    "each other");
  f("valid_share", valid_share, FromBelow{0, 1},
    "share of the source's documents kept for validation, chosen by hash");
  f("bos", bos, "begin each document of the source with BOS");
  f("text_key", text_key, "key of the text in JSONL sources");
  f("document_separator", document_separator,
    "text that separates documents in plain text sources; empty: one document per file");
  f("prefetch", prefetch, Between{1, 1024}, "steps read ahead").free_to_change();
}

void ModelSection::fields(Fields& f) {
  f("architecture", architecture, OneOf(architecture_names()),
    "which model; it decides the other keys of this section");
  if (config) config->fields(f);
}

void SpikeSection::fields(Fields& f) {
  f("policy", policy, OneOf{"off", "skip"},
    "skip: an outlying step is logged and its update left out");
  f("window", window, Between{2, 100000}, "recent steps that a step is compared with");
  f("threshold", threshold, MoreThan{0},
    "standard deviations of loss or gradient norm above which a step is a spike");
}

void TrainSection::fields(Fields& f) {
  f("steps", steps, "none", AtLeast{1}, "optimizer steps of the run; this or `tokens`")
      .free_to_change();
  f("tokens", tokens, "none", AtLeast{1},
    "tokens of the run, in place of `steps`: ends with the step that reaches them")
      .free_to_change();
  f("global_batch", global_batch, Between{1, 1 << 24},
    "samples per optimizer step, over all processes");
  f("micro_batch", micro_batch, "auto", AtLeast{1},
    "samples per forward pass of one process; need not divide the batch (30 in 8: 8, 8, 8, 6); "
    "auto: on a GPU the largest that fits, found by trying at the start and kept over resumes; on "
    "a "
    "CPU about 4096 tokens")
      .free_to_change();
  f("lr", lr, AtLeast{0}, "peak learning rate");
  f("min_lr_ratio", min_lr_ratio, Between{0, 1},
    "learning rate at the end, as a share of `lr` (not for constant)");
  f("schedule", schedule, OneOf{"cosine", "linear", "wsd", "constant"},
    "learning rate after warm-up; wsd: constant, then a linear fall over the last `decay_fraction` "
    "of the run");
  f("warmup_steps", warmup_steps, AtLeast{0},
    "linear rise to `lr`; fewer than the steps of the run");
  f("decay_fraction", decay_fraction, Between{0, 1},
    "of wsd: share of the steps in which the rate falls");
  f("weight_decay", weight_decay, AtLeast{0},
    "of AdamW, scaled by the learning rate; not on norms, biases and decays");
  f("beta1", beta1, FromBelow{0, 1}, "of AdamW: decay of the mean of gradients");
  f("beta2", beta2, FromBelow{0, 1}, "of AdamW: decay of the mean of squared gradients");
  f("eps", eps, MoreThan{0}, "of AdamW: added to the root of the squared mean");
  f("clip", clip, AtLeast{0}, "limit of the gradient norm over all parameters; 0: none");
  f("z_loss", z_loss, AtLeast{0}, "weight of log^2 Z, which keeps logits near 0; 0: none");
  f.section("spike", spike, "loss spikes");
  f("init_from", init_from, IsPath{},
    "weights to start from in place of random ones: another run, one of its checkpoints, or what "
    "`ceiling import` made; same architecture and tokenizer. Optimizer, schedule and data begin "
    "anew. Not read when the run itself continues");
  f("precision", precision, OneOf{"auto", "fp32", "bf16"},
    "of computing; weights and moments stay fp32. auto: bf16 on GPUs and on processors with bf16 "
    "matrix units");
  f("cuda_graph", cuda_graph,
    "on a GPU, record a micro-batch's work once and replay it: no time is lost in launching "
    "kernels")
      .free_to_change();
  f("recompute", recompute, OneOf{"none", "selective", "block"},
    "for less memory, compute again in the backward pass. selective: outputs of norms and gated "
    "activations, which costs little; block: all but each block's input, a forward pass more")
      .free_to_change();
  f("deterministic", deterministic,
    "on a GPU: only kernels whose result never varies (a CPU always is)")
      .free_to_change();
  f("time_limit", time_limit, "none", "save and end after this time; the same command continues")
      .free_to_change();
  f("log_every", log_every, AtLeast{1}, "steps between log lines").free_to_change();
}

void EvalSection::fields(Fields& f) {
  f("every", every, "never", AtLeast{1},
    "steps between evaluations; the last step is evaluated too");
  f("samples", samples, "all", AtLeast{1}, "validation samples used");
  f("batch", batch, "auto", AtLeast{1},
    "samples per forward pass; the loss does not depend on it; auto: as in training");
  f("recall", recall,
    "zero-shot probes of recall at each evaluation, at the run's context: any of induction, "
    "copying, phonebook, needle, mqar; random ordinary tokens in which what stood before decides "
    "what follows. Not of a synthetic task");
  f("recall_samples", recall_samples, AtLeast{1}, "sequences per probe");
  f("prompts", prompts, "texts to continue at each evaluation");
  f("sample_tokens", sample_tokens, AtLeast{0}, "tokens to add to each prompt");
  f("temperature", temperature, AtLeast{0}, "of sampling; 0: always the most probable token");
  f("top_k", top_k, AtLeast{0}, "sample among the k most probable tokens; 0: all");
  f("top_p", top_p, Between{0, 1},
    "sample among the fewest tokens that have this probability together; more than 0");
  f("seed", seed, AtLeast{0}, "of sampling");
}

void CheckpointSection::fields(Fields& f) {
  f("every", every, "never", AtLeast{1},
    "steps between checkpoints; the end of a run and a stop signal save too");
  f("keep_last", keep_last, AtLeast{1}, "newest checkpoints kept");
  f("keep_every", keep_every, "never", AtLeast{1},
    "checkpoints at multiples of this step are kept for ever");
  f("keep_best", keep_best,
    "keep the checkpoint with the lowest validation loss, which is that of the last evaluation "
    "before the save: let `every` be a multiple of eval.every, so that it belongs to these very "
    "weights; needs eval.every");
  f("async", async, "write while training goes on");
}

void ParallelSection::fields(Fields& f) {
  f("zero", zero, Between{0, 1},
    "1: each process keeps a part of the optimizer's state (ZeRO-1); 0: all of it");
  f("ranks", ranks, "auto", AtLeast{1},
    "processes that train together; more than 1 are started by this command. auto: as --gpus, "
    "--ranks or the launcher (torchrun, srun, mpirun) says, else 1");
  f("bucket_mib", bucket_mib, AtLeast{1},
    "gradients are communicated in pieces of whole layers and at least this many MiB");
  f("timeout", timeout, "never",
    "a rank that others wait for longer than this is given up, and the run with it");
  f("check_every", check_every, "never", AtLeast{1},
    "steps between checks that all ranks hold bitwise equal weights");
}

void LogSection::fields(Fields& f) {
  f("tensorboard", tensorboard, "write TensorBoard event files beside metrics.jsonl");
  f("progress", progress, OneOf{"auto", "on", "off"}, "live progress line; auto: on a terminal");
}

void RunConfig::fields(Fields& f) {
  f.section("run", run, "the run itself");
  f.section("data", data, "what is trained on");
  f.section("model", model, "the architecture and its sizes");
  f.section("train", train, "optimizer, schedule, precision");
  f.section("eval", eval, "validation loss and samples during training").free_to_change();
  f.section("checkpoint", checkpoint, "saving").free_to_change();
  f.section("parallel", parallel, "several processes").free_to_change();
  f.section("log", log, "what is written beside metrics.jsonl").free_to_change();
}

namespace {

// "configs/x.yaml:4: train.lr" for the line where the key, or else its nearest section, is written.
std::string place(const ConfigNode& written, const std::string& key) {
  std::string path = key;
  const ConfigNode* node = nullptr;
  while (!(node = written.find_path(path)) && path.find('.') != std::string::npos)
    path.resize(path.rfind('.'));
  const std::string& where = node ? node->where : written.where;
  return where.empty() ? key : fmt::format("{}: {}", where, key);
}

bool is_tokenizer(const std::string& text) {
  if (text == "byte") return true;
  if (text.rfind("spm:", 0) == 0) return parse_int(text.substr(4)).value_or(0) >= 1;
  return text.size() > 6 && text.substr(text.size() - 6) == ".model";
}

void check_data(const DataSection& data, const ConfigNode& written) {
  const auto at = [&](const char* key) { return place(written, key); };
  if (data.task != "none") {
    if (!data.path.empty() || !data.mixture.empty() || !data.source.empty())
      throw Error("{}: stands beside data.path, data.mixture or data.source; keep one",
                  at("data.task"));
    return;
  }
  if (data.path.empty() && data.mixture.empty())
    throw Error(
        "{}: is not set; name the folder of a prepared dataset, or where data.source is to be "
        "prepared",
        at("data.path"));
  if (!data.path.empty() && !data.mixture.empty())
    throw Error("{}: stands beside data.path; keep one", at("data.mixture"));
  for (const MixtureItem& item : data.mixture)
    if (item.path.empty()) throw Error("{}: an item has no path", at("data.mixture"));
  if (!data.source.empty() && data.path.empty())
    throw Error(
        "{}: is prepared into data.path, which is not set; a mixture takes prepared datasets",
        at("data.source"));
  if (!data.source.empty() && data.tokenizer.empty())
    throw Error("{}: is not set, but data.source needs one: byte, spm:VOCAB or a .model file",
                at("data.tokenizer"));
  if (!data.tokenizer.empty() && !is_tokenizer(data.tokenizer))
    throw Error(
        "{}: '{}' is no tokenizer; write byte, spm:VOCAB such as spm:2000, or the path of a .model "
        "file",
        at("data.tokenizer"), data.tokenizer);
}

void check_train(const RunConfig& config, const ConfigNode& written) {
  const TrainSection& train = config.train;
  const auto at = [&](const char* key) { return place(written, key); };
  if (!train.steps && !train.tokens)
    throw Error("{}: is not set; give train.steps or train.tokens", at("train.steps"));
  if (train.steps && train.tokens)
    throw Error("{}: stands beside train.steps {}; keep one and set the other to none",
                at("train.tokens"), *train.steps);
  int64_t n_tokens = 0;
  if (__builtin_mul_overflow(config.tokens_per_step(), config.total_steps(), &n_tokens))
    throw Error("{}: {} steps of {} tokens are too many to count", at("train.steps"),
                config.total_steps(), config.tokens_per_step());
  if (train.warmup_steps >= config.total_steps())
    throw Error("{}: {} must be less than the {} steps of the run", at("train.warmup_steps"),
                train.warmup_steps, config.total_steps());
  if (train.micro_batch && *train.micro_batch > train.global_batch)
    throw Error("{}: {} is more than train.global_batch {}; make it at most that, or auto",
                at("train.micro_batch"), *train.micro_batch, train.global_batch);
}

void check_recall_probes(const RunConfig& config, const ConfigNode& written) {
  if (config.eval.recall.empty()) return;
  const std::string at = place(written, "eval.recall");
  if (config.data.task != "none")
    throw Error(
        "{}: probes are for language models; the model of the synthetic task {} knows no text, and "
        "its own test set is what it is evaluated on",
        at, config.data.task);
  if (!config.eval.every) throw Error("{}: needs evaluations, but eval.every is never", at);
  for (const std::string& probe : config.eval.recall)
    if (std::find(recall_probes().begin(), recall_probes().end(), probe) == recall_probes().end())
      throw Error("{}: '{}' is no recall probe; any of {}", at, probe, join(recall_probes(), ", "));
}

}  // namespace

std::optional<RecallOptions> RunConfig::recall() const {
  if (data.task == "none") return std::nullopt;
  const RecallSection& r = data.recall;
  return RecallOptions{.task = data.task,
                       .vocab_size = r.vocab_size.value_or(0),
                       .n_items = r.items.value_or(0),
                       .name_tokens = r.name_tokens,
                       .value_tokens = r.value_tokens,
                       .power = r.power,
                       .n_train = r.samples,
                       .n_test = r.valid_samples};
}

void RunConfig::check(const ConfigNode& written) const {
  const auto at = [&](const char* key) { return place(written, key); };
  if (run.dir.empty())
    throw Error("{}: is not set; it names the folder of the run, as in run: {{dir: runs/first}}",
                at("run.dir"));
  check_data(data, written);
  if (const auto task = recall()) {
    try {
      resolve_recall(*task, data.context);
    } catch (const Error& error) {
      throw Error("{}: {}", at("data.recall"), error.what());
    }
    if (!eval.prompts.empty()) throw Error("{}: a synthetic task has no text", at("eval.prompts"));
  }
  check_recall_probes(*this, written);
  if (!model.config)
    throw Error("{}: is not set; one of {}", at("model.architecture"),
                join(architecture_names(), ", "));
  try {
    model.config->check();
  } catch (const Error& error) {
    const std::string message = error.what(), key = message.substr(0, message.find(':'));
    throw Error("{}{}", place(written, key), message.substr(key.size()));
  }
  check_train(*this, written);
  if (eval.top_p == 0)
    throw Error("{}: 0 leaves no token to choose; must be more than 0", at("eval.top_p"));
  if (checkpoint.keep_best && !eval.every)
    throw Error("{}: needs evaluations, but eval.every is never", at("checkpoint.keep_best"));
}

std::vector<std::string> RunConfig::remarks() const {
  std::vector<std::string> remarks;
  if (checkpoint.keep_best && checkpoint.every && eval.every &&
      *checkpoint.every % *eval.every != 0)
    remarks.push_back(fmt::format(
        "checkpoint.keep_best: checkpoint.every {} is no multiple of eval.every {}, so checkpoints "
        "are judged by an evaluation of earlier weights; make it a multiple",
        *checkpoint.every, *eval.every));
  return remarks;
}

int64_t RunConfig::total_steps() const {
  if (train.steps) return *train.steps;
  const int64_t tokens = train.tokens.value_or(0);
  return tokens / tokens_per_step() + (tokens % tokens_per_step() != 0);
}

namespace {
// The architecture first: it declares the other keys. `model` is the map of the section.
void choose_architecture(ModelSection& section, const ConfigNode& model) {
  ConfigNode only = model;
  only.entries = {{"architecture", *model.find("architecture")}};
  parse_config(section, only, "model");
  section.config = find_architecture(section.architecture).make_config();
}
}  // namespace

ModelSection read_model_section(const ConfigNode& node) {
  if (!node.find("architecture"))
    throw Error("{}: model.architecture is not set; one of {}", node.where,
                join(architecture_names(), ", "));
  ModelSection section;
  choose_architecture(section, node);
  parse_config(section, node, "model");
  section.config->check();
  return section;
}

RunConfig read_run_config(const ConfigNode& node) {
  RunConfig config;
  const ConfigNode* model = node.find("model");
  if (model && model->kind == ConfigNode::Kind::kMap) {
    if (!model->find("architecture"))
      throw Error("{}: is not set; one of {}", place(node, "model.architecture"),
                  join(architecture_names(), ", "));
    choose_architecture(config.model, *model);
  }
  parse_config(config, node, "");
  config.check(node);
  config.model.config->context = config.data.context;
  return config;
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  ConfigNode node = load_config_file(path);
  for (const std::string& assignment : overrides) apply_override(node, assignment);
  return read_run_config(node);
}

std::string resolved_yaml(RunConfig& config) { return to_yaml(dump_config(config)); }

namespace {

struct FlatValue {
  std::string value;
  bool may_change = false;
};

void flatten(const std::vector<Field>& fields, const std::string& prefix,
             std::vector<std::string>& order, std::map<std::string, FlatValue>& values) {
  for (const Field& field : fields) {
    const std::string key = prefix + field.name;
    if (field.is_section()) {
      flatten(field.children, key + ".", order, values);
      continue;
    }
    std::string value = to_yaml(field.get());
    value.pop_back();  // the line end
    order.push_back(key);
    values[key] = {std::move(value), field.may_change};
  }
}

template <class Section>
ConfigDifference compare(Section& before, Section& after, const std::string& prefix) {
  std::vector<std::string> order, after_order;
  std::map<std::string, FlatValue> old_values, new_values;
  Fields old_fields, new_fields;
  before.fields(old_fields);
  after.fields(new_fields);
  flatten(old_fields.all(), prefix, order, old_values);
  flatten(new_fields.all(), prefix, after_order, new_values);
  for (const std::string& key : after_order)
    if (!old_values.count(key)) order.push_back(key);
  ConfigDifference result;
  for (const std::string& key : order) {
    const auto old_value = old_values.find(key), new_value = new_values.find(key);
    const bool was = old_value != old_values.end(), is = new_value != new_values.end();
    if (was && is && old_value->second.value == new_value->second.value) continue;
    const bool may_change = was ? old_value->second.may_change : new_value->second.may_change;
    (may_change ? result.free : result.matters)
        .push_back({key, was ? old_value->second.value : "(no such key)",
                    is ? new_value->second.value : "(no such key)"});
  }
  return result;
}

}  // namespace

ConfigDifference difference(RunConfig& before, RunConfig& after) {
  return compare(before, after, "");
}

ConfigDifference difference(ModelSection& before, ModelSection& after) {
  return compare(before, after, "model.");
}

std::string changes_text(const std::vector<ConfigChange>& changes) {
  std::string text;
  for (const ConfigChange& change : changes)
    text += fmt::format("  {}: {} -> {}\n", change.key, change.before, change.after);
  return text;
}

}  // namespace ceiling
