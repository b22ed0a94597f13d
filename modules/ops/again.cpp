#include "modules/ops/again.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace ceiling {

namespace {
thread_local MakeAgain* g_making = nullptr;
}  // namespace

MakeAgain::MakeAgain(bool on) : outer_(g_making) { g_making = on ? this : nullptr; }
MakeAgain::~MakeAgain() { g_making = outer_; }

void add_recipe(const at::Tensor& output, Recipe recipe) {
  if (g_making && at::GradMode::is_enabled())
    g_making->recipes_.emplace_back(output.getIntrusivePtr(), std::move(recipe));
}

const Recipe* recipe_of(const at::Tensor& x) {
  if (!g_making) return nullptr;
  auto& recipes = g_making->recipes_;
  const auto found = std::find_if(recipes.rbegin(), recipes.rend(), [&](const auto& entry) {
    return entry.first._unsafe_get_target() == x.unsafeGetTensorImpl();
  });
  return found == recipes.rend() ? nullptr : &found->second;
}

}  // namespace ceiling
