#include "parallel/peers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/stop.h"
#include "base/text.h"
#include "parallel/socket.h"

namespace ceiling {

namespace {

using Clock = std::chrono::steady_clock;

// The address by which this host is seen from the master's: of the route there. Nothing is sent.
std::string own_address(const std::string& master_host) {
  sockaddr_in master = ipv4_address(master_host, 9), mine{};
  const Socket probe(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  socklen_t length = sizeof mine;
  char text[INET_ADDRSTRLEN] = "127.0.0.1";
  if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&master), sizeof master) == 0 &&
      ::getsockname(probe.get(), reinterpret_cast<sockaddr*>(&mine), &length) == 0)
    ::inet_ntop(AF_INET, &mine.sin_addr, text, sizeof text);
  return text;
}

void make_ready(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);  // a host that lost its power
  ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
}

// What stands before each message: both sides must be at the same exchange, of the same size.
struct Header {
  uint64_t exchange, size_bytes;
};

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

}  // namespace

Peers::Peers(const RankEnvironment& e, Rendezvous& rendezvous, double timeout_s)
    : rank_(e.rank),
      timeout_s_(timeout_s),
      sockets_(static_cast<size_t>(e.size), -1),
      hosts_(static_cast<size_t>(e.size)),
      where_("the start") {
  try {
    connect(e, rendezvous);
  } catch (...) {
    for (const int socket : sockets_)
      if (socket >= 0) ::close(socket);
    throw;
  }
}

Peers::~Peers() {
  for (const int socket : sockets_)
    if (socket >= 0) ::close(socket);
}

// Every rank listens; rank r connects to all ranks below it.
void Peers::connect(const RankEnvironment& e, Rendezvous& rendezvous) {
  const Listener listener(e.master_host == "127.0.0.1", /*port=*/0);
  rendezvous.set("address/" + std::to_string(rank_),
                 fmt::format("{} {} {}", own_address(e.master_host), listener.port(), host_name()));

  for (int64_t peer = 0; peer < e.size; ++peer) {
    if (peer == rank_) continue;
    const std::vector<std::string> address = split(
        rendezvous.get(
            "address/" + std::to_string(peer),
            fmt::format("rank {} waits for rank {} of {}, which has not come", rank_, peer, e.size),
            timeout_s_),
        ' ');
    hosts_[static_cast<size_t>(peer)] = address.at(2);
    if (peer > rank_) continue;
    Socket socket(connect_to(address.at(0), *parse_int(address.at(1))));
    const int64_t hello = rank_;
    if (socket.get() < 0 ||
        ::send(socket.get(), &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello)
      throw PeerLost("rank {} cannot reach rank {} at {}:{}: {}", rank_, peer, address.at(0),
                     address.at(1), std::strerror(errno));
    make_ready(socket.get());
    sockets_[static_cast<size_t>(peer)] = socket.release();
  }
  const auto deadline = Clock::now() + std::chrono::duration<double>(timeout_s_);
  for (int64_t n_missing = e.size - 1 - rank_; n_missing > 0;) {
    pollfd waiting{listener.descriptor(), POLLIN, 0};
    if (::poll(&waiting, 1, 50) <= 0) {
      stop::check();
      if (Clock::now() > deadline)
        throw PeerLost("rank {}: {} ranks did not connect within {} s", rank_, n_missing,
                       timeout_s_);
      continue;
    }
    Socket socket(::accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC));
    int64_t peer = -1;
    if (::recv(socket.get(), &peer, sizeof peer, MSG_WAITALL) != sizeof peer || peer <= rank_ ||
        peer >= e.size || sockets_[static_cast<size_t>(peer)] >= 0)
      continue;  // not one of us
    make_ready(socket.get());
    sockets_[static_cast<size_t>(peer)] = socket.release();
    --n_missing;
  }
}

void Peers::set_where(std::string where) {
  const std::lock_guard lock(mutex_);
  where_ = std::move(where);
}

std::string Peers::where() const {
  const std::lock_guard lock(mutex_);
  return where_;
}

void Peers::throw_lost(int64_t rank, const std::string& what) const {
  throw PeerLost("rank {} on {} is gone, noticed by rank {} in {} at {}", rank,
                 hosts_[static_cast<size_t>(rank)], rank_, what, where());
}

int64_t Peers::lost() const {
  for (int64_t peer = 0; peer < size(); ++peer) {
    if (peer == rank_) continue;
    pollfd closed{sockets_[static_cast<size_t>(peer)], POLLRDHUP, 0};
    if (::poll(&closed, 1, 0) > 0 && (closed.revents & (POLLRDHUP | POLLHUP | POLLERR)))
      return peer;
  }
  return -1;
}

namespace {

// One direction of one connection within an exchange.
struct Stream {
  Header header{};
  char* data = nullptr;
  size_t size_bytes = 0, done = 0;  // header included
  bool finished() const { return done == sizeof header + size_bytes; }
  std::pair<char*, size_t> rest() {
    if (done < sizeof header)
      return {reinterpret_cast<char*>(&header) + done, sizeof header - done};
    return {data + (done - sizeof header), sizeof header + size_bytes - done};
  }
};

}  // namespace

void Peers::exchange(const std::vector<Part>& send, const std::vector<Part>& receive,
                     const std::string& what) {
  ++n_exchanges_;
  const size_t n = sockets_.size();
  std::vector<Stream> out(n), in(n);
  size_t n_open = 0;
  for (size_t peer = 0; peer < n; ++peer) {
    out[peer] = {.header = {n_exchanges_, send[peer].size_bytes},
                 .data = static_cast<char*>(send[peer].data),
                 .size_bytes = send[peer].size_bytes};
    in[peer] = {.header = {},
                .data = static_cast<char*>(receive[peer].data),
                .size_bytes = receive[peer].size_bytes};
    n_open += sockets_[peer] >= 0 ? 2 : 0;
  }
  auto last_progress = Clock::now();
  while (n_open > 0) {
    std::vector<pollfd> polled;
    std::vector<size_t> peer_of;
    for (size_t peer = 0; peer < n; ++peer) {
      if (sockets_[peer] < 0) continue;
      const int events = (in[peer].finished() ? 0 : POLLIN) | (out[peer].finished() ? 0 : POLLOUT);
      if (events == 0) continue;
      polled.push_back({sockets_[peer], static_cast<short>(events), 0});
      peer_of.push_back(peer);
    }
    const int n_ready = ::poll(polled.data(), polled.size(), 100);
    if (n_ready <= 0) {
      if (std::chrono::duration<double>(Clock::now() - last_progress).count() < timeout_s_)
        continue;
      throw PeerLost(
          "rank {} on {} has sent nothing for {} s (parallel.timeout), waited for by rank {} in {} "
          "at {}",
          peer_of.front(), hosts_[peer_of.front()], timeout_s_, rank_, what, where());
    }
    last_progress = Clock::now();
    for (size_t i = 0; i < polled.size(); ++i) {
      const size_t peer = peer_of[i];
      const auto lose = [&] { throw_lost(static_cast<int64_t>(peer), what); };
      if (polled[i].revents & (POLLIN | POLLHUP | POLLERR)) {
        Stream& stream = in[peer];
        if (!stream.finished()) {
          const auto [data, size_bytes] = stream.rest();
          const ssize_t got = ::recv(sockets_[peer], data, size_bytes, 0);
          if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) lose();
          if (got > 0) stream.done += static_cast<size_t>(got);
          if (stream.done >= sizeof stream.header &&
              (stream.header.exchange != n_exchanges_ ||
               stream.header.size_bytes != stream.size_bytes))
            throw PeerLost(
                "ranks {} and {} are not at the same place: exchange {} of {} bytes meets {} of {} "
                "bytes, in {} at {}",
                rank_, peer, n_exchanges_, stream.size_bytes, stream.header.exchange,
                stream.header.size_bytes, what, where());
          n_open -= stream.finished();
        } else {
          lose();
        }
      }
      if (polled[i].revents & POLLOUT) {
        Stream& stream = out[peer];
        const auto [data, size_bytes] = stream.rest();
        const ssize_t sent = ::send(sockets_[peer], data, size_bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) lose();
        if (sent > 0) stream.done += static_cast<size_t>(sent);
        n_open -= stream.finished();
      }
    }
  }
}

std::vector<std::string> Peers::gather(const std::string& mine, const std::string& what) {
  const size_t n = sockets_.size();
  uint64_t length = mine.size();
  std::vector<uint64_t> lengths(n, length);
  std::vector<Part> send(n), receive(n);
  for (size_t peer = 0; peer < n; ++peer)
    send[peer] = {&length, sizeof length}, receive[peer] = {&lengths[peer], sizeof length};
  exchange(send, receive, what);
  std::vector<std::string> texts(n);
  for (size_t peer = 0; peer < n; ++peer) {
    texts[peer] = static_cast<int64_t>(peer) == rank_ ? mine : std::string(lengths[peer], '\0');
    send[peer] = {const_cast<char*>(mine.data()), mine.size()};
    receive[peer] = {texts[peer].data(), texts[peer].size()};
  }
  exchange(send, receive, what);
  return texts;
}

}  // namespace ceiling
