#include "parallel/rank_environment.h"

#include <cstdlib>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {

using Variable = std::function<std::string(const std::string&)>;

int64_t number(const Variable& variable, const std::string& name) {
  const std::string text = variable(name);
  const auto value = parse_int(text);
  if (!value || *value < 0)
    throw Error("{}: '{}' is not a number of processes or ranks", name, text);
  return *value;
}

int64_t number_or(const Variable& variable, const std::string& name, int64_t otherwise) {
  return variable(name).empty() ? otherwise : number(variable, name);
}

// "node[03-07,12],other1" -> "node03".
std::string first_host(const std::string& list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const size_t end = list.find_first_of("-,]", bracket);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1);
}

// A port that all processes of a job compute alike and two jobs of one host seldom share.
int64_t port_of_job(const std::string& job) {
  uint64_t hash = 1469598103934665603u;  // FNV-1a
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return 20000 + static_cast<int64_t>(hash % 20000);
}

void check_rank(const RankEnvironment& e, const std::string& rank_name,
                const std::string& size_name) {
  if (e.size < 1) throw Error("{}: 0 processes are not possible", size_name);
  if (e.rank >= e.size)
    throw Error("{}={} but {}={}: ranks are 0 to {}", rank_name, e.rank, size_name, e.size,
                e.size - 1);
  if (e.local_rank >= e.local_size)
    throw Error("rank {}: local rank {} of {} processes on this host is not possible", e.rank,
                e.local_rank, e.local_size);
}

void check_port(const RankEnvironment& e) {
  if (e.size > 1 && (e.master_port < 1 || e.master_port > 65535))
    throw Error("MASTER_PORT={} is no port; set a free one of 1024 to 65535", e.master_port);
}

RankEnvironment from_torchrun(const Variable& variable) {
  for (const char* name : {"RANK", "WORLD_SIZE"})
    if (variable(name).empty())
      throw Error("{} is set and {} is not; a launcher sets both, to train in one process unset it",
                  name == std::string("RANK") ? "WORLD_SIZE" : "RANK", name);
  RankEnvironment e;
  e.launcher = variable(kLaunchedVariable).empty() ? "torchrun" : "ceiling";
  e.rank = number(variable, "RANK"), e.size = number(variable, "WORLD_SIZE");
  e.local_rank = number_or(variable, "LOCAL_RANK", e.rank);
  e.local_size = number_or(variable, "LOCAL_WORLD_SIZE", std::max(e.local_rank + 1, e.size));
  check_rank(e, "RANK", "WORLD_SIZE");
  if (e.size > 1)
    for (const char* name : {"MASTER_ADDR", "MASTER_PORT"})
      if (variable(name).empty())
        throw Error("WORLD_SIZE={} needs {}: where rank 0 is to be met", e.size, name);
  e.master_host = variable("MASTER_ADDR");
  e.master_port = number_or(variable, "MASTER_PORT", 0);
  e.hosted = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  if (e.launcher == "ceiling" && e.rank == 0)
    e.listener = static_cast<int>(number(variable, kListenerVariable));
  e.attempt = variable("TORCHELASTIC_RUN_ID") + "." + variable("TORCHELASTIC_RESTART_COUNT");
  check_port(e);
  return e;
}

void find_master(RankEnvironment& e, const Variable& variable, const std::string& host,
                 const std::string& job) {
  e.master_host = variable("MASTER_ADDR").empty() ? host : variable("MASTER_ADDR");
  if (e.master_host.empty())
    throw Error("{} started processes on several hosts; set MASTER_ADDR to the host of rank 0",
                e.launcher);
  e.master_port = number_or(variable, "MASTER_PORT", port_of_job(job));
  e.attempt = job;
}

RankEnvironment from_slurm(const Variable& variable) {
  RankEnvironment e;
  e.launcher = "SLURM";
  e.rank = number(variable, "SLURM_PROCID");
  const char* size_name =
      variable("SLURM_STEP_NUM_TASKS").empty() ? "SLURM_NTASKS" : "SLURM_STEP_NUM_TASKS";
  e.size = number_or(variable, size_name, 1);
  e.local_rank = number_or(variable, "SLURM_LOCALID", 0);
  e.local_size = std::max(e.local_rank + 1,
                          std::min(e.size, number_or(variable, "SLURM_NTASKS_PER_NODE", e.size)));
  const std::string nodes = variable("SLURM_STEP_NODELIST").empty()
                                ? variable("SLURM_NODELIST")
                                : variable("SLURM_STEP_NODELIST");
  check_rank(e, "SLURM_PROCID", size_name);
  find_master(e, variable, nodes.empty() ? "127.0.0.1" : first_host(nodes),
              "slurm" + variable("SLURM_JOB_ID") + "." + variable("SLURM_STEP_ID"));
  check_port(e);
  return e;
}

RankEnvironment from_mpi(const Variable& variable, bool open_mpi) {
  const std::string prefix = open_mpi ? "OMPI_COMM_WORLD_" : "PMI_";
  RankEnvironment e;
  e.launcher = "mpirun";
  e.rank = number(variable, prefix + "RANK"), e.size = number(variable, prefix + "SIZE");
  e.local_rank =
      number_or(variable, open_mpi ? "OMPI_COMM_WORLD_LOCAL_RANK" : "MPI_LOCALRANKID", e.rank);
  e.local_size =
      number_or(variable, open_mpi ? "OMPI_COMM_WORLD_LOCAL_SIZE" : "MPI_LOCALNRANKS", e.size);
  check_rank(e, prefix + "RANK", prefix + "SIZE");
  std::string job;
  for (const char* name :
       {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "HYDI_CONTROL_FD"})
    job += variable(name);
  find_master(e, variable, e.local_size == e.size ? "127.0.0.1" : "", "mpi" + job);
  check_port(e);
  return e;
}

}  // namespace

std::optional<RankEnvironment> read_rank_environment(const Variable& variable) {
  const auto is_set = [&](const char* name) { return !variable(name).empty(); };
  if (is_set("RANK") || is_set("WORLD_SIZE")) return from_torchrun(variable);
  // A batch script has SLURM_PROCID too, but is one process; srun's steps have a number.
  if (is_set("SLURM_PROCID") && is_set("SLURM_STEP_ID")) return from_slurm(variable);
  if (is_set("OMPI_COMM_WORLD_RANK")) return from_mpi(variable, /*open_mpi=*/true);
  if (is_set("PMI_RANK") && is_set("PMI_SIZE")) return from_mpi(variable, /*open_mpi=*/false);
  return {};
}

std::optional<RankEnvironment> read_rank_environment() {
  return read_rank_environment([](const std::string& name) -> std::string {
    const char* value = std::getenv(name.c_str());
    return value ? value : "";
  });
}

}  // namespace ceiling
