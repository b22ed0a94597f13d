#include "data/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#include "base/error.h"
#include "base/stop.h"
#include "data/samples.h"

namespace ceiling {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPoll = std::chrono::milliseconds(50);  // how late a signal is noticed while waiting

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::shared_ptr<void> plain_memory(size_t size_bytes) {
  return {::operator new(size_bytes), [](void* memory) { ::operator delete(memory); }};
}

// What the two threads share. The reader thread holds it too, so a read that never returns can be
// left behind.
struct Shared {
  explicit Shared(const LoaderOptions& o) : options(o), samples(o) {
    if (!options.allocate) options.allocate = plain_memory;
    if (!options.shuffle && !options.end_position) options.end_position = samples.per_pass();
  }

  LoaderOptions options;
  Samples samples;  // used by the reader thread alone, but for its const functions
  std::atomic<size_t> reading_part{0};  // what the reader thread is at
  std::atomic<int64_t> reading_sample{0};
  std::atomic<int64_t> n_read{0};  // samples
  std::atomic<bool> stopping{false};

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr failure;
  bool finished = false;
};

// This rank's samples of the step whose positions are [first, last).
Batch read_step(Shared& shared, int64_t first, int64_t last) {
  const LoaderOptions& o = shared.options;
  const int64_t n = last - first;
  Batch batch;
  batch.context = o.context;
  batch.first_position = first + n * o.rank / o.world_size;
  batch.n_samples = first + n * (o.rank + 1) / o.world_size - batch.first_position;
  const size_t n_elements = static_cast<size_t>(batch.n_samples) * static_cast<size_t>(o.context);
  batch.memory = o.allocate(3 * n_elements * sizeof(int32_t));
  auto* tokens = static_cast<int32_t*>(batch.memory.get());
  int32_t *targets = tokens + n_elements, *documents = targets + n_elements;
  batch.tokens = tokens, batch.targets = targets, batch.documents = documents;
  batch.sample_ids.reserve(static_cast<size_t>(batch.n_samples));
  for (int64_t i = 0; i < batch.n_samples && !shared.stopping; ++i) {
    const int64_t position = batch.first_position + i, row = i * o.context;
    const Samples::Place place = shared.samples.place(position);
    shared.reading_part = place.part, shared.reading_sample = place.sample;
    const Samples::Read sample =
        shared.samples.read(position, place, {tokens + row, targets + row, documents + row});
    ++shared.n_read;
    batch.sample_ids.push_back(place.sample);
    batch.n_targets += sample.n_targets;
    batch.digest += sample.digest;
  }
  return batch;
}

void read_steps(Shared& shared) {
  const LoaderOptions& o = shared.options;
  for (int64_t first = o.first_position; !o.end_position || first < *o.end_position;
       first += o.global_batch) {
    const int64_t last =
        o.end_position ? std::min(first + o.global_batch, *o.end_position) : first + o.global_batch;
    Batch batch = read_step(shared, first, last);
    std::unique_lock lock(shared.mutex);
    shared.changed.wait(lock, [&] {
      return shared.stopping || shared.ready.size() < static_cast<size_t>(o.prefetch);
    });
    if (shared.stopping) return;
    shared.ready.push_back(std::move(batch));
    shared.changed.notify_all();
  }
}

void reader_thread(const std::shared_ptr<Shared>& shared) {
  std::exception_ptr failure;
  try {
    read_steps(*shared);
  } catch (const std::bad_alloc&) {
    const LoaderOptions& o = shared->options;
    failure = std::make_exception_ptr(
        Error("rank {}: no memory for a step of {} samples of {} tokens; lower data.context, "
              "train.global_batch or data.prefetch",
              o.rank, o.global_batch, o.context));
  } catch (...) {
    failure = std::current_exception();
  }
  const std::lock_guard lock(shared->mutex);
  shared->failure = failure;
  shared->finished = true;
  shared->changed.notify_all();
}

}  // namespace

struct Loader::Impl {
  std::shared_ptr<Shared> shared;
  std::thread thread;
  bool stuck = false;  // a read has passed the time limit
};

Loader::Loader(const LoaderOptions& options) : impl_(std::make_unique<Impl>()) {
  impl_->shared = std::make_shared<Shared>(options);
  impl_->thread = std::thread(reader_thread, impl_->shared);
}

Loader::~Loader() {
  {
    const std::lock_guard lock(impl_->shared->mutex);
    impl_->shared->stopping = true;
    impl_->shared->changed.notify_all();
  }
  // A read that hangs in the file system cannot be ended; it must not hang the program as well.
  if (impl_->stuck)
    impl_->thread.detach();
  else
    impl_->thread.join();
}

std::optional<Batch> Loader::next() {
  Shared& shared = *impl_->shared;
  const auto start = Clock::now();
  auto last_progress = start;
  int64_t n_read = shared.n_read;
  std::unique_lock lock(shared.mutex);
  while (shared.ready.empty() && !shared.finished) {
    shared.changed.wait_for(lock, kPoll);
    if (!shared.ready.empty() || shared.finished) break;
    if (shared.options.interruptible) stop::check();
    if (const int64_t now = shared.n_read; now != n_read)
      n_read = now, last_progress = Clock::now();
    if (seconds_since(last_progress) < shared.options.timeout_s) continue;
    impl_->stuck = true;
    const Samples::Place place{shared.reading_part, shared.reading_sample};
    throw Error("{}: no data for {} s on rank {} (sample {}): is the file system alive?",
                shared.samples.shard_of(place), shared.options.timeout_s, shared.options.rank,
                place.sample);
  }
  if (shared.ready.empty()) {
    if (shared.failure) std::rethrow_exception(shared.failure);
    return std::nullopt;
  }
  Batch batch = std::move(shared.ready.front());
  shared.ready.pop_front();
  shared.changed.notify_all();
  batch.wait_s = seconds_since(start);
  return batch;
}

int64_t Loader::samples_per_epoch() const {
  const Shared& shared = *impl_->shared;
  return shared.options.shuffle ? shared.samples.per_epoch(0) : shared.samples.per_pass();
}

int64_t Loader::evaluation_samples(const LoaderOptions& options) {
  LoaderOptions in_stream_order = options;
  in_stream_order.shuffle = false;
  return Samples(in_stream_order).per_pass();
}

bool Loader::has_split(const LoaderOptions& options, Split split) {
  return options.recall || DatasetReader(options.parts[0].path).summary(split).n_tokens > 0;
}

double Loader::text_bytes_per_token() const {
  return impl_->shared->samples.text_bytes_per_token();
}
std::string Loader::fingerprint() const { return impl_->shared->samples.fingerprint(); }
nlohmann::json Loader::describe() const { return impl_->shared->samples.describe(); }
const TokenizerInfo& Loader::tokenizer() const { return impl_->shared->samples.tokenizer(); }

std::string data_changes(const nlohmann::json& before, const nlohmann::json& now) {
  const nlohmann::json old_values = before.flatten(), new_values = now.flatten();
  const auto text = [](const nlohmann::json& values, const std::string& key) {
    return values.contains(key) ? values.at(key).dump() : "(none)";
  };
  nlohmann::json keys = old_values;
  keys.update(new_values);
  std::string changes, moved;
  for (const auto& [key, unused] : keys.items()) {
    const std::string old_text = text(old_values, key), new_text = text(new_values, key);
    if (old_text != new_text)
      (key.ends_with("/path") ? moved : changes) +=
          fmt::format("  {}: {} -> {}\n", key.substr(1), old_text, new_text);
  }
  return changes.empty() ? "" : moved + changes;
}

}  // namespace ceiling
