// llm.c's .bin: 256 int32 (magic, version, number of tokens, zeros), then the tokens.
#include <array>

#include "base/error.h"
#include "data/import/token_stream.h"

namespace ceiling {

namespace {
struct Variant {
  int32_t magic, version;
  const char* type;
};
constexpr std::array<Variant, 2> kVariants = {{
    {20240520, 1, "uint16"},  // GPT-2
    {20240801, 7, "uint32"},  // Llama 3
}};
constexpr int64_t kHeaderBytes = 256 * 4;
}  // namespace

std::unique_ptr<TokenStream> open_llmc(const std::string& path, const TokenizerInfo& tokenizer) {
  const int64_t size = size_of_file(path);
  if (size < kHeaderBytes)
    throw Error("{}: file is {} bytes, the header of llm.c's format alone has {}", path, size,
                kHeaderBytes);
  IntegerFile header(path, integer_type("int32", path), 0, 256);
  const int64_t magic = header.next_one(), version = header.next_one(), n = header.next_one();
  for (const Variant& variant : kVariants) {
    if (variant.magic != magic) continue;
    if (variant.version != version)
      throw Error("{}: version {} of llm.c's format with magic {} is unknown, {} is read", path,
                  version, magic, variant.version);
    const IntegerType type = integer_type(variant.type, path);
    if (n < 0 || size != kHeaderBytes + n * type.n_bytes)
      throw Error(
          "{}: the header says {} tokens of {}, that is {} bytes, but the file is {} bytes: cut or "
          "damaged",
          path, n, type.name, kHeaderBytes + n * type.n_bytes, size);
    return cut_into_documents(TokenFile(path, type, kHeaderBytes, n, tokenizer.vocab_size),
                              type.n_bytes, tokenizer);
  }
  throw Error("{}: begins with {}, llm.c's format with {} (GPT-2) or {} (Llama 3)", path, magic,
              kVariants[0].magic, kVariants[1].magic);
}

}  // namespace ceiling
