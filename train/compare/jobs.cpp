#include "train/compare/jobs.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/own_process.h"
#include "base/stop.h"
#include "base/text.h"
#include "train/logging.h"

namespace ceiling {

namespace {

std::string made_by_file(const std::string& out) { return out + ".made-by"; }

using Clock = std::chrono::steady_clock;

struct Running {
  Job job;
  OwnProcess process;
  int64_t slot;
  Clock::time_point start = Clock::now();
};

// What the slot's job sees of the machine: one of the GPUs that this process sees, and its share of
// the processor. Threads that are more than the cores wait for each other by spinning.
std::vector<std::pair<std::string, std::string>> environment_of(int64_t slot,
                                                                const JobOptions& options) {
  std::vector<std::pair<std::string, std::string>> variables;
  if (options.at_once > 1 && !std::getenv("OMP_NUM_THREADS"))
    variables.emplace_back("OMP_NUM_THREADS",
                           std::to_string(std::max<int64_t>(
                               1, std::thread::hardware_concurrency() / options.at_once)));
  if (options.n_gpus < 2) return variables;
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::vector<std::string> names =
      visible && *visible ? split(visible, ',') : std::vector<std::string>();
  const auto gpu = static_cast<size_t>(slot % options.n_gpus);
  variables.emplace_back("CUDA_VISIBLE_DEVICES",
                         gpu < names.size() ? names[gpu] : std::to_string(gpu));
  return variables;
}

class Queue {
 public:
  Queue(std::vector<Job> jobs, const JobOptions& options)
      : jobs_(std::move(jobs)), options_(options), free_(static_cast<size_t>(options.at_once)) {
    for (size_t i = 0; i < free_.size(); ++i) free_[i] = static_cast<int64_t>(free_.size() - 1 - i);
  }

  void run() {
    while (true) {
      while (failure_.empty() && !stop::requested() && next_ < jobs_.size() && !free_.empty())
        start();
      reap();
      if (running_.empty() && (next_ == jobs_.size() || !failure_.empty() || stop::requested()))
        break;
      show();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    status_.clear();
    stop::check();
    if (!failure_.empty()) throw Error(failure_);
  }

 private:
  void start() {
    const int64_t slot = free_.back();
    free_.pop_back();
    ++next_;
    spdlog::info("[{}/{}] {}", next_, jobs_.size(), jobs_[next_ - 1].name);
    start(std::move(jobs_[next_ - 1]), slot);
  }

  void start(Job job, int64_t slot) {
    OwnProcess::Options options;
    options.arguments = job.arguments;
    options.environment = environment_of(slot, options_);
    options.err = job.log;
    options.kept_descriptor = options_.kept_descriptor;
    options.out = job.out.empty() ? "/dev/null" : job.out + ".part";
    running_.push_back(
        std::make_unique<Running>(Running{std::move(job), OwnProcess(options), slot}));
  }

  void reap() {
    if (const int signal = stop::requested(); signal != 0 && !asked_) ask(signal);
    std::vector<std::unique_ptr<Running>> ended;
    for (auto& running : running_)
      if (!running->process.running()) ended.push_back(std::move(running));
    std::erase_if(running_, [](const auto& running) { return !running; });
    for (const auto& running : ended) finish(*running);
  }

  void finish(Running& ended) {
    const Job& job = ended.job;
    const int code = ended.process.code();
    if (!job.out.empty()) {
      if (code == 0) {
        write_file_atomic(job.out, read_file(job.out + ".part"));
        write_file_atomic(made_by_file(job.out), job.made_by);
      }
      fs::remove(job.out + ".part");
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - ended.start).count();
    if (code == 0 || (job.accept && job.accept(code))) {
      spdlog::info("{}: {} in {}", job.name, code == 0 ? "done" : "ended",
                   format_duration(seconds));
    } else if (!stop::requested() && failure_.empty()) {
      failure_ = fmt::format("{}: {} (the command was: {}; its log: {})", job.name,
                             ended.process.ended_by()
                                 ? fmt::format("ended by signal {}", ended.process.ended_by())
                                 : last_words(job.log),
                             command_text(job.arguments), job.log);
      ask(SIGTERM);
    }
    if (code == 0 && job.then && failure_.empty() && !stop::requested())
      start(*job.then, ended.slot);
    else
      free_.push_back(ended.slot);
  }

  void ask(int signal) {
    asked_ = true;
    for (auto& running : running_) running->process.ask_to_stop(signal);
  }

  void show() {
    if (!status_.shown() || Clock::now() < next_show_) return;
    next_show_ = Clock::now() + std::chrono::milliseconds(500);
    std::string text;
    for (const auto& running : running_)
      if (running->job.progress)
        text += fmt::format("{}{}: {}", text.empty() ? "" : " | ", running->job.name,
                            running->job.progress());
    if (!text.empty()) status_.show(text);
  }

  std::vector<Job> jobs_;
  JobOptions options_;
  std::vector<int64_t> free_;  // slots
  std::vector<std::unique_ptr<Running>> running_;
  size_t next_ = 0;
  bool asked_ = false;
  std::string failure_;
  StatusLine status_;
  Clock::time_point next_show_{};
};

}  // namespace

bool has_output(const Job& job) {
  const std::string made_by = made_by_file(job.out);
  return fs::exists(job.out) && fs::exists(made_by) && read_file(made_by) == job.made_by;
}

void remove_output(const std::string& out) {
  fs::remove(made_by_file(out));
  fs::remove(out);
}

void run_jobs(std::vector<Job> jobs, const JobOptions& options) {
  Queue(std::move(jobs), options).run();
}

std::string last_words(const std::string& log) {
  std::string text;
  try {
    text = read_file(log);
  } catch (const Error&) {
    return "it said nothing";
  }
  constexpr std::string_view kHint = "Run with --help for more information.";  // CLI11's last line
  const auto drop_newlines = [&] {
    while (!text.empty() && text.back() == '\n') text.pop_back();
  };
  drop_newlines();
  if (text.ends_with(kHint)) text.resize(text.size() - kHint.size());
  drop_newlines();
  const size_t error = text.rfind("ceiling: error: ");
  if (error != std::string::npos) return text.substr(error + 16);
  const std::string line = text.substr(text.find_last_of('\n') + 1);
  return line.empty() ? "it said nothing" : line;
}

std::string command_text(const std::vector<std::string>& arguments) {
  std::string text = "./ceiling";
  for (const std::string& argument : arguments) {
    const bool plain =
        !argument.empty() && std::all_of(argument.begin(), argument.end(), [](unsigned char c) {
          return c < 0x80 &&
                 (std::isalnum(c) || std::string_view("-_=./:,+@%").find(static_cast<char>(c)) !=
                                         std::string_view::npos);
        });
    if (plain) {
      text += " " + argument;
      continue;
    }
    text += " '";
    for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += "'";
  }
  return text;
}

}  // namespace ceiling
