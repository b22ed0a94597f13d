#include "parallel/socket.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace ceiling {

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int Socket::release() { return std::exchange(descriptor_, -1); }

sockaddr_in ipv4_address(const std::string& host, int64_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  const int failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failure != 0 || !found) throw Error("{}: unknown host: {}", host, ::gai_strerror(failure));
  sockaddr_in address = *reinterpret_cast<sockaddr_in*>(found->ai_addr);
  ::freeaddrinfo(found);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

int connect_to(const std::string& host, int64_t port) {
  const sockaddr_in to = ipv4_address(host, port);
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return -1;
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0)
    return socket.release();
  const int why = errno;
  ::close(socket.release());
  errno = why;
  return -1;
}

Listener::Listener(bool loopback, int64_t port)
    : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  // A port whose last connections are still winding down is free.
  const int on = 1;
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(port));
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(socket_.get(), generic, sizeof address) != 0 || ::listen(socket_.get(), 1024) != 0 ||
      ::getsockname(socket_.get(), generic, &length) != 0)
    throw Error("cannot listen on port {}: {}", port, std::strerror(errno));
  port_ = ntohs(address.sin_port);
}

}  // namespace ceiling
