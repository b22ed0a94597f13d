#include "modules/ops/ssd/inputs.h"

#include <ATen/ops/empty.h>

namespace ceiling {

at::Tensor of_heads(const at::Tensor& group, int64_t heads) {
  const int64_t groups = group.size(2), each = heads / groups;
  if (each == 1) return group;
  at::Tensor wide = group.unsqueeze(3).expand({-1, -1, -1, each, -1});
  if (groups == 1) return wide.squeeze(2);
  return wide.flatten(2, 3);  // of a few groups: a copy
}

at::Tensor flat_rows(const at::Tensor& x) {
  const at::Tensor rows = x.flatten(2);
  return rows.stride(2) == 1 || rows.size(2) == 1 ? rows : rows.contiguous();
}

SsdInputs::SsdInputs(const at::Tensor& x_in, const at::Tensor& dt_in, const at::Tensor& b_in,
                     const at::Tensor& c_in, const at::Tensor& a_log_in, const at::Tensor& d_in,
                     const at::Tensor& dt_bias_in, const at::Tensor& state_in,
                     const at::Tensor& start_in, const SsdOptions& options_in)
    : x(x_in),
      dt(dt_in.stride(2) == 1 || dt_in.size(2) == 1 ? dt_in : dt_in.contiguous()),
      b(b_in),
      c(c_in),
      a_log(a_log_in.contiguous()),
      d(d_in.contiguous()),
      dt_bias(dt_bias_in.contiguous()),
      state(state_in),
      start(start_in),
      options(options_in),
      x_rows(flat_rows(x_in)),
      log_decay(at::empty(dt_in.sizes(), x_in.options().dtype(wide_type(x_in)))) {
  p.type = cpu_type(x, "ssd");
  p.batch = x.size(0), p.seq_len = x.size(1), p.heads = x.size(2), p.dim = x.size(3);
  p.dt_min = options.dt_min, p.dt_max = options.dt_max;
  p.x = rows_of(x_rows), p.dt = rows_of(dt);
  p.a_log = a_log.const_data_ptr(), p.d = d.const_data_ptr(), p.dt_bias = dt_bias.const_data_ptr();
  p.log_decay = log_decay.mutable_data_ptr();
}

}  // namespace ceiling
