// The configuration of a run: one struct per section of the YAML file, defaults here, keys and
// ranges in fields(), rules across keys in check(). `ceiling config explain`, docs/config.md and
// the resolved config of a run are printed from these declarations. Keys marked free_to_change()
// may differ when a run is resumed; all others decide the result.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/config_node.h"
#include "base/fields.h"
#include "data/recall.h"
#include "modules/registry.h"

namespace ceiling {

struct RunSection {
  std::string dir;
  int64_t seed = 1;
  std::string device = "auto";
  std::optional<int64_t> threads;
  void fields(Fields& f);
};

struct MixtureItem {
  std::string path;
  double weight = 1;
  void fields(Fields& f);
};

struct RecallSection {
  std::optional<int64_t> vocab_size, items;
  int64_t name_tokens = 2, value_tokens = 4, samples = 100000, valid_samples = 3000;
  double power = 0.01;
  void fields(Fields& f);
};

struct DataSection {
  std::string task = "none";
  RecallSection recall;
  std::string path;
  std::vector<MixtureItem> mixture;
  std::string source, tokenizer;
  int64_t context = 1024;
  std::string cross_document = "mask";
  double valid_share = 0.02;
  bool bos = true;
  std::string text_key = "text";
  std::string document_separator;
  int64_t prefetch = 2;
  void fields(Fields& f);
};

struct ModelSection {
  std::string architecture;
  std::unique_ptr<ModelConfig>
      config;  // of that architecture; its keys stand beside `architecture`
  void fields(Fields& f);
};

struct SpikeSection {
  std::string policy = "off";
  int64_t window = 128;
  double threshold = 6;
  void fields(Fields& f);
};

struct TrainSection {
  std::optional<int64_t> steps, tokens;
  int64_t global_batch = 32;
  std::optional<int64_t> micro_batch;
  double lr = 3e-4, min_lr_ratio = 0.1;
  std::string schedule = "cosine";
  int64_t warmup_steps = 0;
  double decay_fraction = 0.2;
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, clip = 1;
  double z_loss = 0;
  SpikeSection spike;
  std::string init_from;
  std::string precision = "auto", recompute = "none";
  bool cuda_graph = true;
  bool deterministic = false;
  std::optional<Duration> time_limit;
  int64_t log_every = 10;
  void fields(Fields& f);
};

struct EvalSection {
  std::optional<int64_t> every = 500, samples, batch;
  std::vector<std::string> recall;
  int64_t recall_samples = 64;
  std::vector<std::string> prompts;
  int64_t sample_tokens = 100;
  double temperature = 0.8;
  int64_t top_k = 0;
  double top_p = 1;
  int64_t seed = 1;
  void fields(Fields& f);
};

struct CheckpointSection {
  std::optional<int64_t> every = 500;
  int64_t keep_last = 2;
  std::optional<int64_t> keep_every;
  bool keep_best = false;
  bool async = true;
  void fields(Fields& f);
};

struct ParallelSection {
  int64_t zero = 1;
  std::optional<int64_t> ranks;
  int64_t bucket_mib = 64;
  std::optional<Duration> timeout = Duration{1800};
  std::optional<int64_t> check_every = 1000;
  void fields(Fields& f);
};

struct LogSection {
  bool tensorboard = true;
  std::string progress = "auto";
  void fields(Fields& f);
};

struct RunConfig {
  RunSection run;
  DataSection data;
  ModelSection model;
  TrainSection train;
  EvalSection eval;
  CheckpointSection checkpoint;
  ParallelSection parallel;
  LogSection log;
  void fields(Fields& f);

  // Rules across keys. `written` is the tree the values came from, for file and line in messages.
  void check(const ConfigNode& written) const;

  // The synthetic task that is trained on, if any.
  std::optional<RecallOptions> recall() const;

  int64_t tokens_per_step() const { return train.global_batch * data.context; }
  // Allowed, but seldom what was meant: one line each, for the log of a start and --dry-run.
  std::vector<std::string> remarks() const;

  // train.steps, or the first step at which train.tokens are reached.
  int64_t total_steps() const;
};

// Reads and checks. Each override is "section.key=value".
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides = {});
RunConfig read_run_config(const ConfigNode& node);
// The `model` section alone: the architecture, and its keys.
ModelSection read_model_section(const ConfigNode& node);

// All keys with their values; reading it back gives the same configuration.
std::string resolved_yaml(RunConfig& config);

// What differs between the configuration a run was started with and the one it is resumed with.
struct ConfigChange {
  std::string key, before, after;
};
struct ConfigDifference {
  std::vector<ConfigChange> matters, free;  // decides the result; may change at a resume
};
ConfigDifference difference(RunConfig& before, RunConfig& after);
ConfigDifference difference(ModelSection& before, ModelSection& after);  // keys as in model.d_model
std::string changes_text(
    const std::vector<ConfigChange>& changes);  // one line each: "  train.lr: 0.001 -> 0.003"

}  // namespace ceiling
