// Nothing but ids, as ndarray.tofile() writes them: the type has to be told.
#include "base/error.h"
#include "data/import/token_stream.h"

namespace ceiling {

std::unique_ptr<TokenStream> open_numpy(const std::string& path, const std::string& dtype,
                                        const TokenizerInfo& tokenizer) {
  const IntegerType type = integer_type(dtype, path);
  const int64_t size = size_of_file(path);
  {
    File file(path, "rb");
    char begin[6] = {};
    if (file.read(begin, sizeof begin) == sizeof begin && std::string_view(begin, 6) == "\x93NUMPY")
      throw Error(
          "{}: is a .npy file, with a header; write the ids alone: numpy.load(...).tofile(...)",
          path);
  }
  if (size % type.n_bytes != 0)
    throw Error("{}: {} bytes are not a whole number of {}: cut, or of another type", path, size,
                type.name);
  const int64_t n = size / type.n_bytes;
  return cut_into_documents(TokenFile(path, type, 0, n, tokenizer.vocab_size), type.n_bytes,
                            tokenizer);
}

}  // namespace ceiling
