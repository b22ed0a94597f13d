// A connection to every other process of the job. A process that dies is noticed at once: its
// connections close.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "parallel/rank_environment.h"
#include "parallel/rendezvous.h"

namespace ceiling {

class Peers {
 public:
  // Connects all pairs; every rank must take part. `timeout_s`: how long an exchange may stand
  // still.
  Peers(const RankEnvironment& e, Rendezvous& rendezvous, double timeout_s);
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  int64_t rank() const { return rank_; }
  int64_t size() const { return static_cast<int64_t>(sockets_.size()); }

  struct Part {
    void* data = nullptr;
    size_t size_bytes = 0;
  };
  // send[r] goes to rank r, receive[r] comes from rank r, all at once; this rank's own entries are
  // not looked at. All ranks must call it in the same order with sizes that fit, which is checked.
  // PeerLost names the rank, `what` is done and where().
  void exchange(const std::vector<Part>& send, const std::vector<Part>& receive,
                const std::string& what);
  // Every rank's text, in rank order.
  std::vector<std::string> gather(const std::string& mine, const std::string& what);

  // What the run is at, for messages: "step 120".
  void set_where(std::string where);
  std::string where() const;
  // The first rank whose connection has closed, or -1. May be called from another thread.
  int64_t lost() const;
  [[noreturn]] void throw_lost(int64_t rank, const std::string& what) const;

 private:
  void connect(const RankEnvironment& e, Rendezvous& rendezvous);
  int64_t rank_;
  double timeout_s_;
  std::vector<int> sockets_;  // by rank; -1 for this one
  std::vector<std::string> hosts_;
  uint64_t n_exchanges_ = 0;
  mutable std::mutex mutex_;  // guards where_
  std::string where_;
};

}  // namespace ceiling
