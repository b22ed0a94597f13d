// The documentation of all configuration keys, printed from the declarations (train/run_config.h
// and the architectures).
#pragma once
#include <string>

namespace ceiling {

// For a terminal: everything, or what `topic` names: a section ("train"), a key ("train.lr"), the
// last part of one ("lr") or an architecture ("retnet"). Error with "did you mean" if it names
// nothing.
std::string explain_config(const std::string& topic);

// docs/config.md.
std::string config_reference_markdown();

}  // namespace ceiling
