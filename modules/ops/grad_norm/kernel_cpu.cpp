// Bound: memory, one read of the buffer. Squares are added in float lanes within runs of 512, then
// in double.
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
      double total = 0;
      for (int64_t i = block * kSquaredNormBlock; i < last; i += 512) {
        const int64_t run = last - i < 512 ? last - i : 512;
        total += static_cast<double>(lane_sum<Acc<T>>(
            run, [&](int64_t j) { return load(flat + i, j) * load(flat + i, j); }));
      }
      p.partial[block] = total;
    }
  });
}

}  // namespace ceiling::CEILING_ISA
