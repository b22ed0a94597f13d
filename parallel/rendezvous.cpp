#include "parallel/rendezvous.h"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/stop.h"
#include "base/text.h"
#include "parallel/socket.h"

namespace ceiling {

namespace {

using Clock = std::chrono::steady_clock;

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

// Until rank 0 or the launcher listens. c10d would wait, too, but neither notice a request to stop
// nor that nobody will come: ranks that ceiling starts are given the socket before they run, so
// where it refuses rank 0 has ended.
void wait_for_host(const RankEnvironment& e, double timeout_s) {
  const auto deadline = Clock::now() + milliseconds(timeout_s);
  for (;;) {
    const Socket connection(connect_to(e.master_host, e.master_port));
    if (connection.get() >= 0) return;
    const int why = errno;
    if (e.launcher == "ceiling" && why == ECONNREFUSED)
      throw PeerLost("rank {}: rank 0 has ended before it could be met", e.rank);
    stop::check();
    if (Clock::now() > deadline)
      throw Error("rank {} reached nobody at {}:{} (MASTER_ADDR, MASTER_PORT) within {} s: {}",
                  e.rank, e.master_host, e.master_port, timeout_s, std::strerror(why));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

// A server on a listening IPv4 socket of ours. One that c10d opens itself is IPv6, and sees local
// clients as ::ffff:127.0.0.1: it asks DNS for that name, 5 s each where the answer is lost.
c10d::TCPStoreOptions server_on(int listener, int64_t port) {
  c10d::TCPStoreOptions options;
  options.isServer = true;
  options.waitWorkers = false;
  options.port = static_cast<uint16_t>(port);
  options.masterListenFd = listener;
  return options;
}

// What c10d warns of, with a stack trace, is told by the Error that follows.
void quiet_c10d() {
  constexpr int kErrors = 2;
  if (!std::getenv("TORCH_CPP_LOG_LEVEL"))
    FLAGS_caffe2_log_level = std::max(FLAGS_caffe2_log_level, kErrors);
}

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

struct Rendezvous::Impl {
  c10::intrusive_ptr<c10d::Store> store;
  std::string prefix;
  int64_t port = 0;
};

Rendezvous::Rendezvous(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Rendezvous::Rendezvous(Rendezvous&&) noexcept = default;
Rendezvous::~Rendezvous() = default;

Rendezvous Rendezvous::host() {
  Listener listener(/*loopback=*/true, /*port=*/0);
  const int64_t port = listener.port();
  const c10d::TCPStoreOptions options = server_on(listener.release(), port);
  auto impl = std::make_unique<Impl>();
  auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  impl->port = store->getPort();
  impl->store = store;
  return Rendezvous(std::move(impl));
}

Rendezvous::Rendezvous(const RankEnvironment& e, double timeout_s)
    : impl_(std::make_unique<Impl>()) {
  quiet_c10d();
  if (e.rank != 0 || e.hosted) wait_for_host(e, timeout_s);
  const bool hosts = e.rank == 0 && !e.hosted;
  try {
    c10d::TCPStoreOptions options;
    if (hosts && e.listener >= 0) {
      options = server_on(e.listener, e.master_port);
    } else if (hosts) {
      Listener listener(e.master_host == "127.0.0.1", e.master_port);
      options = server_on(listener.release(), e.master_port);
    }
    options.port = static_cast<uint16_t>(e.master_port);
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_s);
    impl_->store = c10::make_intrusive<c10d::TCPStore>(e.master_host, options);
  } catch (const std::exception& failure) {
    const std::string why = split(failure.what(), '\n')[0];
    if (hosts)
      throw Error(
          "rank 0: {} (MASTER_PORT). Another job may use it; set MASTER_PORT to a free port", why);
    throw Error("rank {} reached nobody at {}:{} (MASTER_ADDR, MASTER_PORT) within {} s: {}",
                e.rank, e.master_host, e.master_port, timeout_s, why);
  }
  impl_->port = e.master_port;
  impl_->prefix = "ceiling/" + e.attempt + "/";
  const int64_t n_same = impl_->store->add(impl_->prefix + "joined/" + std::to_string(e.rank), 1);
  if (n_same != 1)
    throw Error(
        "rank {} is at {}:{} already: another job uses this MASTER_PORT, or two processes "
        "have the same rank",
        e.rank, e.master_host, e.master_port);
}

Rendezvous Rendezvous::clone() const {
  auto impl = std::make_unique<Impl>();
  impl->store = impl_->store->clone();
  impl->prefix = impl_->prefix, impl->port = impl_->port;
  return Rendezvous(std::move(impl));
}

int64_t Rendezvous::port() const { return impl_->port; }

void Rendezvous::set(const std::string& key, const std::string& value) {
  impl_->store->set(impl_->prefix + key, bytes(value));
}

std::optional<std::string> Rendezvous::read(const std::string& key) {
  if (!impl_->store->check({impl_->prefix + key})) return {};
  const std::vector<uint8_t> value = impl_->store->get(impl_->prefix + key);
  return std::string(value.begin(), value.end());
}

std::optional<std::string> Rendezvous::try_get(const std::string& key) {
  try {
    return read(key);
  } catch (const std::exception&) {
    return {};
  }
}

bool Rendezvous::set_first(const std::string& key, const std::string& value) {
  const std::string name = impl_->prefix + key;
  if (impl_->store->add(name + "/set", 1) != 1) return false;
  impl_->store->set(name, bytes(value));
  return true;
}

std::string Rendezvous::get(const std::string& key, const std::string& what, double timeout_s) {
  return get_while(key, what, timeout_s, [] { stop::check(); });
}

std::string Rendezvous::get_while(const std::string& key, const std::string& what, double timeout_s,
                                  const std::function<void()>& poll) {
  const auto deadline = Clock::now() + milliseconds(timeout_s);
  auto pause = std::chrono::milliseconds(1);
  for (;;) {
    try {
      if (auto value = read(key)) return *value;
    } catch (const std::exception&) {
      throw PeerLost("{}: the process that hosts the rendezvous has ended", what);
    }
    poll();
    if (Clock::now() > deadline) throw Error("{}: nothing came within {} s", what, timeout_s);
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::milliseconds(50));
  }
}

}  // namespace ceiling
