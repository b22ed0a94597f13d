// One thread produces items, several transform them, the caller's consumes them in the order in
// which they were produced: the result does not depend on the number of threads. Memory is bounded
// by the cost of what is under way.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ceiling {

template <class Item>
class OrderedPipeline {
 public:
  std::function<bool(Item&)> produce;  // false: there is no more
  std::function<int64_t(const Item&)> cost;
  std::function<void(Item&)> transform;
  std::function<void(Item&)> consume;
  std::function<void()> while_waiting;  // every 0.1 s at least, in the caller's thread; may throw
  int64_t max_cost = 0;                 // no more is produced beyond it, but one item always fits

  // The first exception of any of the functions ends everything and comes out here.
  void run(int threads) {
    std::vector<std::jthread> workers;
    const Canceller cancel{*this};  // before the workers are joined
    workers.emplace_back([this] { guard([this] { produce_all(); }); });
    for (int i = 0; i < threads; ++i)
      workers.emplace_back([this] { guard([this] { transform_all(); }); });
    consume_all();
  }

 private:
  struct Slot {
    Item item;
    int64_t cost = 0;
    bool ready = false;
  };
  struct Canceller {
    OrderedPipeline& pipeline;
    ~Canceller() {
      const std::lock_guard lock(pipeline.mutex_);
      pipeline.cancelled_ = true;
      pipeline.changed_.notify_all();
    }
  };

  template <class Work>
  void guard(Work work) {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      cancelled_ = true;
    }
    changed_.notify_all();
  }

  void produce_all() {
    for (;;) {
      Slot slot;
      if (!produce(slot.item)) break;
      slot.cost = cost(slot.item);
      std::unique_lock lock(mutex_);
      changed_.wait(
          lock, [&] { return cancelled_ || under_way_.empty() || cost_ + slot.cost <= max_cost; });
      if (cancelled_) return;
      cost_ += slot.cost;
      under_way_.push_back(std::move(slot));
      waiting_.push_back(&under_way_.back());
      changed_.notify_all();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }

  void transform_all() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return cancelled_ || ended_ || !waiting_.empty(); });
      if (cancelled_ || waiting_.empty()) return;
      Slot& slot = *waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      transform(slot.item);
      lock.lock();
      slot.ready = true;
      changed_.notify_all();
    }
  }

  void consume_all() {
    for (;;) {
      while_waiting();
      std::unique_lock lock(mutex_);
      const auto is_ready = [&] {
        return failure_ || (under_way_.empty() ? ended_ : under_way_.front().ready);
      };
      if (!changed_.wait_for(lock, std::chrono::milliseconds(100), is_ready)) continue;
      if (failure_) std::rethrow_exception(failure_);
      if (under_way_.empty()) return;
      Slot& slot = under_way_.front();
      lock.unlock();
      consume(slot.item);
      lock.lock();
      cost_ -= slot.cost;
      under_way_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Slot> under_way_;  // in order of production; references stay valid at both ends
  std::deque<Slot*> waiting_;   // to be transformed
  int64_t cost_ = 0;            // of under_way_
  bool ended_ = false, cancelled_ = false;
  std::exception_ptr failure_;
};

}  // namespace ceiling
