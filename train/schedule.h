// The learning rate as a function of the step, by closed form: nothing to store, the same after a
// resume.
#pragma once
#include <cstdint>
#include <string>

namespace ceiling {

struct Schedule {
  std::string shape = "cosine";  // cosine, linear, wsd, constant
  double peak = 0;               // learning rate after warm-up
  double low = 0;                // learning rate that the shape falls to
  int64_t warmup_steps = 0;      // rises linearly: peak * step / warmup_steps
  int64_t decay_steps = 0;       // wsd: the last steps, in which it falls linearly
  int64_t steps = 1;             // of the whole run

  // `step` counts from 1. The first step after warm-up has the peak, so a run of one step trains at
  // the peak.
  double at(int64_t step) const;
};

}  // namespace ceiling
