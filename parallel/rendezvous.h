// Where the processes of a job meet: keys and values on a c10d::TCPStore, hosted by rank 0 or by
// torchrun. Used to find each other, to compare what each was started
// with, and to leave word why one stops; never for tensors.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "parallel/rank_environment.h"

namespace ceiling {

// Another process has ended or fallen silent: there is nothing to do but to end as well.
class PeerLost : public Error {
 public:
  using Error::Error;
};

class Rendezvous {
 public:
  // Joins as rank e.rank. Error if nobody listens there within the time, the port is taken, or
  // another process is this rank already.
  Rendezvous(const RankEnvironment& e, double timeout_s);
  // A store on a free port of this host, for tests.
  static Rendezvous host();
  Rendezvous(Rendezvous&&) noexcept;
  ~Rendezvous();

  int64_t port() const;
  void set(const std::string& key, const std::string& value);
  // Sets the key unless someone has set it before; whether it did.
  bool set_first(const std::string& key, const std::string& value);
  // Waits for the key. Interrupted if asked to stop meanwhile; Error that begins with `what` if
  // nothing comes in time, PeerLost if the store is gone.
  std::string get(const std::string& key, const std::string& what, double timeout_s);
  // The same with `poll` called while it waits, which may throw; a request to stop does not end it.
  std::string get_while(const std::string& key, const std::string& what, double timeout_s,
                        const std::function<void()>& poll);
  std::optional<std::string> try_get(const std::string& key);  // nothing if the store is gone, too
  // A connection of its own, for another thread. Waits where nobody answers any more.
  Rendezvous clone() const;

 private:
  std::optional<std::string> read(const std::string& key);
  struct Impl;
  explicit Rendezvous(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ceiling
