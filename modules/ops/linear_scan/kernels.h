#pragma once
#include "modules/ops/cpu_isa.h"

namespace ceiling {

struct ScanRows {  // [B, T, D], unit stride along D
  const void* data;
  int64_t batch_stride, time_stride;  // elements
};

constexpr int kScanInputs = 3;

struct LinearScanParams {
  CpuType type;                 // of the inputs, h and their gradients
  int64_t batch, seq_len, dim;  // B, T, D
  ScanRows input[kScanInputs];  // linear_scan: a, b.  rg_lru: x, recurrence, input
  const void* parameter[3];     // rg_lru: lambda and the biases, [D] float (double for kDouble)
  const unsigned char* start;   // [B, T] or null
  const void* state_in;         // [B, D] float (double) or null: every row starts a document
  void* h;                      // [B, T, D] contiguous; backward reads it
  void* state_out;              // [B, D] float (double)
  ScanRows dh;                  // backward
  const void* dstate_out;       // [B, D] or null: zeros
  void* dinput[kScanInputs];    // [B, T, D] contiguous
  void* dstate_in;              // [B, D], where state_in is given
  void* dparameter_partial;     // rg_lru: [partials, 3, D], float (double): a CPU one for each row
};

constexpr int64_t kScanChannels = 64;  // of a task

CEILING_CPU_KERNEL(linear_scan_forward, LinearScanParams);   // over B ceil(D / kScanChannels)
CEILING_CPU_KERNEL(linear_scan_backward, LinearScanParams);  // over the same
CEILING_CPU_KERNEL(rg_lru_forward, LinearScanParams);        // over the same
CEILING_CPU_KERNEL(rg_lru_backward, LinearScanParams);       // over the same

}  // namespace ceiling
