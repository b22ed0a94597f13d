#include "parallel/launcher.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/own_process.h"
#include "base/stop.h"
#include "parallel/rank_environment.h"
#include "parallel/socket.h"

namespace ceiling {

namespace {

using Clock = std::chrono::steady_clock;

// After one has failed: to notice by themselves, and to obey a request.
constexpr double kToNotice_s = 30, kToObey_s = 15;

// Rank 0 gets the listening socket `listener`: no other job can take the port before it serves
// there, and the others can connect already.
OwnProcess start(int64_t rank, int64_t n_ranks, const Listener& listener) {
  OwnProcess::Options options;
  options.arguments = own_arguments();
  options.environment = {{"RANK", std::to_string(rank)},
                         {"WORLD_SIZE", std::to_string(n_ranks)},
                         {"LOCAL_RANK", std::to_string(rank)},
                         {"LOCAL_WORLD_SIZE", std::to_string(n_ranks)},
                         {"MASTER_ADDR", "127.0.0.1"},
                         {"MASTER_PORT", std::to_string(listener.port())},
                         {"TORCHELASTIC_RUN_ID", ""},
                         {"TORCHELASTIC_RESTART_COUNT", ""},
                         {"TORCHELASTIC_USE_AGENT_STORE", ""},
                         {kListenerVariable, std::to_string(listener.descriptor())},
                         {kLaunchedVariable, "1"}};
  if (rank == 0) options.kept_descriptor = listener.descriptor();
  return OwnProcess(options);
}

struct Rank {
  OwnProcess process;
  bool running = true;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Notes whatever has ended. False once none is running.
bool reap(std::vector<Rank>& ranks, int& first_failure) {
  bool any = false;
  for (size_t i = 0; i < ranks.size(); ++i) {
    Rank& rank = ranks[i];
    if (rank.running && !rank.process.running()) {
      rank.running = false;
      if (const int signal = rank.process.ended_by())
        spdlog::error(
            "rank {} was ended by signal {} ({}){}", i, signal, ::strsignal(signal),
            signal == SIGKILL ? "; if nobody sent it, the memory of this host was exhausted" : "");
      if (first_failure == 0) first_failure = rank.process.code();
    }
    any |= rank.running;
  }
  return any;
}

template <class Act>
void to_running(std::vector<Rank>& ranks, const Act& act) {
  for (Rank& rank : ranks)
    if (rank.running) act(rank.process);
}

}  // namespace

int launch_ranks(int64_t n_ranks) {
  std::optional<Listener> listener(std::in_place, /*loopback=*/true, /*port=*/0);
  std::vector<Rank> ranks;
  for (int64_t rank = 0; rank < n_ranks; ++rank) ranks.push_back({start(rank, n_ranks, *listener)});
  listener.reset();  // from here on the port answers as long as rank 0 lives
  int first_failure = 0;
  bool passed_on = false, asked = false, killed = false;
  Clock::time_point failed_at{};
  while (reap(ranks, first_failure)) {
    if (const int signal = stop::requested(); signal && !passed_on) {
      passed_on = true;
      to_running(ranks, [&](OwnProcess& process) { process.ask_to_stop(signal); });
    }
    if (first_failure != 0) {
      if (failed_at == Clock::time_point{}) failed_at = Clock::now();
      const double waited_s = seconds_since(failed_at);
      if (waited_s > kToNotice_s && !asked) {
        asked = true;
        to_running(ranks, [](OwnProcess& process) { process.send(SIGTERM); });
      } else if (waited_s > kToNotice_s + kToObey_s && !killed) {
        killed = true;
        to_running(ranks, [](OwnProcess& process) { process.send(SIGKILL); });
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return first_failure;
}

}  // namespace ceiling
