// Selective recomputation: outputs that are cheap to make again from what is kept anyway
// (normalisations, gated activations) are not kept for the matrix product that reads them
// (Korthikanti et al., arXiv 2205.05198, choose what to recompute by the same measure).
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <utility>
#include <vector>

namespace ceiling {

// make(inputs) gives the output again, bit for bit. `inputs` are kept by the output's own node.
struct Recipe {
  std::vector<at::Tensor> inputs;
  std::function<at::Tensor(const std::vector<at::Tensor>&)> make;
};

// While one lives with `on`, outputs of this thread get recipes, and linear() keeps the inputs of a
// recipe in place of x.
class MakeAgain {
 public:
  explicit MakeAgain(bool on);
  ~MakeAgain();
  MakeAgain(const MakeAgain&) = delete;
  MakeAgain& operator=(const MakeAgain&) = delete;

 private:
  friend void add_recipe(const at::Tensor& output, Recipe recipe);
  friend const Recipe* recipe_of(const at::Tensor& x);
  // Weak: an output that nobody keeps goes, but its address is not given to another.
  std::vector<std::pair<c10::weak_intrusive_ptr<c10::TensorImpl>, Recipe>> recipes_;
  MakeAgain* outer_;
};

// For ops, of their output. Does nothing outside of MakeAgain, or where no gradients are wanted.
void add_recipe(const at::Tensor& output, Recipe recipe);
// Null if there is none. Valid until the next add_recipe().
const Recipe* recipe_of(const at::Tensor& x);

}  // namespace ceiling
