// Which of how many processes this one is, as the launcher's environment variables say.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace ceiling {

struct RankEnvironment {
  std::string launcher;  // "torchrun", "SLURM", "mpirun", "ceiling": for messages
  int64_t rank = 0, size = 1;
  int64_t local_rank = 0, local_size = 1;  // among the processes of this host
  std::string master_host = "127.0.0.1";
  int64_t master_port = 0;
  bool hosted = false;  // the launcher itself listens there; otherwise rank 0 does
  int listener = -1;    // rank 0: the listening socket that it was started with, if any
  std::string attempt;  // tells apart the starts of one job that share a rendezvous
};

// How ceiling tells its own processes; beside the variables of torchrun.
inline constexpr char kLaunchedVariable[] = "CEILING_LAUNCHED";
inline constexpr char kListenerVariable[] = "CEILING_LISTENER";

// From the variables of torchrun (RANK, WORLD_SIZE, ...), SLURM's srun or an MPI launcher. Nothing
// where none of them started this process. Error names the variable that is missing or impossible.
// `variable`: the value of an environment variable; empty: not set.
std::optional<RankEnvironment> read_rank_environment(
    const std::function<std::string(const std::string&)>& variable);
std::optional<RankEnvironment> read_rank_environment();

}  // namespace ceiling
