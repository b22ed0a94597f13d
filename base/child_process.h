// Work in a process of its own: for a library call that cannot be interrupted, that takes memory it
// does not give back, or that ends the process where it should report a mistake.
#pragma once
#include <functional>
#include <string>

namespace ceiling {

// What `work` returns, run in a fork of this process. Only the calling thread exists there, so
// `work` must not wait for another one. An Error of `work` comes out here with its message; where
// the child dies, an Error with the last line it wrote to stderr (nothing it writes is shown).
// A request to stop ends the child at once and throws Interrupted. `what` names the work in
// messages.
std::string run_in_child(const std::string& what, const std::function<std::string()>& work);

}  // namespace ceiling
