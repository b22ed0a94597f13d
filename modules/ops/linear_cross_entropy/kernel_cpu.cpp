// Softmax, loss and gradient of rows of logits, in place: the row is read for its maximum, for its
// sum, and once more for the gradient, while it stays in cache.
#include "modules/ops/cpu_math.h"
#include "modules/ops/linear_cross_entropy/kernels.h"

namespace ceiling::CEILING_ISA {

void cross_entropy(const CrossEntropyParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const A cap = static_cast<A>(p.logit_cap);
    for (int64_t row = begin; row < end; ++row) {
      T* logits = static_cast<T*>(p.logits) + row * p.width;
      const int target = p.targets[row];
      A& loss = static_cast<A*>(p.loss)[row];
      A& z = static_cast<A*>(p.z)[row];
      loss = z = 0;
      if (target < 0) {
        if (p.want_grad)
          for (int64_t j = 0; j < p.width; ++j) logits[j] = 0;
        continue;
      }
      if (cap > 0) {
#pragma GCC ivdep
        for (int64_t j = 0; j < p.vocab_size; ++j) {
          const A e = exponential(A(2) * load(logits, j) / cap);
          store(logits, j, cap * (A(1) - A(2) / (e + A(1))));
        }
      }
      const A largest = lane_max<A>(p.vocab_size, A(-3e38),
                                    [&](int64_t j) { return static_cast<A>(load(logits, j)); });
      const A sum = lane_sum<A>(p.vocab_size, [&](int64_t j) {
        return exponential(static_cast<A>(load(logits, j)) - largest);
      });
      z = largest + static_cast<A>(log(sum));
      const A at_target = load(logits, target);
      loss = z - at_target;
      if (!p.want_grad) continue;
      // d/dx of logsumexp is softmax; the z term adds 2 z_loss z times it.
      const A scale = static_cast<A>(p.scale),
              softmax_scale = scale * (A(1) + A(2) * static_cast<A>(p.z_loss) * z) / sum;
      if (cap > 0) {
        for (int64_t j = 0; j < p.vocab_size; ++j) {
          const A value = load(logits, j), slope = A(1) - value * value / (cap * cap);
          const A d = softmax_scale * exponential(value - largest) - (j == target ? scale : A(0));
          store(logits, j, d * slope);
        }
      } else {
#pragma GCC ivdep
        for (int64_t j = 0; j < p.vocab_size; ++j)
          store(logits, j, softmax_scale * exponential(static_cast<A>(load(logits, j)) - largest));
        store(logits, target, softmax_scale * exponential(at_target - largest) - scale);
      }
      for (int64_t j = p.vocab_size; j < p.width; ++j) logits[j] = 0;
    }
  });
}

}  // namespace ceiling::CEILING_ISA
