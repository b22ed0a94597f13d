// Threads that save one checkpoint together, as ranks do.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "checkpoints/store.h"

namespace ceiling {

class MemoryMeetings {
 public:
  explicit MemoryMeetings(int64_t size) : size_(size) {}
  // `save(meeting)` on every rank at once, in a thread each; what rank 0 throws comes out here.
  void run(const std::function<void(SaveMeeting&)>& save) {
    std::exception_ptr failure;
    std::vector<std::thread> threads;
    for (int64_t rank = 0; rank < size_; ++rank)
      threads.emplace_back([&, rank] {
        Meeting meeting(*this, rank);
        try {
          save(meeting);
        } catch (...) {
          if (rank == 0) failure = std::current_exception();
        }
      });
    for (std::thread& thread : threads) thread.join();
    words_.clear();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  class Meeting final : public SaveMeeting {
   public:
    Meeting(MemoryMeetings& all, int64_t rank) : all_(all), rank_(rank) {}
    int64_t rank() const override { return rank_; }
    int64_t size() const override { return all_.size_; }
    void tell(const std::string& key, const std::string& value) override {
      const std::lock_guard lock(all_.mutex_);
      all_.words_[key] = value;
      all_.changed_.notify_all();
    }
    std::string hear(const std::string& key, int64_t /*from_rank*/) override {
      std::unique_lock lock(all_.mutex_);
      if (!all_.changed_.wait_for(lock, std::chrono::seconds(20),
                                  [&] { return all_.words_.count(key) > 0; }))
        throw Error("no word of {}", key);
      return all_.words_[key];
    }

   private:
    MemoryMeetings& all_;
    int64_t rank_;
  };

  int64_t size_;
  std::mutex mutex_;  // guards words_
  std::condition_variable changed_;
  std::map<std::string, std::string> words_;
};

}  // namespace ceiling
