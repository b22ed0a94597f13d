// Commands of `ceiling` run one after another, or several at a time, each in a process of its own.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace ceiling {

struct Job {
  std::string name;                    // in progress lines
  std::vector<std::string> arguments;  // of `ceiling`
  std::string log;                     // file for what it says (stderr)
  std::string out;                     // file for what it prints, complete or absent; may be empty
  // With `out`: what decides its content, as in the options of the command. Kept beside it.
  std::string made_by;
  // How far it is, for the progress line; may be empty.
  std::function<std::string()> progress;
  std::shared_ptr<Job> then;  // runs next, in the same place, if this one ended well; may be null
  // Exit codes other than 0 that are a result too: true if taken as one.
  std::function<bool(int code)> accept;
};

struct JobOptions {
  int64_t at_once = 1;       // several: each gets its share of the processor
  int64_t n_gpus = 0;        // several: the jobs are spread over them
  int kept_descriptor = -1;  // of a lock that lasts as long as any of the jobs
};

// Whether `job.out` is there and was made by the same.
bool has_output(const Job& job);
// Removes the file `out` of a job, and what says how it was made.
void remove_output(const std::string& out);

// Runs all. A request to stop is passed on, and Interrupted is thrown once all have ended. Where
// one fails, the others are asked to stop and the Error has its last words and its log.
void run_jobs(std::vector<Job> jobs, const JobOptions& options);

// The message of the Error that ended the command whose log this is, or its last line.
std::string last_words(const std::string& log);

// The command line that starts it again, for a shell.
std::string command_text(const std::vector<std::string>& arguments);

}  // namespace ceiling
