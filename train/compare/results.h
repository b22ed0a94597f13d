// What a comparison measured, as results.json holds it: raw numbers, no conclusions. The runner
// fills it, statistics.h and report.h read it. Losses are nats per token of the evaluation set; an
// unset optional was not measured.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace ceiling {

// Each struct names its members once, in fields(): reading and writing both walk it.

struct NamedValue {
  std::string name, value;
  template <class Visitor>
  void fields(Visitor& f) {
    f("name", name), f("value", value);
  }
};

// A learning rate that was tried. A failed one (diverged) says why and has no loss.
struct GridPoint {
  double lr = 0;
  std::string run;  // RunResult::name
  std::optional<double> loss_nats, accuracy;
  std::optional<std::string> failed;
  template <class Visitor>
  void fields(Visitor& f) {
    f("lr", lr), f("run", run), f("loss_nats", loss_nats), f("accuracy", accuracy);
    f("failed", failed);
  }
};

struct TrainingSpeed {
  int64_t context = 0;
  double tokens_per_s = 0;
  std::optional<double> peak_bytes;
  std::optional<double> unevenness = {};  // time of the median step over that of the fastest
  template <class Visitor>
  void fields(Visitor& f) {
    f("context", context), f("tokens_per_s", tokens_per_s), f("peak_bytes", peak_bytes);
    f("unevenness", unevenness);
  }
};

struct DecodingSpeed {
  int64_t batch = 1, length = 0;  // length: tokens that each row holds before
  double tokens_per_s = 0, ms_per_token = 0;
  std::optional<double> state_bytes;  // one row's
  template <class Visitor>
  void fields(Visitor& f) {
    f("batch", batch), f("length", length), f("tokens_per_s", tokens_per_s);
    f("ms_per_token", ms_per_token), f("state_bytes", state_bytes);
  }
};

struct StateSize {
  int64_t length = 0;
  double bytes = 0;  // one sequence, all layers
  template <class Visitor>
  void fields(Visitor& f) {
    f("length", length), f("bytes", bytes);
  }
};

struct Contender {
  std::string name, architecture, model_yaml;
  int64_t parameters = 0, non_embedding_parameters = 0;
  double match_error = 0;  // relative to the wanted number of parameters
  double training_flops_per_token = 0;
  std::vector<GridPoint> grid;
  std::optional<double> best_lr;  // unset: no rate has ended well
  std::vector<TrainingSpeed> training_speed;
  std::vector<DecodingSpeed> decoding;
  std::vector<StateSize> state_bytes;
  bool every_rate_failed() const;  // none is still to come
  bool best_is_at_edge() const;    // of several rates
  template <class Visitor>
  void fields(Visitor& f) {
    f("name", name), f("architecture", architecture), f("model_yaml", model_yaml);
    f("parameters", parameters), f("non_embedding_parameters", non_embedding_parameters);
    f("match_error", match_error), f("training_flops_per_token", training_flops_per_token);
    f("grid", grid), f("best_lr", best_lr), f("training_speed", training_speed);
    f("decoding", decoding), f("state_bytes", state_bytes);
  }
};

// A list in JSON: [tokens, loss] or [tokens, loss, accuracy]. A loss that is not finite is null
// there, NaN here.
struct CurvePoint {
  double tokens = 0, loss = 0;
  std::optional<double> accuracy;
};

struct PositionLoss {  // the targets at positions first..last of their sample
  int64_t first = 0, last = 0, n_targets = 0;
  double loss_nats = 0;
  std::optional<double> bits_per_byte;
  template <class Visitor>
  void fields(Visitor& f) {
    f("first", first), f("last", last), f("n_targets", n_targets), f("loss_nats", loss_nats);
    f("bits_per_byte", bits_per_byte);
  }
};

struct RecallResult {
  std::string probe;
  int64_t context = 0;
  double accuracy = 0, loss_nats = 0;
  int64_t n_targets = 0;
  double chance = 0;  // the accuracy of a guess
  template <class Visitor>
  void fields(Visitor& f) {
    f("probe", probe), f("context", context), f("accuracy", accuracy), f("loss_nats", loss_nats);
    f("n_targets", n_targets), f("chance", chance);
  }
};

// What `ceiling eval --json` printed of a final checkpoint.
struct Evaluation {
  double loss_nats = 0;
  std::optional<double> perplexity;     // unset where it is beyond what a double can hold
  std::optional<double> bits_per_byte;  // unset, or 0: the dataset does not know its text bytes
  int64_t n_targets = 0, n_samples = 0;
  std::optional<double> accuracy;
  std::optional<std::string> data_fingerprint;  // of what was scored
  std::vector<PositionLoss> by_position;
  std::vector<double> sample_nats;      // per sample: the sum over its targets
  std::vector<int64_t> sample_targets;  // per sample: how many; the same samples for every run
  std::vector<int64_t> sample_right;    // per sample, of a task: how many were right; may be empty
  std::vector<RecallResult> recall;
  template <class Visitor>
  void fields(Visitor& f) {
    f("loss_nats", loss_nats), f("perplexity", perplexity), f("bits_per_byte", bits_per_byte);
    f("n_targets", n_targets), f("n_samples", n_samples), f("accuracy", accuracy);
    f("data_fingerprint", data_fingerprint), f("by_position", by_position),
        f("sample_nats", sample_nats);
    f("sample_targets", sample_targets), f("sample_right", sample_right), f("recall", recall);
  }
};

struct RunResult {
  std::string name, contender, budget;
  double lr = 0;
  int64_t seed = 0;
  bool grid_only =
      false;  // a rate that was not the best: in the grid's plot, not in the statistics
  int64_t steps = 0, tokens = 0;
  double training_flops = 0;
  double seconds = 0;  // tokens at the measured training speed
  std::string data_hash, command;
  std::vector<CurvePoint> train_curve, eval_curve;
  std::optional<Evaluation> evaluation;  // unset: the run failed, or is of the grid alone
  std::optional<std::string> failed;     // why, of a run that has no evaluation
  template <class Visitor>
  void fields(Visitor& f) {
    f("name", name), f("contender", contender), f("budget", budget), f("lr", lr), f("seed", seed);
    f("grid_only", grid_only), f("steps", steps), f("tokens", tokens);
    f("training_flops", training_flops), f("seconds", seconds), f("data_hash", data_hash);
    f("command", command), f("train_curve", train_curve), f("eval_curve", eval_curve);
    f("evaluation", evaluation), f("failed", failed);
  }
};

struct Versions {
  std::string ceiling, torch;
  template <class Visitor>
  void fields(Visitor& f) {
    f("ceiling", ceiling), f("torch", torch);
  }
};

struct ComparisonResults {
  int64_t format = 1;
  std::string title, command;  // the command reproduces it
  std::string date, device;
  Versions versions;
  std::vector<NamedValue> contract;  // what was equal, in words
  std::vector<std::string> marks;    // what a reader must know
  std::string task;                  // "": judged by the loss; else by the accuracy on this task
  std::string baseline;              // the first contender
  std::optional<int64_t> context;    // of training, in tokens
  std::vector<std::string> budgets;  // of "tokens", "flops", "time"; "tokens" always
  std::vector<Contender> contenders;
  std::vector<RunResult> runs;
  template <class Visitor>
  void fields(Visitor& f) {
    f("format", format), f("title", title), f("command", command), f("date", date);
    f("device", device), f("versions", versions), f("contract", contract), f("marks", marks);
    f("task", task), f("baseline", baseline), f("context", context), f("budgets", budgets);
    f("contenders", contenders), f("runs", runs);
  }

  const Contender& contender(const std::string& name) const;  // Error if there is none
};

// Error: the file, the key, what is there and what must be. A key that is not known is passed over;
// a list that is absent is empty; any other key but an optional one must be there.
ComparisonResults read_results(const std::string& path);

// `where` names it in an Error ("eval of runs/a").
Evaluation read_evaluation(const nlohmann::json& json, const std::string& where);

// read_results of its dump gives the same results again. Keys in the order above; unset optionals
// are left out.
nlohmann::ordered_json results_json(const ComparisonResults& results);

// What fields cannot say alone: names that must exist or be unique, samples that must agree. Error
// begins with `where`.
void check_results(const ComparisonResults& results, const std::string& where);

}  // namespace ceiling
