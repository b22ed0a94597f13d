#include "train/progress.h"

namespace ceiling {

namespace {
// One list for both ways.
template <class P, class Visit>
void for_each_key(P& progress, const Visit& visit) {
  visit("step", progress.step);
  visit("optimizer_step", progress.optimizer_step);
  visit("tokens", progress.tokens);
  visit("n_targets", progress.n_targets);
  visit("data_hash", progress.data_chain);
  visit("train_s", progress.train_s);
  visit("valid_nats", progress.valid_nats);
  visit("valid_step", progress.valid_step);
  visit("best_nats", progress.best_nats);
}
}  // namespace

nlohmann::json to_json(const Progress& progress) {
  nlohmann::json json;
  for_each_key(progress, [&](const char* key, const auto& value) { json[key] = value; });
  return json;
}

Progress progress_from(const nlohmann::json& state) {
  Progress progress;
  for_each_key(progress, [&](const char* key, auto& value) { state.at(key).get_to(value); });
  return progress;
}

}  // namespace ceiling
