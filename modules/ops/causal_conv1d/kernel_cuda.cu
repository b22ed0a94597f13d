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
//   Batches in which no document starts or has just started are worked on without looking for that:
//   with it the instructions would take longer than the memory.
// Limits: channels that are no multiple of a pack, and rows that begin between such multiples, take
//   one channel per thread.
#include <cstdint>
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
  uint64_t start_bits = 0;  // bit i: a document starts at token first + i; equal in a warp

  __device__ explicit Piece(const CausalConv1dParams& params) : p(params) {
    const int64_t channel_blocks = (p.channels + kWarp * N - 1) / (kWarp * N);
    const int64_t per_row = (p.seq_len + kConvGpuTokens - 1) / kConvGpuTokens;
    time_block = blockIdx.x / channel_blocks;
    b = time_block / per_row;
    channel = (blockIdx.x % channel_blocks * kWarp + threadIdx.x % kWarp) * N;
    first = time_block % per_row * kConvGpuTokens + threadIdx.x / kWarp * kSteps;
    end = min(first + kSteps, p.seq_len);
    present = channel < p.channels && first < p.seq_len;
    static_assert(kSteps == 2 * kWarp, "two tokens a lane");
#pragma unroll
    for (int half = 0; p.start && half < 2; ++half) {
      const int64_t t = first + half * kWarp + threadIdx.x % kWarp;
      const unsigned some = __ballot_sync(0xffffffffu, t < end && starts(t));
      start_bits |= uint64_t{some} << (half * kWarp);
    }
  }
  // Of the batch at token t: all of it belongs to this piece, and no document starts in it.
  __device__ bool one_document(int64_t t) const {
    return t + kBatch <= end && (start_bits >> (t - first) & ((1u << kBatch) - 1)) == 0;
  }
  __device__ bool starts(int64_t t) const { return p.start && p.start[b * p.seq_len + t]; }
  __device__ void read(const void* from, int64_t row, float (&to)[N]) const {
    load<N>(static_cast<const T*>(from) + row * p.channels + channel, to);
  }
  __device__ T* at(void* to, int64_t row) const {
    return static_cast<T*>(to) + row * p.channels + channel;
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
      const int left = rows_ - n * kBatch;
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if (j < left)
          copy_async<sizeof(Pack<T, N>)>(shared_address(&room_[n % kPlaces][j][threadIdx.x]),
                                         from_ + j * row_stride_);
      from_ += kBatch * row_stride_;
    }
  }
  // Row j of batch n, which has arrived; undefined if there is no such row.
  __device__ void take(int n, int j, float (&to)[N]) const {
    if constexpr (kAsync)
      load<N>(room_[n % kPlaces][j][threadIdx.x].at, to);
    else if (n * kBatch + j < rows_)
      load<N>(from_ + (n * kBatch + j) * row_stride_, to);
  }

 private:
  static constexpr bool kAsync = sizeof(Pack<T, N>) >= 4;  // the smallest asynchronous copy
  Room& room_;
  const T* from_;  // the batch to ask for next; without asynchronous copies the first
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
  __device__ void see() { seen = min(seen + 1, W - 1); }

  template <class T>
  __device__ explicit Window(const Piece<T, W, N>& piece) {
#pragma unroll
    for (int j = W - 1; j > 0; --j) {
      const int64_t t = piece.first - j;
      if (t >= 0 && piece.starts(t)) clear();
      float x[N];
      piece.input(t, x);
      push(x), see();
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

template <class T, int W, int N, bool kSilu>
__global__ __launch_bounds__(kThreads, 6) void forward_kernel(const CausalConv1dParams p) {
  const Piece<T, W, N> piece(p);
  if (!piece.present) return;
  __shared__ typename Stream<T, N>::Room room;
  Stream<T, N> xs(room, piece.x_rows(), p.x_time_stride, piece.end - piece.first);
#pragma unroll
  for (int n = 0; n < kAhead; ++n) xs.ask(n), commit_copies();
  const Weights<W, N> weights(p, piece.channel);
  Window<W, N> window(piece);
  T* to = piece.at(p.y, piece.b * p.seq_len + piece.first);
  const auto pass = [&](int n, int j) {
    float x[N], y[N];
    xs.take(n, j, x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float sum = window.sum(weights, x, i);
      y[i] = kSilu ? sum * sigmoid(sum) : sum;
    }
    store<N>(to, y);
    to += p.channels;
    window.push(x);
  };
  int n = 0;
  for (int64_t t = piece.first; t < piece.end; t += kBatch, ++n) {
    wait_copies<kAhead - 1>();
    xs.ask(n + kAhead);
    commit_copies();
    if (piece.one_document(t)) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) pass(n, j);
      continue;
    }
    for (int j = 0; j < kBatch && t + j < piece.end; ++j) {
      if (piece.starts(t + j)) window.clear();
      pass(n, j);
    }
  }
  if (piece.end < p.seq_len) return;
#pragma unroll
  for (int j = 0; j < W - 1; ++j)
    store<N>(piece.at(p.state_out, piece.b * (W - 1) + j), window.at[j]);
}

// What a thread of the backward pass has under way: gradients of the inputs t - (W - 1) .. t while
// it passes token t, and of the weights.
template <int W, int N, bool kSilu>
struct Gradients {
  float input[W][N] = {}, weight[W + 1][N] = {};

  // Through token t, of which x and dy are. The first of the window's inputs that it sees is
  // number `unseen`; `mine`: its share of the weights' gradients belongs to this thread.
  __device__ void through(const Weights<W, N>& w, const Window<W, N>& window, const float (&x)[N],
                          const float (&dy)[N], int unseen, bool mine) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float d = dy[i];
      if (kSilu) {
        const float sum = window.sum(w, x, i), s = sigmoid(sum);
        d *= s * (1.0f + sum * (1.0f - s));
      }
#pragma unroll
      for (int k = 0; k < W; ++k)
        if (k >= unseen) input[k][i] += w.tap[k][i] * d;
      if (!mine) continue;
#pragma unroll
      for (int k = 0; k < W - 1; ++k) weight[k][i] += d * window.at[k][i];
      weight[W - 1][i] += d * x[i];
      weight[W][i] += d;
    }
  }
  // On to the next token: no later one reads the first of the inputs.
  __device__ void move() {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < W - 1; ++k) input[k][i] = input[k + 1][i];
      input[W - 1][i] = 0;
    }
  }
};

template <class T, int W, int N, bool kSilu>
__global__ __launch_bounds__(kThreads, 4) void backward_kernel(const CausalConv1dParams p) {
  const Piece<T, W, N> piece(p);
  Gradients<W, N, kSilu> gradients;
  __shared__ typename Stream<T, N>::Room room[2];
  if (piece.present) {
    const int64_t last = piece.end + W - 1, until = min(last, p.seq_len);
    Stream<T, N> xs(room[0], piece.x_rows(), p.x_time_stride, until - piece.first),
        dys(room[1], piece.dy_rows(), p.channels, until - piece.first);
#pragma unroll
    for (int n = 0; n < kAhead; ++n) xs.ask(n), dys.ask(n), commit_copies();
    const Weights<W, N> weights(p, piece.channel);
    Window<W, N> window(piece);
    T* to = piece.at(p.dx, piece.b * p.seq_len + piece.first - (W - 1));
    // Token t, with care for all that can be.
    const auto pass = [&](int64_t t, int n, int j) {
      if (t < p.seq_len) {
        if (piece.starts(t)) window.clear();
        float x[N], dy[N];
        xs.take(n, j, x), dys.take(n, j, dy);
        gradients.through(weights, window, x, dy, W - 1 - window.seen, t < piece.end);
        window.push(x);
      }
      const int64_t s = t - (W - 1);  // no later token reads input s
      if (s >= piece.first || (s < 0 && piece.first == 0)) {
        // The state that is left holds the inputs of the last document alone.
        const int64_t age = p.seq_len - 1 - s;
        if (p.dstate_out && age < W - 1 && age <= window.seen) {
          float kept[N];
          piece.read(p.dstate_out, piece.b * (W - 1) + W - 2 - age, kept);
#pragma unroll
          for (int i = 0; i < N; ++i) gradients.input[0][i] += kept[i];
        }
        if (s >= 0)
          store<N>(to, gradients.input[0]);
        else if (p.dstate)
          store<N>(piece.at(p.dstate, piece.b * (W - 1) + s + W - 1), gradients.input[0]);
      }
      to += p.channels;
      gradients.move();
      if (t + 1 < p.seq_len) window.see();
    };
    int n = 0;
    for (int64_t t = piece.first; t < last; t += kBatch, ++n) {
      wait_copies<kAhead - 1>();
      xs.ask(n + kAhead), dys.ask(n + kAhead);
      commit_copies();
      if (t > 0 && window.seen == W - 1 && piece.one_document(t)) {
        const bool first = t == piece.first;  // then s is an earlier piece's until j = W - 1
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
          float x[N], dy[N];
          xs.take(n, j, x), dys.take(n, j, dy);
          gradients.through(weights, window, x, dy, 0, true);
          window.push(x);
          if (j >= W - 1 || !first) store<N>(to, gradients.input[0]);
          to += p.channels;
          gradients.move();
        }
        continue;
      }
      for (int j = 0; j < kBatch && t + j < last; ++j) pass(t + j, n, j);
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
          totals[k][i][lane] = (turn == 0 ? 0.0f : totals[k][i][lane]) + gradients.weight[k][i];
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

// body(type, width, silu) with constants for them.
template <class Body>
void with_kind(const CausalConv1dParams& p, const Body& body) {
  with_type(p.type, [&](auto type) {
    const auto with_width = [&](auto width) {
      if (p.silu)
        body(type, width, std::true_type());
      else
        body(type, width, std::false_type());
    };
    if (p.width == 2) return with_width(std::integral_constant<int, 2>());
    if (p.width == 3) return with_width(std::integral_constant<int, 3>());
    return with_width(std::integral_constant<int, 4>());
  });
}

unsigned blocks_for(const CausalConv1dParams& p, int64_t n) {
  const int64_t channels = kWarp * n;
  return static_cast<unsigned>(p.batch * blocks_of_row(p) *
                               ((p.channels + channels - 1) / channels));
}

void launch_forward(const CausalConv1dParams& p, void* stream) {
  if (p.batch == 0 || p.channels == 0) return;
  with_kind(p, [&](auto type, auto width, auto silu) {
    using T = typename decltype(type)::type;
    constexpr int kW = decltype(width)::value, kN = 8 / sizeof(T);
    constexpr bool kSilu = decltype(silu)::value;
    const auto on = static_cast<cudaStream_t>(stream);
    if (whole(p, kN))
      forward_kernel<T, kW, kN, kSilu><<<blocks_for(p, kN), kThreads, 0, on>>>(p);
    else
      forward_kernel<T, kW, 1, kSilu><<<blocks_for(p, 1), kThreads, 0, on>>>(p);
  });
}

void launch_backward(const CausalConv1dParams& p, void* stream) {
  if (p.batch == 0 || p.channels == 0) return;
  with_kind(p, [&](auto type, auto width, auto silu) {
    using T = typename decltype(type)::type;
    constexpr int kW = decltype(width)::value, kN = 8 / sizeof(T);
    constexpr bool kSilu = decltype(silu)::value;
    const auto on = static_cast<cudaStream_t>(stream);
    if (whole(p, kN))
      backward_kernel<T, kW, kN, kSilu><<<blocks_for(p, kN), kThreads, 0, on>>>(p);
    else
      backward_kernel<T, kW, 1, kSilu><<<blocks_for(p, 1), kThreads, 0, on>>>(p);
  });
}

[[maybe_unused]] const bool registered = [] {
  causal_conv1d_forward_cuda.launch = launch_forward;
  causal_conv1d_backward_cuda.launch = launch_backward;
  return true;
}();

}  // namespace
}  // namespace ceiling
