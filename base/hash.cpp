#include "base/hash.h"

#include <openssl/evp.h>

#include <cstdio>
#include <vector>

#include "base/error.h"
#include "base/files.h"

namespace ceiling {

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

Sha256& Sha256::update(const void* data, size_t size_bytes) {
  EVP_DigestUpdate(context_->evp, data, size_bytes);
  return *this;
}

std::array<uint8_t, 32> Sha256::digest() {
  std::array<uint8_t, 32> bytes{};
  EVP_DigestFinal_ex(context_->evp, bytes.data(), nullptr);
  return bytes;
}

std::string Sha256::hex() {
  std::string text;
  for (const uint8_t byte : digest()) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256_hex(std::string_view bytes) { return Sha256().update(bytes).hex(); }

std::string sha256_file(const std::string& path) {
  File file(path, "rb");
  Sha256 hash;
  std::vector<char> buffer(1 << 20);
  while (const size_t n = file.read(buffer.data(), buffer.size())) hash.update(buffer.data(), n);
  return hash.hex();
}

}  // namespace ceiling
