#include "train/setup.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <cpuid.h>

#include <algorithm>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "data/source.h"
#include "modules/ops/device.h"
#include "train/device_batch.h"
#include "train/memory.h"

namespace ceiling {

namespace {
// "layers.*.ffn.down.weight": names that differ only in the layer are one.
std::string summarize_names(const std::vector<std::string>& names) {
  std::vector<std::string> kinds;
  for (const std::string& name : names) {
    std::vector<std::string> parts = split(name, '.');
    for (std::string& part : parts)
      if (parse_int(part)) part = std::string(1, '*');
    const std::string kind = join(parts, ".");
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  return join(kinds, ", ");
}
}  // namespace

at::Device setup_device(const RunConfig& config, int64_t local_rank, int64_t local_size) {
  if (config.run.threads)
    at::set_num_threads(static_cast<int>(*config.run.threads));
  else if (local_size > 1)
    at::set_num_threads(std::max(1, at::get_num_threads() / static_cast<int>(local_size)));
  // Decaying states become denormal numbers, which slow a CPU 10 to 50 times.
  at::globalContext().setFlushDenormal(true);
  const at::Device device = pick_device(config.run.device, local_rank);
  if (config.train.deterministic) {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setSDPUseCuDNN(false);  // its backward is not deterministic
  } else if (device.is_cuda()) {
    // Measured on an H100, 32,768 tokens of 12 heads of 64 forward and backward: 1.09 ms by cuDNN,
    // 1.75 by flash.
    using Backend = at::SDPBackend;
    std::vector<int64_t> order;
    for (const Backend backend : {Backend::cudnn_attention, Backend::flash_attention,
                                  Backend::efficient_attention, Backend::math})
      order.push_back(static_cast<int64_t>(backend));
    at::globalContext().setSDPPriorityOrder(order);
  }
  return device;
}

std::optional<c10::StreamGuard> own_stream(at::Device device) {
  if (device.is_cpu()) return {};
  return std::optional<c10::StreamGuard>(
      std::in_place, c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
}

namespace {
// CPUID leaf 7: EDX bit 22. g++ 12 has no __builtin_cpu_supports for it.
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
}
}  // namespace

at::ScalarType compute_dtype(const std::string& precision, at::Device device) {
  if (precision == "fp32") return at::kFloat;
  if (precision == "bf16") return at::kBFloat16;
  if (!device.is_cpu()) return at::kBFloat16;
  return __builtin_cpu_supports("avx512bf16") || has_amx_bf16() ? at::kBFloat16 : at::kFloat;
}

std::string precision_name(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bf16" : dtype == at::kFloat ? "fp32" : "fp64";
}

void ensure_data(const RunConfig& config) {
  const DataSection& data = config.data;
  if (data.task != "none") return;
  if (!data.source.empty())
    ensure_prepared({.source = data.source,
                     .tokenizer = data.tokenizer,
                     .path = data.path,
                     .valid_share = data.valid_share,
                     .bos = data.bos,
                     .text_key = data.text_key,
                     .document_separator = data.document_separator,
                     .min_split_tokens = data.context + 1});
  else if (data.mixture.empty() && !fs::exists(data.path))
    throw Error("data.path: {} does not exist; make it with `ceiling prepare`, or set data.source",
                data.path);
}

LoaderOptions loader_options(const RunConfig& config, Split split, at::Device device, int64_t rank,
                             int64_t world_size) {
  LoaderOptions options;
  options.rank = rank, options.world_size = world_size;
  // One rank alone must not turn back in the middle of a step.
  options.interruptible = world_size == 1;
  for (const auto& part : config.data.mixture) options.parts.push_back({part.path, part.weight});
  options.recall = config.recall();
  if (options.parts.empty() && !options.recall) options.parts.push_back({config.data.path, 1.0});
  options.split = split;
  options.seed = static_cast<uint64_t>(config.run.seed);
  options.context = config.data.context;
  options.cross_document = config.data.cross_document == "allow";
  options.global_batch = config.train.global_batch;
  options.prefetch = config.data.prefetch;
  options.allocate = host_allocator(device);
  return options;
}

int64_t vocabulary(const RunConfig& config) {
  if (const auto task = config.recall())
    return resolve_recall(*task, config.data.context).vocab_size;
  const std::string path =
      config.data.mixture.empty() ? config.data.path : config.data.mixture[0].path;
  if (fs::exists(path + "/manifest.json")) return DatasetReader(path).tokenizer().vocab_size;
  if (config.data.tokenizer == "byte") return byte_tokenizer()->info().vocab_size;
  if (config.data.tokenizer.rfind("spm:", 0) == 0)
    if (const auto size = parse_int(config.data.tokenizer.substr(4))) return *size;
  throw Error(
      "{}: there is no dataset yet, and data.tokenizer '{}' does not tell the vocabulary; run "
      "`ceiling prepare` first",
      path, config.data.tokenizer);
}

Recompute recompute_of(const TrainSection& train) {
  return train.recompute == "block"       ? Recompute::kBlock
         : train.recompute == "selective" ? Recompute::kSelective
                                          : Recompute::kNone;
}

std::unique_ptr<LanguageModel> build_model(RunConfig& config, int64_t vocab_size) {
  config.model.config->vocab_size = vocab_size;
  config.model.config->context = config.data.context;
  return config.model.config->build();
}

int64_t micro_batch(const RunConfig& config, at::Device device, int64_t world_size) {
  if (config.train.micro_batch) return *config.train.micro_batch;
  // A CPU is fastest while a micro-batch's activations stay near its caches; a GPU needs work for
  // all its units.
  const int64_t tokens = device.is_cpu() ? 4096 : 32768;
  const int64_t most = (config.train.global_batch + world_size - 1) / world_size;  // of a rank
  return std::clamp<int64_t>(tokens / config.data.context, 1, most);
}

std::vector<DescriptionRow> describe_run(RunConfig& config, LanguageModel& model, at::Device device,
                                         at::ScalarType compute, const Peak& peak,
                                         int64_t world_size, int64_t micro) {
  const int64_t context = config.data.context;
  if (micro == 0) micro = micro_batch(config, device, world_size);
  const int64_t compute_bytes = static_cast<int64_t>(at::elementSize(compute));
  const auto n = static_cast<double>(model.n_parameters());
  const double flops = 3 * model.flops_per_token(context);
  const double tokens = static_cast<double>(config.train.global_batch * context) *
                        static_cast<double>(config.total_steps());
  // Every matrix product keeps its input, unless that is made again, and what follows it keeps its
  // output.
  double activations = 0;
  const Recompute recompute = recompute_of(config.train);
  std::map<std::pair<bool, double>, std::vector<std::string>> groups;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->shape.size() == 2 && parameter->name.rfind("layers.", 0) == 0)
      activations += static_cast<double>(
          parameter->shape[0] + (recompute == Recompute::kSelective ? 0 : parameter->shape[1]));
    groups[{parameter->options.decay, parameter->options.lr_factor}].push_back(parameter->name);
  }
  activations *= static_cast<double>(micro * context * compute_bytes);
  if (recompute == Recompute::kBlock) activations /= static_cast<double>(model.n_layers());
  // Per parameter and process: gradient 4; the compute copy, which fp32 needs only where the master
  // is in parts; master and two moments 12, with ZeRO-1 shared out.
  const bool sharded = world_size > 1 && config.parallel.zero == 1;
  const double copy = compute == at::kBFloat16 ? 2 : sharded ? 4 : 0;
  const double buffers = n * (4 + copy + 12 / (sharded ? static_cast<double>(world_size) : 1.0));

  std::vector<DescriptionRow> rows;
  const auto row = [&](std::string key, std::string value) {
    rows.push_back({std::move(key), std::move(value)});
  };
  row("architecture", config.model.architecture);
  row("parameters",
      fmt::format("{} total, {} without embedding and head", format_thousands(model.n_parameters()),
                  format_thousands(model.n_non_embedding_parameters())));
  if (!config.train.init_from.empty()) row("begins with", config.train.init_from);
  row("vocabulary",
      fmt::format("{} tokens ({})", format_thousands(model.options().vocab_size),
                  config.data.task != "none" ? "task " + config.data.task : config.data.tokenizer));
  for (const auto& [treatment, names] : groups)
    row(treatment.first ? fmt::format("weight decay {}", config.train.weight_decay)
                        : "no weight decay",
        fmt::format("{} tensors{}: {}", names.size(),
                    treatment.second == 1 ? "" : fmt::format(", lr x {}", treatment.second),
                    summarize_names(names)));
  row("FLOPs per token",
      fmt::format("{} for training at context {} (3 x forward)", format_count(flops), context));
  row("decode state",
      fmt::format("{} per sequence after {} tokens, {} after {}",
                  format_bytes(model.state_bytes(context, compute_bytes)),
                  format_thousands(context), format_bytes(model.state_bytes(16384, compute_bytes)),
                  format_thousands(16384)));
  row("steps", fmt::format("{} of {} sequences x {} tokens", format_thousands(config.total_steps()),
                           config.train.global_batch, context));
  row("tokens", format_count(tokens));
  const int64_t per_rank = (config.train.global_batch + world_size - 1) / world_size;
  row("micro-batch",
      fmt::format("{} sequences, {} per step", micro, (per_rank + micro - 1) / micro));
  if (world_size > 1)
    row("ranks",
        fmt::format("{}, {} sequences each; {}", world_size,
                    config.train.global_batch % world_size == 0
                        ? std::to_string(per_rank)
                        : fmt::format("{} or {}", config.train.global_batch / world_size, per_rank),
                    sharded ? "each keeps its part of the optimizer (ZeRO-1)"
                            : "each keeps the whole optimizer"));
  row("precision", fmt::format("{} compute, fp32 master weights, gradients and moments",
                               precision_name(compute)));
  row("device", device.is_cpu()
                    ? fmt::format("{}, {} threads", device_name(device), at::get_num_threads())
                    : device_name(device));
  row("memory estimate",
      fmt::format("{}{}: weights and optimizer {}, activations about {}; {} there",
                  world_size > 1 ? "per rank " : "", format_bytes(buffers + activations),
                  format_bytes(buffers), format_bytes(activations),
                  format_bytes(memory_total_bytes(device))));
  row("total work", fmt::format("{} FLOP", format_count(flops * tokens)));
  row("mfu", fmt::format("tok/s x FLOPs per token / {} FLOP/s ({})", format_count(peak.flops_per_s),
                         peak.source));
  return rows;
}

}  // namespace ceiling
