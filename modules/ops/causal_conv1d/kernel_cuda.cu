// Causal convolution on a GPU.
// Bound:  HBM. Bytes per element in bfloat16: 4 forward, 6 backward.
// Floor:  at 3.0 TB/s, 32,768 tokens x 4,352 channels: 0.19 ms and 0.285 ms.
// Layout: a thread owns a few neighbouring channels and walks through kSteps tokens; the earlier
//   inputs that its taps reach stay in registers, and are cleared where a document starts. Rows
//   are asked for kAhead batches before they are needed, into the thread's own shared memory. The
//   W - 1 inputs before its piece are read twice. Backward, an input's gradient is complete when
//   the token that reads it last has passed; W of them are under way in registers. Weight gradients
//   are summed by a thread over its tokens, then over the warps of its block in order; the host
//   adds up the blocks.
// Limits: channels that are no multiple of a pack, and rows that begin between such multiples, take
//   one channel per thread.
#include <type_traits>

#include "modules/ops/causal_conv1d/cuda.h"
#include "modules/ops/cuda/vector.cuh"

namespace ceiling {
namespace {

using namespace gpu;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kSteps = kConvGpuTokens / kWarps;  // tokens of a thread
constexpr int kBatch = 4;                        // of which are read at a time
constexpr int kAhead = 3;                        // batches on their way while one is worked on
static_assert(kSteps % kBatch == 0);

int64_t blocks_of_row(const CausalConv1dParams& p) {
  return (p.seq_len + kConvGpuTokens - 1) / kConvGpuTokens;
}

// A thread's share: N channels from `channel` on, tokens [first, end) of row b.
template <class T, int W, int N>
struct Piece {
  const CausalConv1dParams& p;
  int64_t time_block, b, channel, first, end;
  bool present;

  __device__ explicit Piece(const CausalConv1dParams& params) : p(params) {
    const int64_t channel_blocks = (p.channels + kWarp * N - 1) / (kWarp * N);
    const int64_t per_row = (p.seq_len + kConvGpuTokens - 1) / kConvGpuTokens;
    time_block = blockIdx.x / channel_blocks;
    b = time_block / per_row;
    channel = (blockIdx.x % channel_blocks * kWarp + threadIdx.x % kWarp) * N;
    first = time_block % per_row * kConvGpuTokens + threadIdx.x / kWarp * kSteps;
    end = min(first + kSteps, p.seq_len);
    present = channel < p.channels && first < p.seq_len;
  }
  __device__ bool starts(int64_t t) const { return p.start && p.start[b * p.seq_len + t]; }
  __device__ void read(const void* from, int64_t row, float (&to)[N]) const {
    load<N>(static_cast<const T*>(from) + row * p.channels + channel, to);
  }
  __device__ void write(void* to, int64_t row, const float (&from)[N]) const {
    store<N>(static_cast<T*>(to) + row * p.channels + channel, from);
  }
  __device__ const T* x_rows() const {
    return static_cast<const T*>(p.x) + b * p.x_batch_stride + first * p.x_time_stride + channel;
  }
  __device__ const T* dy_rows() const {
    return static_cast<const T*>(p.dy) + (b * p.seq_len + first) * p.channels + channel;
  }
  // The t-th input, or one of the state for t < 0.
  __device__ void input(int64_t t, float (&to)[N]) const {
    if (t >= 0)
      load<N>(static_cast<const T*>(p.x) + b * p.x_batch_stride + t * p.x_time_stride + channel,
              to);
    else if (p.state)
      read(p.state, b * (W - 1) + t + W - 1, to);
    else
      for (float& x : to) x = 0;
  }
};

// A thread's channels of rows [0, rows), kBatch rows at a time. They pass through places in shared
// memory that no other thread touches, so that many are on their way without taking registers.
template <class T, int N>
class Stream {
 public:
  static constexpr int kPlaces = kAhead + 1;
  using Room = Pack<T, N>[kPlaces][kBatch][kThreads];
  __device__ Stream(Room& room, const T* from, int64_t row_stride, int64_t rows)
      : room_(room), from_(from), row_stride_(row_stride), rows_(static_cast<int>(rows)) {}
  // Batch n, n = 0, 1, ... in turn; into the place of batch n - kPlaces, which is used up.
  __device__ void ask(int n) {
    if constexpr (kAsync) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if (n * kBatch + j < rows_)
          copy_async<sizeof(Pack<T, N>)>(shared_address(&room_[n % kPlaces][j][threadIdx.x]),
                                         from_ + j * row_stride_);
      from_ += kBatch * row_stride_;
    }
  }
  // Batch n, which has arrived; rows that do not exist are undefined.
  __device__ void take(int n, float (&to)[kBatch][N]) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if constexpr (kAsync) {
        load<N>(room_[n % kPlaces][j][threadIdx.x].at, to[j]);
      } else if (n * kBatch + j < rows_) {
        load<N>(from_ + j * row_stride_, to[j]);
      }
    }
    if (!kAsync) from_ += kBatch * row_stride_;
  }

 private:
  static constexpr bool kAsync = sizeof(Pack<T, N>) >= 4;  // the smallest asynchronous copy
  Room& room_;
  const T* from_;
  int64_t row_stride_;
  int rows_;
};

template <int W, int N>
struct Weights {
  float tap[W][N], bias[N];

  __device__ Weights(const CausalConv1dParams& p, int64_t channel) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < W; ++k)
        tap[k][i] = static_cast<const float*>(p.weight)[k * p.channels + channel + i];
      bias[i] = static_cast<const float*>(p.bias)[channel + i];
    }
  }
};

// The W - 1 inputs before the present token, zero where it does not see them.
template <int W, int N>
struct Window {
  float at[W - 1][N] = {};
  int seen = W - 1;  // how many of them belong to the document; those of the state do

  template <class T>
  __device__ explicit Window(const Piece<T, W, N>& piece) {
#pragma unroll
    for (int j = W - 1; j > 0; --j) {
      const int64_t t = piece.first - j;
      if (t >= 0 && piece.starts(t)) clear();
      float x[N];
      piece.input(t, x);
      push(x);
    }
  }
  __device__ void clear() {
    seen = 0;
#pragma unroll
    for (int j = 0; j < W - 1; ++j)
#pragma unroll
      for (int i = 0; i < N; ++i) at[j][i] = 0;
  }
  __device__ void push(const float (&x)[N]) {
    seen = min(seen + 1, W - 1);
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j < W - 2; ++j) at[j][i] = at[j + 1][i];
      at[W - 2][i] = x[i];
    }
  }
  __device__ float sum(const Weights<W, N>& w, const float (&x)[N], int i) const {
    float sum = w.bias[i] + w.tap[W - 1][i] * x[i];
#pragma unroll
    for (int j = 0; j < W - 1; ++j) sum += w.tap[j][i] * at[j][i];
    return sum;
  }
};

template <class T, int W, int N>
__global__ __launch_bounds__(kThreads, 6) void forward_kernel(const CausalConv1dParams p) {
  const Piece<T, W, N> piece(p);
  if (!piece.present) return;
  __shared__ typename Stream<T, N>::Room room;
  Stream<T, N> xs(room, piece.x_rows(), p.x_time_stride, piece.end - piece.first);
#pragma unroll
  for (int n = 0; n < kAhead; ++n) xs.ask(n), commit_copies();
  const Weights<W, N> weights(p, piece.channel);
  Window<W, N> window(piece);
  int n = 0;
  for (int64_t t = piece.first; t < piece.end; t += kBatch, ++n) {
    float x[kBatch][N];
    wait_copies<kAhead - 1>();
    xs.take(n, x);
    xs.ask(n + kAhead);
    commit_copies();
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (t + j >= piece.end) break;
      if (piece.starts(t + j)) window.clear();
      float y[N];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float sum = window.sum(weights, x[j], i);
        y[i] = p.silu ? sum * sigmoid(sum) : sum;
      }
      piece.write(p.y, piece.b * p.seq_len + t + j, y);
      window.push(x[j]);
    }
  }
  if (piece.end < p.seq_len) return;
#pragma unroll
  for (int j = 0; j < W - 1; ++j) piece.write(p.state_out, piece.b * (W - 1) + j, window.at[j]);
}

// Gradients of inputs t - (W - 1) .. t while token t is passed, and of the weights.
template <class T, int W, int N>
__global__ __launch_bounds__(kThreads, 4) void backward_kernel(const CausalConv1dParams p) {
  const Piece<T, W, N> piece(p);
  float dweight[W + 1][N] = {};
  __shared__ typename Stream<T, N>::Room room[2];
  if (piece.present) {
    const int64_t last = piece.end + W - 1, until = min(last, p.seq_len);
    Stream<T, N> xs(room[0], piece.x_rows(), p.x_time_stride, until - piece.first),
        dys(room[1], piece.dy_rows(), p.channels, until - piece.first);
#pragma unroll
    for (int n = 0; n < kAhead; ++n) xs.ask(n), dys.ask(n), commit_copies();
    const Weights<W, N> weights(p, piece.channel);
    Window<W, N> window(piece);
    int seen = window.seen;  // earlier tokens that the present one sees
    float dx[W][N] = {};
    int n = 0;
    for (int64_t t = piece.first; t < last; t += kBatch, ++n) {
      float x[kBatch][N], dy[kBatch][N];
      wait_copies<kAhead - 1>();
      xs.take(n, x), dys.take(n, dy);
      xs.ask(n + kAhead), dys.ask(n + kAhead);
      commit_copies();
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (t + j >= last) break;
        if (t + j < p.seq_len) {
          if (piece.starts(t + j)) window.clear();
          seen = window.seen;
          const bool mine = t + j < piece.end;
#pragma unroll
          for (int i = 0; i < N; ++i) {
            float d = dy[j][i];
            if (p.silu) {
              const float sum = window.sum(weights, x[j], i), s = sigmoid(sum);
              d *= s * (1.0f + sum * (1.0f - s));
            }
#pragma unroll
            for (int k = 0; k < W; ++k)
              if (W - 1 - k <= seen) dx[k][i] += weights.tap[k][i] * d;
            if (!mine) continue;
#pragma unroll
            for (int k = 0; k < W - 1; ++k) dweight[k][i] += d * window.at[k][i];
            dweight[W - 1][i] += d * x[j][i];
            dweight[W][i] += d;
          }
          window.push(x[j]);
        }
        // No later token reads input s.
        const int64_t s = t + j - (W - 1);
        if (s >= piece.first || (s < 0 && piece.first == 0)) {
          const int64_t age = p.seq_len - 1 - s;
          if (p.dstate_out && age < W - 1 && age <= seen) {
            float kept[N];
            piece.read(p.dstate_out, piece.b * (W - 1) + W - 2 - age, kept);
#pragma unroll
            for (int i = 0; i < N; ++i) dx[0][i] += kept[i];
          }
          if (s >= 0)
            piece.write(p.dx, piece.b * p.seq_len + s, dx[0]);
          else if (p.dstate)
            piece.write(p.dstate, piece.b * (W - 1) + s + W - 1, dx[0]);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
          for (int k = 0; k < W - 1; ++k) dx[k][i] = dx[k + 1][i];
          dx[W - 1][i] = 0;
        }
      }
    }
  }
  __shared__ float totals[W + 1][N][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int turn = 0; turn < kWarps; ++turn) {
    if (warp == turn)
#pragma unroll
      for (int k = 0; k <= W; ++k)
#pragma unroll
        for (int i = 0; i < N; ++i)
          totals[k][i][lane] = turn == 0 ? dweight[k][i] : totals[k][i][lane] + dweight[k][i];
    __syncthreads();
  }
  if (warp != 0 || piece.channel >= p.channels) return;
  float* partial = static_cast<float*>(p.partial) + piece.time_block * (W + 1) * p.channels;
#pragma unroll
  for (int k = 0; k <= W; ++k)
#pragma unroll
    for (int i = 0; i < N; ++i) partial[k * p.channels + piece.channel + i] = totals[k][i][lane];
}

bool whole(const CausalConv1dParams& p, int64_t n) {
  for (const void* pointer :
       {p.x, p.state, static_cast<const void*>(p.y), static_cast<const void*>(p.state_out), p.dy,
        p.dstate_out, static_cast<const void*>(p.dx), static_cast<const void*>(p.dstate)})
    if (!aligned16(pointer)) return false;
  return p.channels % n == 0 && p.x_time_stride % n == 0 && p.x_batch_stride % n == 0;
}

template <class Body>
void with_width(int64_t width, const Body& body) {
  if (width == 2) return body(std::integral_constant<int, 2>());
  if (width == 3) return body(std::integral_constant<int, 3>());
  return body(std::integral_constant<int, 4>());
}

unsigned blocks_for(const CausalConv1dParams& p, int64_t n) {
  const int64_t channels = kWarp * n;
  return static_cast<unsigned>(p.batch * blocks_of_row(p) *
                               ((p.channels + channels - 1) / channels));
}

void launch_forward(const CausalConv1dParams& p, void* stream) {
  if (p.batch == 0 || p.channels == 0) return;
  with_type(p.type, [&](auto type) {
    with_width(p.width, [&](auto width) {
      using T = typename decltype(type)::type;
      constexpr int kW = decltype(width)::value, kN = 8 / sizeof(T);
      const auto on = static_cast<cudaStream_t>(stream);
      if (whole(p, kN))
        forward_kernel<T, kW, kN><<<blocks_for(p, kN), kThreads, 0, on>>>(p);
      else
        forward_kernel<T, kW, 1><<<blocks_for(p, 1), kThreads, 0, on>>>(p);
    });
  });
}

void launch_backward(const CausalConv1dParams& p, void* stream) {
  if (p.batch == 0 || p.channels == 0) return;
  with_type(p.type, [&](auto type) {
    with_width(p.width, [&](auto width) {
      using T = typename decltype(type)::type;
      constexpr int kW = decltype(width)::value, kN = 8 / sizeof(T);
      const auto on = static_cast<cudaStream_t>(stream);
      if (whole(p, kN))
        backward_kernel<T, kW, kN><<<blocks_for(p, kN), kThreads, 0, on>>>(p);
      else
        backward_kernel<T, kW, 1><<<blocks_for(p, 1), kThreads, 0, on>>>(p);
    });
  });
}

[[maybe_unused]] const bool registered = [] {
  causal_conv1d_forward_cuda.launch = launch_forward;
  causal_conv1d_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
