// Parameters and the tree of modules that declare them. A module declares what it needs (name,
// shape, initialisation, group); memory comes later, from a ParameterStore (train/) that lays all
// parameters out in flat buffers, or from allocate_parameters() in tests and tools. No torch::nn:
// its header alone costs 9 s per file, and it owns its memory.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace ceiling {

// Fills a [rows, ...] float32 or float64 CPU tensor; `stream` is keyed by (seed, parameter name),
// so values depend neither on world size nor on the order of construction.
class RandomStream;
using Init = std::function<void(at::Tensor& value, const RandomStream& stream)>;
namespace init {
Init zeros();
Init ones();
Init constant(double value);
Init normal(double std);
Init uniform(double low, double high);
Init xavier_uniform(double gain);  // of [out, in]
// Row blocks of one fused matrix, each initialised as the matrix it stands for: {rows, init}.
Init by_rows(std::vector<std::pair<int64_t, Init>> blocks);
}  // namespace init

struct ParameterOptions {
  Init init = init::zeros();
  bool decay = true;  // weight decay applies
  double lr_factor = 1.0;
  bool keep_fp32 =
      false;  // fp32 island: computed in fp32 whatever the compute dtype is (decays, time steps)
};

struct Parameter {
  std::string name;  // full dotted name, "layers.0.attn.qkv.weight"; set by Module::name_parameters
  std::vector<int64_t> shape;
  ParameterOptions options;
  // Compute value: a leaf that requires grad. Undefined until memory is given.
  at::Tensor value;
  // Gradient, same shape, float32 (float64 where the model is): ops with parameters ADD into it in
  // their backward (Linear by one GEMM) and return no gradient to autograd.
  at::Tensor grad;
  int64_t numel() const;
};

// For a parameter used in plain ATen expressions: a tensor equal to value whose gradient is added
// into `parameter.grad`.
at::Tensor use(const Parameter& parameter);

class Module {
 public:
  virtual ~Module() = default;
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // All parameters below this module, in the order declared. Stable addresses. `prefix` ends in '.'
  // or is empty.
  std::vector<Parameter*> parameters();
  // Sets the full names; the root module calls it once.
  void name_parameters(const std::string& prefix = "");

 protected:
  Parameter& parameter(std::string name, std::vector<int64_t> shape, ParameterOptions options);
  template <class M, class... Args>
  M& child(std::string name, Args&&... args) {
    auto made = std::make_unique<M>(std::forward<Args>(args)...);
    M& reference = *made;
    adopt(std::move(name), std::move(made));
    return reference;
  }
  Module& adopt(std::string name, std::unique_ptr<Module> module);

 private:
  struct Entry {  // a parameter or a child, to keep the order declared
    std::string name;
    std::unique_ptr<Parameter> parameter;
    std::unique_ptr<Module> module;
  };
  std::vector<Entry> entries_;
};

// Gives every parameter its own memory in `dtype` (value) and float32/float64 (grad, zero),
// initialised from `seed`.
void allocate_parameters(Module& root, at::ScalarType dtype, uint64_t seed);

// Writes the initial values of `parameter` for `seed` into a float32 or float64 CPU tensor of its
// shape.
void initialize(const Parameter& parameter, uint64_t seed, at::Tensor& value);

}  // namespace ceiling
