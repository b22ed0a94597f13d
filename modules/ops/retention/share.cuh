// How wide_cuda.cu's blocks share the visits of a sweep. S is its Shape.
#pragma once
#include "modules/ops/retention/chunk.cuh"

namespace ceiling::gpu {

// A slice of a head (two heads) through time is a stream; of its visits, those that a block makes.
struct Stretch {
  int64_t heads, slice;  // which one: of groups of S::kHeads, of slices
  int begin, end, all;   // visits; of the whole stream
  __device__ bool begins_within() const { return begin > 0; }
  __device__ bool ends_within() const { return end < all; }
};

// The stretches of a block. As many blocks as streams have one each. Fewer, if they are dealt, have
// equal shares of all visits, so that a stream may begin in one block and end in the next. A block
// makes the begin of its last stream first, which waits for nobody, and hands on the state; then
// whole streams; then the end of its first, whose state has been there for long: shares are not
// shorter than streams, and blocks start in the order of their numbers. A head's slices are far
// apart, in blocks that are at the same place of it at the same time, and so find its query and key
// in L2.
template <class S, bool kBackward>
class Share {
 public:
  __device__ explicit Share(const GpuSweepParams& p) : all_(whole_walk(p).visits) {
    if constexpr (S::kDealt) {
      const int64_t streams = (p.n_dim + S::kSlice - 1) / S::kSlice * groups(p),
                    from = blockIdx.x * streams * all_ / gridDim.x,
                    to = (blockIdx.x + 1) * streams * all_ / gridDim.x;
      first_ = static_cast<int>(from / all_), last_ = static_cast<int>((to - 1) / all_);
      begin_ = static_cast<int>(from - int64_t{first_} * all_);
      end_ = static_cast<int>(to - int64_t{last_} * all_);
    }
  }
  __device__ static Walk<S::kC, kBackward> whole_walk(const GpuSweepParams& p) {
    return {p, S::kPass == Pass::kSegmentStates ? p.parts_of_segment : 1};
  }
  __device__ int count() const { return S::kDealt ? last_ - first_ + 1 : 1; }
  __device__ int visits() const {  // of all stretches
    return S::kDealt ? (last_ - first_) * all_ + end_ - begin_ : all_;
  }
  __device__ Stretch stretch(const GpuSweepParams& p, int i) const {
    if constexpr (!S::kDealt) return {blockIdx.y, blockIdx.x, 0, all_, all_};
    const int stream = last_ - i;
    return {stream % groups(p), stream / groups(p), stream == first_ ? begin_ : 0,
            stream == last_ ? end_ : all_, all_};
  }

 private:
  __device__ static int64_t groups(const GpuSweepParams& p) {
    return p.batch * p.heads / S::kHeads;
  }
  int all_, first_, last_, begin_, end_;
};

// A state between the block that has begun a stream and the one that ends it, from a warp to the
// same warp.
template <int kBlocks>
__device__ float4* handed_state(const GpuSweepParams& p, int64_t of_block) {
  return reinterpret_cast<float4*>(p.handed_states) + of_block * kBlocks * (kHandingWarps * kWarp) +
         threadIdx.x;
}
template <int kBlocks>
__device__ void hand_on_state(const float (&state)[kBlocks][4], const GpuSweepParams& p, int warp) {
  float4* to = handed_state<kBlocks>(p, blockIdx.x);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
    to[i * kHandingWarps * kWarp] = make_float4(state[i][0], state[i][1], state[i][2], state[i][3]);
  __syncwarp();
  if (threadIdx.x % kWarp == 0) set_flag(p.handed + blockIdx.x * kHandingWarps + warp);
  __syncwarp();
}
template <int kBlocks>
__device__ void take_state(float (&state)[kBlocks][4], const GpuSweepParams& p, int warp) {
  const int64_t giver = int64_t{blockIdx.x} - 1;
  if (threadIdx.x % kWarp == 0) wait_for_flag(p.handed + giver * kHandingWarps + warp);
  __syncwarp();
  const float4* from = handed_state<kBlocks>(p, giver);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const float4 x = from[i * kHandingWarps * kWarp];
    state[i][0] = x.x, state[i][1] = x.y, state[i][2] = x.z, state[i][3] = x.w;
  }
}

}  // namespace ceiling::gpu
