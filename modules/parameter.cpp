#include "modules/parameter.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "base/random.h"

namespace ceiling {

namespace init {
namespace {
// value[i] = f(i) over the flat index, in parallel; f depends on the index alone.
template <class F>
void fill(at::Tensor& value, const F& f) {
  const auto run = [&](auto* data) {
    using Scalar = std::remove_pointer_t<decltype(data)>;
    at::parallel_for(0, value.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) data[i] = static_cast<Scalar>(f(i));
    });
  };
  TORCH_INTERNAL_ASSERT(value.is_contiguous() && value.device().is_cpu());
  if (value.scalar_type() == at::kDouble)
    run(value.mutable_data_ptr<double>());
  else
    run(value.mutable_data_ptr<float>());
}
}  // namespace

Init constant(double constant) {
  return [constant](at::Tensor& value, const RandomStream&) { value.fill_(constant); };
}
Init zeros() { return constant(0); }
Init ones() { return constant(1); }
Init normal(double std) {
  return [std](at::Tensor& value, const RandomStream& stream) {
    fill(value, [&](int64_t i) { return std * stream.normal(static_cast<uint64_t>(i)); });
  };
}
Init uniform(double low, double high) {
  return [low, high](at::Tensor& value, const RandomStream& stream) {
    fill(value,
         [&](int64_t i) { return low + (high - low) * stream.uniform(static_cast<uint64_t>(i)); });
  };
}
Init xavier_uniform(double gain) {
  return [gain](at::Tensor& value, const RandomStream& stream) {
    const double bound = gain * std::sqrt(6.0 / static_cast<double>(value.size(0) + value.size(1)));
    uniform(-bound, bound)(value, stream);
  };
}
Init by_rows(std::vector<std::pair<int64_t, Init>> blocks) {
  return [blocks = std::move(blocks)](at::Tensor& value, const RandomStream& stream) {
    int64_t row = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      at::Tensor part = value.narrow(0, row, blocks[i].first);
      // Each block draws its own numbers: the same sub-stream index must not repeat within the
      // matrix.
      blocks[i].second(part, RandomStream(stream.bits(i), "rows"));
      row += blocks[i].first;
    }
    TORCH_INTERNAL_ASSERT(row == value.size(0));
  };
}
}  // namespace init

int64_t Parameter::numel() const {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

namespace {
class UseFunction : public torch::autograd::Function<UseFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& value,
                            const at::Tensor* grad) {
    ctx->saved_data["grad"] = *grad;
    return value.detach();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    if (grads[0].defined()) ctx->saved_data["grad"].toTensor().add_(grads[0]);
    return {at::Tensor(), at::Tensor()};
  }
};
}  // namespace

at::Tensor use(const Parameter& parameter) {
  return UseFunction::apply(parameter.value, &parameter.grad);
}

std::vector<Parameter*> Module::parameters() {
  std::vector<Parameter*> all;
  for (Entry& entry : entries_) {
    if (entry.parameter) {
      all.push_back(entry.parameter.get());
      continue;
    }
    const auto below = entry.module->parameters();
    all.insert(all.end(), below.begin(), below.end());
  }
  return all;
}

void Module::name_parameters(const std::string& prefix) {
  for (Entry& entry : entries_) {
    if (entry.parameter)
      entry.parameter->name = prefix + entry.name;
    else
      entry.module->name_parameters(prefix + entry.name + ".");
  }
}

Parameter& Module::parameter(std::string name, std::vector<int64_t> shape,
                             ParameterOptions options) {
  auto made = std::make_unique<Parameter>();
  made->shape = std::move(shape);
  made->options = std::move(options);
  entries_.push_back({std::move(name), std::move(made), nullptr});
  return *entries_.back().parameter;
}

Module& Module::adopt(std::string name, std::unique_ptr<Module> module) {
  entries_.push_back({std::move(name), nullptr, std::move(module)});
  return *entries_.back().module;
}

void initialize(const Parameter& parameter, uint64_t seed, at::Tensor& value) {
  parameter.options.init(value, RandomStream(seed, "init/" + parameter.name));
}

void allocate_parameters(Module& root, at::ScalarType dtype, uint64_t seed) {
  const auto wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
  for (Parameter* parameter : root.parameters()) {
    at::Tensor value = at::empty(parameter->shape, wide);
    initialize(*parameter, seed, value);
    parameter->value = value.to(parameter->options.keep_fp32 ? wide : dtype).requires_grad_();
    parameter->grad = at::zeros(parameter->shape, wide);
  }
}

}  // namespace ceiling
