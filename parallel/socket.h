// TCP sockets, closed when they go.
#pragma once
#include <netinet/in.h>

#include <cstdint>
#include <string>

namespace ceiling {

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}  // negative: none
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return descriptor_; }
  int release();  // the caller closes it

 private:
  int descriptor_;
};

sockaddr_in ipv4_address(const std::string& host, int64_t port);  // Error: unknown host
// The descriptor of a connection; -1 and errno if there is none.
int connect_to(const std::string& host, int64_t port);

// Listens on an IPv4 port: of this host's loopback only, or of all its addresses. Port 0: a free
// one.
class Listener {
 public:
  Listener(bool loopback, int64_t port);  // Error with the system's reason
  int64_t port() const { return port_; }
  int descriptor() const { return socket_.get(); }
  int release() { return socket_.release(); }

 private:
  Socket socket_;
  int64_t port_ = 0;
};

}  // namespace ceiling
