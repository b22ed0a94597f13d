#pragma once

namespace ceiling {

inline constexpr char kVersion[] = "0.1.0";
inline constexpr char kTorchVersion[] = "2.11.0";

}  // namespace ceiling
