// Part of libceiling_cuda.so, if cuBLASLt's header was there: plans of its products, kept by shape.
// Nothing links libcublasLt: torch has loaded it, and its symbols are found through torch.
//
// Bound:  tensor cores; of weights up to about 1,000 x 1,000, as much HBM.
// Floor:  2 m n k FLOP; an H100 reaches 700 to 790 of its 989 TFLOP/s (bench/results).
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cublasLt.h>

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"
#include "modules/ops/linear/gemm_kernels.h"
#include "modules/ops/plans.h"

namespace ceiling {
namespace {

constexpr size_t kMostWorkspace = size_t{32} << 20;  // what torch gives cuBLAS on an H100
constexpr int kAsked = 16;                           // candidates; the library has about eight

void check(cublasStatus_t status, const char* step, const GemmShape& s) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error("linear: cuBLASLt {} cannot {} a product {} x {} x {}: {}", cublasLtGetVersion(),
              step, s.m, s.n, s.k, cublasLtGetStatusString(status));
}

// Called under the lock of the plans.
cublasLtHandle_t handle(const GemmShape& shape) {
  static std::map<int, cublasLtHandle_t>& of_device = *new std::map<int, cublasLtHandle_t>;
  cublasLtHandle_t& handle = of_device[shape.device];
  if (!handle) check(cublasLtCreate(&handle), "begin", shape);
  return handle;
}

struct Candidate {
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace_bytes = 0;
};

// Number of parts into which k is cut, and how their sums meet.
std::pair<int, uint32_t> cut_of(const cublasLtMatmulAlgo_t& algorithm) {
  int parts = 1;
  uint32_t meeting = 0;
  size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                       sizeof parts, &written);
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &meeting,
                                       sizeof meeting, &written);
  return {parts, meeting};
}

// The library's matrices have columns: out^T = b^T a^T, and what has rows of ours is transposed.
class Plan {
 public:
  explicit Plan(const GemmShape& s) : shape_(s) {
    const cudaDataType_t type_out = s.wide_out ? CUDA_R_32F : CUDA_R_16BF;
    check(cublasLtMatmulDescInit(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "plan", s);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transposed) {
      const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      check(cublasLtMatmulDescSetAttribute(&product_, attribute, &operation, sizeof operation),
            "plan", s);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.b.transposed);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.a.transposed);
    const auto operand = [&](cublasLtMatrixLayoutOpaque_t& layout, const GemmOperand& x,
                             int64_t rows, int64_t columns) {
      if (x.transposed) std::swap(rows, columns);
      check(cublasLtMatrixLayoutInit(&layout, CUDA_R_16BF, static_cast<uint64_t>(columns),
                                     static_cast<uint64_t>(rows), x.stride),
            "plan", s);
    };
    operand(b_, s.b, s.k, s.n);
    operand(a_, s.a, s.m, s.k);
    const auto result = [&](cublasLtMatrixLayoutOpaque_t& layout, int64_t stride) {
      check(cublasLtMatrixLayoutInit(&layout, type_out, static_cast<uint64_t>(s.n),
                                     static_cast<uint64_t>(s.m), stride),
            "plan", s);
    };
    result(addend_, s.addend_stride);
    result(out_, s.out_stride);
    find_candidates();
  }

  int n_candidates() const { return static_cast<int>(candidates_.size()); }

  void run(const GemmTensors& t, int candidate) {
    if (candidate == kMeasuredGemm && !measured_) measure(t);
    launch(t, candidates_[candidate < 0 ? fastest_ : static_cast<size_t>(candidate)]);
  }

 private:
  void find_candidates() {
    cublasLtMatmulPreferenceOpaque_t wish;
    check(cublasLtMatmulPreferenceInit(&wish), "plan", shape_);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(&wish, attribute, &value, sizeof value), "plan",
            shape_);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    // Parts of a sum meet in float32, without atomics.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto alignment :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(alignment, uint32_t{16});
    std::vector<cublasLtMatmulHeuristicResult_t> found(kAsked);
    int n_found = 0;
    if (cublasLtMatmulAlgoGetHeuristic(handle(shape_), &product_, &b_, &a_, &addend_, &out_, &wish,
                                       kAsked, found.data(), &n_found) != CUBLAS_STATUS_SUCCESS)
      return;
    for (int i = 0; i < n_found; ++i)
      if (found[i].state == CUBLAS_STATUS_SUCCESS &&
          (candidates_.empty() || cut_of(found[i].algo) == cut_of(candidates_[0].algorithm)))
        candidates_.push_back({found[i].algo, found[i].workspaceSize});
  }

  void launch(const GemmTensors& t, const Candidate& candidate) {
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    const float one = 1, of_addend = shape_.add ? 1 : 0;
    c10::DataPtr workspace;
    if (candidate.workspace_bytes > 0)
      workspace = c10::cuda::CUDACachingAllocator::get()->allocate(candidate.workspace_bytes);
    check(cublasLtMatmul(handle(shape_), &product_, &one, t.b, &b_, t.a, &a_, &of_addend,
                         shape_.add ? t.addend : t.out, shape_.add ? &addend_ : &out_, t.out, &out_,
                         &candidate.algorithm, workspace.get(), candidate.workspace_bytes, stream),
          "make", shape_);
  }

  // The candidates in turns, three times; of each the fastest turn counts.
  void measure(const GemmTensors& real) {
    cudaStreamCaptureStatus recording{};
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &recording));
    if (recording != cudaStreamCaptureStatusNone) return;
    measured_ = true;
    if (candidates_.size() < 2) return;
    GemmTensors t = real;
    c10::DataPtr elsewhere;
    if (real.addend == real.out) {  // which the product must add to once only
      const auto rows = static_cast<size_t>(shape_.m * shape_.out_stride);
      try {
        elsewhere =
            c10::cuda::CUDACachingAllocator::get()->allocate(rows * (shape_.wide_out ? 4 : 2));
      } catch (const c10::OutOfMemoryError&) {
        return;
      }
      t.out = elsewhere.get();
    }
    constexpr float kTurn = 0.3F;  // ms
    std::vector<float> best(candidates_.size(), std::numeric_limits<float>::max());
    const Timer timer(stream);
    int repeats = 1;
    for (const Candidate& candidate : candidates_) launch(t, candidate);  // loads its code
    for (int turn = 0; turn < 4; ++turn) {
      for (size_t i = 0; i < candidates_.size(); ++i) {
        timer.begin();
        for (int repeat = 0; repeat < repeats; ++repeat) launch(t, candidates_[i]);
        best[i] = std::min(best[i], timer.end() / static_cast<float>(repeats));
      }
      if (turn > 0) continue;
      repeats = std::clamp(static_cast<int>(kTurn / best[0]), 1, 20);
      best.assign(best.size(), std::numeric_limits<float>::max());
    }
    fastest_ = static_cast<size_t>(std::min_element(best.begin(), best.end()) - best.begin());
    if (best[0] < 1.01F * best[fastest_]) fastest_ = 0;  // no reason to differ
  }

  class Timer {
   public:
    explicit Timer(cudaStream_t stream) : stream_(stream) {
      C10_CUDA_CHECK(cudaEventCreate(&begin_));
      C10_CUDA_CHECK(cudaEventCreate(&end_));
    }
    ~Timer() {
      cudaEventDestroy(begin_);
      cudaEventDestroy(end_);
    }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    void begin() const { C10_CUDA_CHECK(cudaEventRecord(begin_, stream_)); }
    float end() const {  // ms
      float ms = 0;
      C10_CUDA_CHECK(cudaEventRecord(end_, stream_));
      C10_CUDA_CHECK(cudaEventSynchronize(end_));
      C10_CUDA_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
      return ms;
    }

   private:
    cudaStream_t stream_;
    cudaEvent_t begin_{}, end_{};
  };

  GemmShape shape_;
  cublasLtMatmulDescOpaque_t product_{};
  cublasLtMatrixLayoutOpaque_t a_{}, b_{}, addend_{}, out_{};
  std::vector<Candidate> candidates_;
  size_t fastest_ = 0;
  bool measured_ = false;
};

KeptPlans<GemmShape, Plan>& plans() { return kept_plans<GemmShape, Plan>(); }

[[maybe_unused]] const bool registered = [] {
  gemm_kernels.n_candidates = [](const GemmShape& shape) {
    return plans().with(shape, [](const Plan& plan) { return plan.n_candidates(); });
  };
  gemm_kernels.run = [](const GemmShape& shape, const GemmTensors& tensors, int candidate) {
    return plans().with(shape, [&](Plan& plan) {
      if (plan.n_candidates() == 0) return false;
      plan.run(tensors, candidate);
      return true;
    });
  };
  return true;
}();

}  // namespace
}  // namespace ceiling
