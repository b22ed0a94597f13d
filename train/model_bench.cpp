#include "train/model_bench.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "base/stop.h"
#include "modules/ops/adamw/adamw.h"
#include "modules/ops/device.h"
#include "modules/ops/grad_norm/grad_norm.h"
#include "train/device_batch.h"
#include "train/memory.h"
#include "train/micro_step.h"
#include "train/setup.h"

namespace ceiling {

namespace {

double seconds_of(at::Device device, const std::function<void()>& work) {
  stop::check();
  synchronize(device);
  const auto start = std::chrono::steady_clock::now();
  work();
  synchronize(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// One document per row, the same tokens every time.
Batch random_batch(int64_t n_samples, int64_t context, int64_t vocab_size, at::Device device) {
  Batch batch;
  batch.n_samples = n_samples, batch.context = context;
  const auto n = static_cast<size_t>(batch.n_samples * batch.context);
  const auto allocate = host_allocator(device);
  batch.memory = allocate ? allocate(3 * n * sizeof(int32_t))
                          : std::shared_ptr<void>(new int32_t[3 * n], [](void* p) {
                              delete[] static_cast<int32_t*>(p);
                            });
  auto* tokens = static_cast<int32_t*>(batch.memory.get());
  std::mt19937 random(1);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab_size) - 1);
  for (size_t i = 0; i < 2 * n; ++i) tokens[i] = token(random);
  std::fill_n(tokens + 2 * n, n, 0);
  batch.tokens = tokens, batch.targets = tokens + n, batch.documents = tokens + 2 * n;
  batch.n_targets = static_cast<int64_t>(n);
  return batch;
}

}  // namespace

TrainingTimes time_training(RunConfig config, int64_t vocab_size, int64_t steps) {
  const at::Device device = setup_device(config);
  const auto stream = own_stream(device);
  const at::ScalarType compute = compute_dtype(config.train.precision, device);
  const std::unique_ptr<LanguageModel> model = build_model(config, vocab_size);
  ParameterStore store(*model, device, compute, static_cast<uint64_t>(config.run.seed));
  const auto groups = store.groups(config.train.weight_decay);
  const int64_t micro_size = std::min(micro_batch(config, device), config.train.global_batch);
  const Batch batch =
      random_batch(config.train.global_batch, config.data.context, vocab_size, device);
  MicroStep micro(*model, device,
                  {.micro_batch = micro_size,
                   .documents = false,
                   .scale = 1.0 / static_cast<double>(batch.n_targets),
                   .z_loss = config.train.z_loss,
                   .recompute = recompute_of(config.train),
                   .graph = config.train.cuda_graph});
  int64_t t = 0;
  const auto step = [&] {
    micro.reset_total();
    for (int64_t first = 0; first < batch.n_samples; first += micro_size)
      micro.run(batch, first, std::min(micro_size, batch.n_samples - first));
    at::NoGradGuard no_grad;
    const at::Tensor sums = at::stack({micro.total(), squared_norm(store.grad)}).cpu();
    const double norm = std::sqrt(sums[1].item<double>());
    store.update(groups, {.lr = config.train.lr / 100,
                          .beta1 = config.train.beta1,
                          .beta2 = config.train.beta2,
                          .eps = config.train.eps,
                          .step = ++t,
                          .grad_scale = norm > 1 ? 1 / norm : 1});
  };
  TrainingTimes times;
  times.n_parameters = model->n_parameters();
  times.tokens_per_step = batch.n_samples * batch.context;
  times.first_step_s = seconds_of(device, step);
  for (int i = 0; i < 5; ++i) step();  // a graph is recorded in here
  std::vector<double> measured;
  for (int64_t i = 0; i < steps; ++i) measured.push_back(seconds_of(device, step));
  times.step_ms = 1e3 * median(measured);
  times.fastest_step_ms = 1e3 * *std::min_element(measured.begin(), measured.end());
  times.peak_bytes = memory_bytes(device);
  Peak peak = peak_of(device, compute);
  times.mfu = utilisation(peak,
                          3 * model->flops_per_token(config.data.context) *
                              static_cast<double>(times.tokens_per_step) / (times.step_ms / 1e3),
                          device, compute);
  return times;
}

std::vector<DecodeTimes> time_decoding(RunConfig config, int64_t vocab_size, int64_t batch,
                                       const std::vector<int64_t>& lengths, int64_t tokens) {
  const at::Device device = setup_device(config);
  const auto stream = own_stream(device);
  const at::ScalarType compute = compute_dtype(config.train.precision, device);
  const std::unique_ptr<LanguageModel> model = build_model(config, vocab_size);
  const ParameterStore store(*model, device, compute, static_cast<uint64_t>(config.run.seed),
                             /*with_optimizer=*/false);
  at::NoGradGuard no_grad;
  constexpr int64_t kPiece = 2048;  // tokens of a row that are read at a time
  const Batch source = random_batch(batch, kPiece, vocab_size, device);
  const DeviceBatch text = to_device(source, 0, batch, device);
  ModelState state;
  std::vector<DecodeTimes> all;
  for (const int64_t length : lengths) {
    while (state.length < length)
      model->hidden(text.tokens.narrow(1, 0, std::min(kPiece, length - state.length)).contiguous(),
                    {}, &state);
    at::Tensor token = text.tokens.narrow(1, 0, 1).contiguous();
    const auto step = [&] {
      const at::Tensor hidden = model->hidden(token, {}, &state);
      token = at::argmax(model->logits(hidden), -1).to(at::kInt);
    };
    for (int i = 0; i < 3; ++i) step();
    reset_peak_memory(device);
    DecodeTimes times{.batch = batch, .length = length};
    std::vector<double> measured;
    for (int64_t i = 0; i < tokens; ++i) measured.push_back(seconds_of(device, step));
    times.token_ms = 1e3 * median(measured);
    times.state_bytes = model->state_bytes(length, compute == at::kBFloat16 ? 2 : 4);
    times.peak_bytes = memory_bytes(device);
    all.push_back(times);
  }
  return all;
}

}  // namespace ceiling
