// Text that a configuration names (`data.source`) and the dataset that is prepared from it once.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "data/text_reader.h"

namespace ceiling {

struct SourceRequest {
  // bible-kjv: the King James Bible (Debian's package of that name), a document per chapter.
  // dict-gcide: the GNU Collaborative International Dictionary of English (package dict-gcide), a
  // document per word. Anything else: text files, as `ceiling prepare --input` takes them.
  std::string source = "";
  std::string tokenizer = "";  // as PrepareOptions; may be empty if the dataset is there
  std::string path = "";       // of the dataset
  double valid_share = 0;
  bool bos = true;
  std::string text_key = "text";
  std::string document_separator = "";  // as TextOptions, with \n written or meant
  int64_t min_split_tokens = 2;
};

// Makes sure that the dataset is there and was made as asked for. A present one is checked by its
// record alone, without reading the text; Error with the difference. Several processes may ask at
// once: one prepares, the others wait.
void ensure_prepared(const SourceRequest& request);

// The text behind a name. Installs a missing Debian package where the user may do so, and says so;
// Error that names the package otherwise.
std::unique_ptr<TextSource> open_source(const std::string& source, const TextOptions& options);

}  // namespace ceiling
