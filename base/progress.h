// How far a long piece of work is: on a terminal one line that rewrites itself, elsewhere a log
// line every ten seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace ceiling {

class Progress {
 public:
  // `total` in the units that update() counts; 0: unknown, so there is no percentage and no ETA.
  Progress(std::string what, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Cheap: shows something at most every 0.2 s. `work_bytes` is what the rate in MB/s counts.
  void update(int64_t done, int64_t work_bytes);
  double seconds() const;  // since the start

 private:
  std::string what_;
  int64_t total_;
  bool terminal_, shown_ = false;
  std::chrono::steady_clock::time_point start_, next_;
};

}  // namespace ceiling
