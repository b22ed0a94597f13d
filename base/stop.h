// The request to stop: SIGINT, SIGTERM, SIGUSR1 and SIGHUP set a flag that long work polls. A
// second signal (more than 50 ms later: a terminal sends one to the whole group) ends the process
// at once; nothing is left half-written, because whatever is pending has a temporary name. A SIGHUP
// that was ignored before, as by nohup, stays ignored.
#pragma once

namespace ceiling::stop {

void install_handlers();  // once, at the start of main
// Asks a process of ours to stop as `signal` would; asked twice it does no more than once, because
// the process may have received the signal itself.
void forward(int process, int signal);
// What is started while one of these lives keeps a forwarded request until its install_handlers(),
// however early the request comes: without handlers it would end the process.
class HoldForwarded {
 public:
  HoldForwarded();
  ~HoldForwarded();
  HoldForwarded(const HoldForwarded&) = delete;
  HoldForwarded& operator=(const HoldForwarded&) = delete;

 private:
  bool held_before_;
};
int requested();  // the signal's number, or 0
void check();     // throws Interrupted if requested
void reset();     // for tests

// A temporary folder or file that an immediate exit (second signal) must not leave behind: a child
// process removes it once this one is gone. At most 8 at a time; path up to 4095 bytes.
void register_pending(const char* path);
void unregister_pending(const char* path);

}  // namespace ceiling::stop
