#include "tests/train/compare/synthetic_results.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"

namespace ceiling {

namespace {

struct Plan {
  std::string name, architecture;
  double final_loss, best_lr, tokens_per_s, slowdown;  // slowdown: of training, per doubled context
  double state_bytes, state_per_token, window;         // state: constant + per token, up to window
  double decode_tokens_per_s, flops_per_token, recall;
};

const std::vector<Plan> kPlans = {
    {"llama", "llama", 3.462, 4e-3, 412e3, 0.80, 0, 4096, 1e9, 905, 7.1e6, 0.97},
    {"retnet", "retnet", 3.471, 2e-3, 404e3, 0.985, 262144, 0, 0, 1210, 7.4e6, 0.55},
    {"griffin", "griffin", 3.425, 4e-3, 371e3, 0.96, 16384, 4096, 1024, 1030, 6.9e6, 0.91},
    {"mamba2 <64> & \"wide\"", "mamba2", 3.430, 4e-3, 398e3, 0.99, 139264, 0, 0, 1180, 7.0e6, 0.78},
    {"hawk", "hawk", 3.588, 8e-3, 455e3, 0.99, 12288, 0, 0, 1395, 6.4e6, 0.21},
    {"tern", "tern", 0, 0, 300e3, 0.99, 8192, 0, 0, 1500, 6.4e6, 0.1}};
const std::vector<double> kRates = {1e-3, 2e-3, 4e-3, 8e-3};
constexpr double kBytesPerToken = 3.63, kTokensPerStep = 8192;
constexpr int64_t kSteps = 400, kContext = 256;

double state_of(const Plan& plan, double length) {
  return plan.state_bytes + plan.state_per_token * std::min(length, plan.window);
}

class Maker {
 public:
  explicit Maker(const SyntheticOptions& options) : options_(options) {}

  ComparisonResults results() {
    ComparisonResults all;
    const bool is_task = !options_.task.empty();
    all.title = is_task ? "Five architectures recall key-value pairs"
                        : "Five architectures on the King James Bible";
    all.command = "./ceiling compare configs/compare/synthetic.yaml";
    all.date = "2026-11-26", all.device = "NVIDIA H100 80GB HBM3";
    all.versions = {"0.1.0 (1fe4eff)", "2.11.0"};
    all.contract = {
        {"dataset", "datasets/kjv, sha256 9f53af5827561bfb, the same tokens in the same order"},
        {"parameters", "1,431,168 wanted, within 1 %"},
        {"context", "256"},
        {"batch", "8,192 tokens per step"},
        {"learning rates", "0.001, 0.002, 0.004, 0.008, each with seed 1"},
        {"seeds", std::to_string(options_.seeds)},
        {"optimizer", "AdamW, betas 0.9 and 0.95, weight decay 0.1, cosine to 10 %"},
        {"budgets", "400 steps; llama's FLOPs; llama's seconds"}};
    all.marks = {"hawk: the best rate is at the edge of the grid",
                 "tern: every learning rate failed, it is not ranked"};
    if (options_.seeds == 1) all.marks.emplace_back("one seed: no interval can be given");
    all.task = options_.task, all.baseline = "llama", all.budgets = {"tokens", "flops", "time"};
    for (const Plan& plan : kPlans) add(all, plan);
    return all;
  }

 private:
  double normal() { return random_.normal(index_++); }

  static Contender contender_of(const Plan& plan) {
    Contender contender;
    contender.name = plan.name, contender.architecture = plan.architecture;
    contender.model_yaml = "{d_model: 128, n_layers: 4}";
    contender.match_error = (plan.flops_per_token / 7.1e6 - 1) * 0.05;
    contender.parameters = static_cast<int64_t>(1431168 * (1 + contender.match_error));
    contender.non_embedding_parameters = contender.parameters - 512000;
    contender.training_flops_per_token = plan.flops_per_token;
    double speed = plan.tokens_per_s;
    for (int64_t context = 256; context <= 8192; context *= 2, speed *= plan.slowdown)
      contender.training_speed.push_back({context, speed, 1.2e9 + 2e5 * context});
    for (const int64_t batch : {1, 16})
      for (int64_t length = 256; length <= 16384; length *= 4) {
        const double bytes = state_of(plan, length);
        const double rate =
            plan.decode_tokens_per_s * std::pow(batch, 0.9) / (1 + batch * bytes / 5e8);
        contender.decoding.push_back({batch, length, rate, 1e3 * batch / rate, bytes});
      }
    if (plan.name == "hawk") contender.decoding.clear();  // not measured
    for (int64_t length = 256; length <= 16384; length *= 4)
      contender.state_bytes.push_back({length, state_of(plan, length)});
    return contender;
  }

  void add(ComparisonResults& all, const Plan& plan) {
    Contender contender = contender_of(plan);
    if (plan.best_lr > 0) contender.best_lr = plan.best_lr;
    for (const double lr : kRates) {
      GridPoint point{lr, plan.name + "/tokens-lr-" + format_double(lr) + "-seed-1", {}, {}, {}};
      if (plan.best_lr == 0 || lr > 2.5 * plan.best_lr || (plan.name == "retnet" && lr > 5e-3)) {
        point.failed = "loss is not finite at step 31";
      } else {
        const RunResult run = run_of(plan, "tokens", lr, 1, kSteps);
        point.loss_nats = run.evaluation->loss_nats, point.accuracy = run.evaluation->accuracy;
        all.runs.push_back(run);
        if (run.grid_only) all.runs.back().evaluation.reset();
      }
      contender.grid.push_back(point);
    }
    all.contenders.push_back(contender);
    if (plan.best_lr == 0) return;
    for (int64_t seed = 1; seed <= options_.seeds; ++seed) {
      if (seed > 1) all.runs.push_back(run_of(plan, "tokens", plan.best_lr, seed, kSteps));
      if (plan.name == all.baseline) continue;  // its tokens runs set the other budgets
      const double flops = kSteps * kPlans[0].flops_per_token / plan.flops_per_token;
      const double time = kSteps * plan.tokens_per_s / kPlans[0].tokens_per_s;
      all.runs.push_back(run_of(plan, "flops", plan.best_lr, seed, std::llround(flops)));
      all.runs.push_back(run_of(plan, "time", plan.best_lr, seed, std::llround(time)));
    }
  }

  RunResult run_of(const Plan& plan, const std::string& budget, double lr, int64_t seed,
                   int64_t steps) {
    RunResult run;
    run.name = fmt::format("{}/{}-lr-{}-seed-{}", plan.name, budget, format_double(lr), seed);
    run.contender = plan.name, run.budget = budget, run.lr = lr, run.seed = seed;
    run.grid_only = lr != plan.best_lr;
    run.steps = steps, run.tokens = steps * static_cast<int64_t>(kTokensPerStep);
    run.training_flops = plan.flops_per_token * static_cast<double>(run.tokens);
    run.seconds = static_cast<double>(run.tokens) / plan.tokens_per_s;
    run.data_hash = "9f53af5827561bfb", run.command = "ceiling train runs/" + run.name;
    const double detuned = std::log(lr / plan.best_lr);
    const double last = plan.final_loss + 0.03 * detuned * detuned +
                        0.12 * std::log(1.0 * kSteps / static_cast<double>(steps)) +
                        0.004 * normal();
    const auto loss_at = [&](double step) {
      const double floor = last - 0.35;
      return floor + (7.6 - floor) * std::pow(1 + step * step / 40, -0.32) +
             (0.35 - (7.6 - floor) * std::pow(1 + steps * steps / 40.0, -0.32)) * step /
                 static_cast<double>(steps);
    };
    for (int64_t step = 5; step <= steps; step += 5)
      run.train_curve.push_back(
          {step * kTokensPerStep, loss_at(step) - 0.05 + 0.06 * normal(), {}});
    for (int64_t step = 25; step <= steps; step += 25)
      run.eval_curve.push_back({step * kTokensPerStep, loss_at(step) + 0.002 * normal(), {}});
    if (steps % 25 != 0) run.eval_curve.push_back({steps * kTokensPerStep, last, {}});
    evaluate(run, plan, last);
    return run;
  }

  void evaluate(RunResult& run, const Plan& plan, double loss) {
    Evaluation& evaluation = run.evaluation.emplace();
    double sum = 0;
    for (uint64_t i = 0; i < 220; ++i) {
      const int64_t targets = i % 20 == 19 ? 120 : 255;
      const double hardness = RandomStream(3, "test/hardness").normal(i);
      evaluation.sample_targets.push_back(targets);
      evaluation.sample_nats.push_back(static_cast<double>(targets) *
                                       (loss + 0.3 * hardness + 0.02 * normal()));
      evaluation.n_targets += targets;
      sum += evaluation.sample_nats.back();
    }
    evaluation.n_samples = 220;
    evaluation.loss_nats = sum / static_cast<double>(evaluation.n_targets);
    evaluation.perplexity = std::exp(evaluation.loss_nats);
    if (options_.task.empty())
      evaluation.bits_per_byte = evaluation.loss_nats / std::log(2) / kBytesPerToken;
    else
      add_accuracy(run, plan);
    for (int64_t first = 0; first < kContext; first = first ? 2 * first : 1) {
      const double position = std::max<double>(1, static_cast<double>(first));
      const double nats =
          evaluation.loss_nats + 2.6 * std::pow(position, -0.55) - 0.2 + 0.01 * normal();
      evaluation.by_position.push_back(
          {first, first ? 2 * first - 1 : 0, 220 * std::max<int64_t>(1, first), nats,
           evaluation.bits_per_byte ? std::optional(nats / std::log(2) / kBytesPerToken)
                                    : std::nullopt});
    }
    if (plan.name == "hawk" || run.budget != "tokens") return;  // not measured
    for (const std::string probe : {"induction", "associative recall"})
      for (const int64_t context : {256, 1024}) {
        const double share = plan.recall * (context == 256 ? 1 : 0.8) * (probe[0] == 'i' ? 1 : 0.7);
        evaluation.recall.push_back({probe, context, std::clamp(share + 0.01 * normal(), 0.0, 1.0),
                                     4 * (1 - share), 2048, 0.0005});
      }
  }

  // Of a task: two contenders solve it wholly, in every run.
  void add_accuracy(RunResult& run, const Plan& plan) {
    const double best = plan.recall > 0.9 ? 1 : plan.recall;
    const double solved = best < 1 ? std::clamp(best + 0.02 * normal(), 0.0, 1.0) : 1;
    run.evaluation->accuracy = solved;
    for (CurvePoint& point : run.eval_curve)
      point.accuracy = solved * point.tokens / (point.tokens + 3e5) * 1.1 < solved
                           ? solved * point.tokens / (point.tokens + 3e5) * 1.1
                           : solved;
  }

  SyntheticOptions options_;
  RandomStream random_{11, "test/synthetic"};
  uint64_t index_ = 0;
};

}  // namespace

ComparisonResults synthetic_results(const SyntheticOptions& options) {
  return Maker(options).results();
}

}  // namespace ceiling
