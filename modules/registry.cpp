#include "modules/registry.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {
std::vector<Architecture>& registered() {
  static std::vector<Architecture> all;
  return all;
}
}  // namespace

void register_architecture(Architecture architecture) {
  auto& all = registered();
  const auto place = std::lower_bound(
      all.begin(), all.end(), architecture,
      [](const Architecture& a, const Architecture& b) { return a.name < b.name; });
  all.insert(place, std::move(architecture));
}

const std::vector<Architecture>& architectures() { return registered(); }

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const Architecture& architecture : registered()) names.push_back(architecture.name);
  return names;
}

const Architecture& find_architecture(const std::string& name) {
  for (const Architecture& architecture : registered())
    if (architecture.name == name) return architecture;
  throw Error("'{}' is no architecture of this build{}; there are: {}", name,
              did_you_mean(name, architecture_names()), join(architecture_names(), ", "));
}

}  // namespace ceiling
