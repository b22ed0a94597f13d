// Rows of a table, by token.
#pragma once
#include <ATen/core/Tensor.h>

#include "modules/parameter.h"

namespace ceiling {

// tokens [B, T] int32 or int64, weight [rows, D] -> scale * weight[token] [B, T, D].
// Backward: weight.grad[token] += scale * dy, in token order: deterministic for any number of
// threads. Error on a token outside [0, rows) (on a GPU torch's own device assertion).
at::Tensor embedding(const at::Tensor& tokens, const Parameter& weight, double scale);

}  // namespace ceiling
