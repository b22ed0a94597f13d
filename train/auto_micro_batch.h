// train.micro_batch: auto on a GPU: the largest micro-batch that fits, found by trying.
#pragma once
#include <cstdint>

#include "modules/lm.h"
#include "parallel/communicator.h"
#include "train/micro_step.h"

namespace ceiling {

// Doubles the micro-batch, up to `most` samples of `context` tokens, until one does not fit or
// fills nine tenths of the device; then the least one that needs no more passes for `most` samples.
// The same on all ranks. `options` are those of training; gradients are zero afterwards, as they
// must be before. Error if not even one sample fits.
int64_t largest_micro_batch(LanguageModel& model, at::Tensor gradients,
                            const MicroStepOptions& options, int64_t context, int64_t most,
                            Communicator& world);

}  // namespace ceiling
