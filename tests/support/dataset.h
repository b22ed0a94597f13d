// Small byte-token datasets and run configs for tests of training.
#pragma once
#include <string>
#include <vector>

#include "train/run_config.h"

namespace ceiling {

// Writes a dataset of the given documents ([BOS] bytes EOS), each split in its order.
void write_byte_dataset(const std::string& path, const std::vector<std::string>& train,
                        const std::vector<std::string>& valid, bool bos = true);

// `n` documents of made-up words, of varied length; the same for the same seed.
std::vector<std::string> made_up_documents(int64_t n, uint64_t seed);

// A run of a tiny model ("llama {d_model: 32, ...}") on the dataset at `data`: fp32, context 32,
// batch 4, `steps` steps. `changes` are dotted overrides, as on the command line.
RunConfig tiny_run(const std::string& tiny, const std::string& data, const std::string& run_dir,
                   int64_t steps, const std::vector<std::string>& changes = {});

}  // namespace ceiling
