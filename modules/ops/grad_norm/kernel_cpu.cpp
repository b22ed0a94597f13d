// Bound: memory, one read of the buffer. Squares are taken in double: they neither overflow nor
// vanish.
#include "modules/ops/cpu_math.h"
#include "modules/ops/grad_norm/kernels.h"

namespace ceiling::CEILING_ISA {

void squared_norm_blocks(const SquaredNormParams& p, int64_t begin, int64_t end) {
  with_type(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* flat = static_cast<const T*>(p.flat);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t last =
          (block + 1) * kSquaredNormBlock < p.n ? (block + 1) * kSquaredNormBlock : p.n;
      const T* run = flat + block * kSquaredNormBlock;
      p.partial[block] = lane_sum<double>(last - block * kSquaredNormBlock, [&](int64_t j) {
        const double value = load(run, j);
        return value * value;
      });
    }
  });
}

}  // namespace ceiling::CEILING_ISA
