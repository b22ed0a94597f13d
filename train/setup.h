// What a config describes, made real: device, precision, data, model, buffers. Shared by training,
// --dry-run and tests.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/StreamGuard.h>

#include <memory>
#include <optional>
#include <string>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "modules/lm.h"
#include "train/describe.h"
#include "train/parameter_store.h"
#include "train/peak.h"
#include "train/run_config.h"

namespace ceiling {

// Threads, device and determinism as the config says. Returns the device; the CUDA library is
// loaded if it is a GPU. Of several processes on this host each takes its own GPU, or its share of
// the processor's threads.
at::Device setup_device(const RunConfig& config, int64_t local_rank = 0, int64_t local_size = 1);

// Work of this thread goes to a stream of its own while the guard lives: what the default stream
// does cannot be recorded as a graph. Nothing on a CPU.
std::optional<c10::StreamGuard> own_stream(at::Device device);

// "auto" resolved: bf16 on a GPU and on a CPU with AMX or AVX512-BF16, else fp32.
at::ScalarType compute_dtype(const std::string& precision, at::Device device);
std::string precision_name(at::ScalarType dtype);  // "fp32", "bf16"

// Prepares data.source once, if the config names one. Error if there is no dataset at data.path.
void ensure_data(const RunConfig& config);

LoaderOptions loader_options(const RunConfig& config, Split split, at::Device device,
                             int64_t rank = 0, int64_t world_size = 1);

// The vocabulary the model will have: the dataset's, or the tokenizer spec's while the dataset is
// still to be made.
int64_t vocabulary(const RunConfig& config);

Recompute recompute_of(const TrainSection& train);  // train.recompute

// The model of `config` (its vocab_size and context are filled in).
std::unique_ptr<LanguageModel> build_model(RunConfig& config, int64_t vocab_size);

// Samples per micro-batch: the config's, or a choice for the device (on a GPU a first guess, see
// auto_micro_batch.h).
int64_t micro_batch(const RunConfig& config, at::Device device, int64_t world_size = 1);

// What will happen, before step 1 and for --dry-run. `micro` 0: micro_batch() of the config.
std::vector<DescriptionRow> describe_run(RunConfig& config, LanguageModel& model, at::Device device,
                                         at::ScalarType compute, const Peak& peak,
                                         int64_t world_size = 1, int64_t micro = 0);

}  // namespace ceiling
