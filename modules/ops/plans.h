// Plans of a library's work, made when a shape is first seen and kept.
#pragma once
#include <map>
#include <mutex>

namespace ceiling {

// Shape can be compared and makes a Plan. One for all threads: forward and backward run in
// different ones. A plan is used by one of them at a time. Never destroyed: at exit the driver may
// be gone before static objects are.
//   kept_plans<Shape, Plan>().with(shape, [](Plan& plan) { .. });
template <class Shape, class Plan>
class KeptPlans {
 public:
  template <class Use>
  auto with(const Shape& shape, const Use& use) {
    const std::lock_guard lock(mutex_);
    return use(plans_.try_emplace(shape, shape).first->second);
  }

 private:
  std::mutex mutex_;
  std::map<Shape, Plan> plans_;
};
template <class Shape, class Plan>
KeptPlans<Shape, Plan>& kept_plans() {
  static auto& all = *new KeptPlans<Shape, Plan>;
  return all;
}

}  // namespace ceiling
