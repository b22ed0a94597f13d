#include "train/sampler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "base/stop.h"

namespace ceiling {

void check_sampling(const SamplingOptions& o) {
  if (!(o.temperature >= 0))
    throw Error(
        "temperature: {} is not allowed, must be at least 0 (0 takes the most probable token)",
        o.temperature);
  if (o.top_k < 0)
    throw Error("top-k: {} is not allowed, must be at least 0 (0 allows all tokens)", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1))
    throw Error("top-p: {} is not allowed, must be above 0 and at most 1", o.top_p);
  if (o.max_tokens < 0)
    throw Error("max-tokens: {} is not allowed, must be at least 0", o.max_tokens);
}

int64_t sample_token(const float* logits, int64_t vocab_size, const SamplingOptions& options,
                     double draw) {
  const int64_t best = std::max_element(logits, logits + vocab_size) - logits;
  // Below 1e-4 a difference of 0.01 in logits already weighs e^100: greedy, without the overflow.
  if (options.temperature < 1e-4) return best;
  std::vector<int64_t> order(static_cast<size_t>(vocab_size));
  std::iota(order.begin(), order.end(), 0);
  const bool all = options.top_k == 0 || options.top_k >= vocab_size;
  const int64_t keep = all ? vocab_size : options.top_k;
  const auto above = [&](int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  if (!all || options.top_p < 1)
    std::partial_sort(order.begin(), order.begin() + keep, order.end(), above);
  order.resize(static_cast<size_t>(keep));
  std::vector<double> weight(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    weight[i] = std::exp((logits[order[i]] - logits[best]) / options.temperature);
  double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  if (options.top_p < 1) {
    double within = 0;
    size_t n = 0;
    while (n < weight.size() && within < options.top_p * total) within += weight[n++];
    order.resize(n), weight.resize(n);
    total = within;
  }
  double target = draw * total;
  for (size_t i = 0; i < order.size(); ++i)
    if ((target -= weight[i]) < 0) return order[i];
  return order.back();
}

std::vector<Generation> generate(LanguageModel& model,
                                 const std::vector<std::vector<uint32_t>>& prompts, int64_t eos,
                                 const SamplingOptions& options, at::Device device,
                                 GenerateTimes* times,
                                 const std::function<void(size_t, uint32_t)>& on_token) {
  check_sampling(options);
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  at::NoGradGuard no_grad;
  const auto rows = static_cast<int64_t>(prompts.size());
  int64_t longest = 0;
  for (const auto& prompt : prompts) {
    if (prompt.empty()) throw Error("a prompt has no tokens");
    longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  }
  at::Tensor tokens = at::zeros({rows, longest}, at::kInt),
             document = at::zeros({rows, longest}, at::kInt);
  for (int64_t row = 0; row < rows; ++row) {
    const auto& prompt = prompts[static_cast<size_t>(row)];
    const int64_t pad = longest - static_cast<int64_t>(prompt.size());
    for (int64_t t = pad; t < longest; ++t) {
      tokens.accessor<int, 2>()[row][t] = static_cast<int>(prompt[static_cast<size_t>(t - pad)]);
      document.accessor<int, 2>()[row][t] = pad > 0;
    }
  }
  ModelState state;
  std::vector<Generation> out(prompts.size());
  std::vector<RandomStream> draws;
  for (size_t row = 0; row < prompts.size(); ++row)
    draws.emplace_back(options.seed, "sample/" + std::to_string(row));
  const double start = now();
  Segments segments = make_segments(document);
  if (segments.any()) {
    segments.document = segments.document.to(device);
    segments.start = segments.start.to(device);
    segments.position = segments.position.to(device);
  }
  at::Tensor hidden = model.hidden(tokens.to(device), segments, &state).select(1, -1);
  double prefill_end = 0;
  int64_t n_decoded = 0;
  std::vector<bool> done(prompts.size(), options.max_tokens == 0);
  for (int64_t n = 0; n < options.max_tokens; ++n) {
    stop::check();
    const at::Tensor logits = model.logits(hidden).to(at::kCPU, at::kFloat).contiguous();
    if (n == 0) prefill_end = now();
    at::Tensor next = at::zeros({rows, 1}, at::kInt);
    for (int64_t row = 0; row < rows; ++row) {
      const auto r = static_cast<size_t>(row);
      if (done[r]) continue;
      const int64_t token =
          sample_token(logits.const_data_ptr<float>() + row * logits.size(1), logits.size(1),
                       options, draws[r].uniform(static_cast<uint64_t>(n)));
      next.accessor<int, 2>()[row][0] = static_cast<int>(token);
      if (token == eos) {
        done[r] = out[r].stopped_at_eos = true;
        continue;
      }
      out[r].tokens.push_back(static_cast<uint32_t>(token));
      ++n_decoded;
      if (on_token) on_token(r, static_cast<uint32_t>(token));
    }
    if (std::all_of(done.begin(), done.end(), [](bool d) { return d; }) ||
        n + 1 == options.max_tokens)
      break;
    hidden = model.hidden(next.to(device), Segments{}, &state).select(1, -1);
  }
  if (times) {
    *times = {.prefill_s = (prefill_end > 0 ? prefill_end : now()) - start,
              .decode_s = prefill_end > 0 ? now() - prefill_end : 0,
              .prefill_tokens = rows * longest,
              .decode_tokens = n_decoded};
  }
  return out;
}

std::vector<uint32_t> encode_prompt(const Tokenizer& tokenizer, const std::string& text, bool bos) {
  std::vector<uint32_t> ids = tokenizer.encode(text);
  if (bos && tokenizer.info().bos >= 0)
    ids.insert(ids.begin(), static_cast<uint32_t>(tokenizer.info().bos));
  if (ids.empty())
    throw Error(
        "the prompt is empty, and the model was trained without BOS to start from; give some text");
  return ids;
}

}  // namespace ceiling
