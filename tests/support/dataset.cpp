#include "tests/support/dataset.h"

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "data/tokenizer.h"

namespace ceiling {

void write_byte_dataset(const std::string& path, const std::vector<std::string>& train,
                        const std::vector<std::string>& valid, bool bos) {
  const auto tokenizer = byte_tokenizer();
  DatasetWriter writer(path, tokenizer->info(), {.replace = true});
  for (const Split split : {Split::kTrain, Split::kValid}) {
    for (const std::string& text : split == Split::kTrain ? train : valid) {
      std::vector<uint32_t> tokens = tokenizer->encode(text);
      if (bos) tokens.insert(tokens.begin(), static_cast<uint32_t>(tokenizer->info().bos));
      tokens.push_back(static_cast<uint32_t>(tokenizer->info().eos));
      writer.add_document(split, tokens, static_cast<int64_t>(text.size()));
    }
  }
  writer.commit({{"made by", "a test"}});
}

std::vector<std::string> made_up_documents(int64_t n, uint64_t seed) {
  const char* words[] = {"stone", "river",  "walk",  "green", "early", "north",
                         "smoke", "window", "carry", "under", "seven", "winter"};
  const RandomStream random(seed, "test/documents");
  std::vector<std::string> documents;
  uint64_t draw = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::string text;
    for (uint64_t left = 1 + random.bits(draw++) % 30; left > 0; --left)
      text += std::string(text.empty() ? "" : " ") + words[random.bits(draw++) % 12];
    documents.push_back(text + ".");
  }
  return documents;
}

RunConfig tiny_run(const std::string& tiny, const std::string& data, const std::string& run_dir,
                   int64_t steps, const std::vector<std::string>& changes) {
  const size_t space = tiny.find(' ');
  std::string model = tiny.substr(space + 1);
  model.insert(1, "architecture: " + tiny.substr(0, space) + ", ");
  const std::string yaml = fmt::format(
      "run: {{dir: '{}', seed: 1, device: cpu}}\n"
      "data: {{path: '{}', context: 32}}\n"
      "model: {}\n"
      "train: {{steps: {}, global_batch: 4, micro_batch: 4, lr: 3e-3, warmup_steps: 0, precision: "
      "fp32, log_every: 1}}\n"
      "eval: {{every: never}}\n"
      "checkpoint: {{every: never, keep_last: 10}}\n"
      "log: {{tensorboard: false}}\n",
      run_dir, data, model, steps);
  fs::create_directories(run_dir);
  const std::string file = run_dir + ".yaml";
  write_file_atomic(file, yaml);
  return load_run_config(file, changes);
}

}  // namespace ceiling
