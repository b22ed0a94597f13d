#include "base/hash.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

// FIPS 180-2, appendix B.
TEST(Sha256Test, KnownAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, TheCutsBetweenUpdatesDoNotMatter) {
  const std::string text(1000, 'x');
  for (const size_t cut : {0, 1, 63, 64, 65, 999, 1000}) {
    Sha256 hash;
    hash.update(std::string_view(text).substr(0, cut)).update(std::string_view(text).substr(cut));
    EXPECT_EQ(hash.hex(), sha256_hex(text)) << cut;
  }
}

TEST(Sha256Test, AMovedHashGoesOn) {
  Sha256 first;
  first.update("ab");
  Sha256 second = std::move(first);
  EXPECT_EQ(second.update("c").hex(), sha256_hex("abc"));
}

TEST(Sha256Test, AFileHasTheHashOfItsBytes) {
  const TempDir temp;
  const std::string bytes(3'000'000, '\0');  // more than one buffer
  write_file_atomic(temp / "zeros", bytes);
  EXPECT_EQ(sha256_file(temp / "zeros"), sha256_hex(bytes));
}

TEST(Sha256Test, AFileThatCannotBeReadIsNamed) {
  const TempDir temp;
  try {
    sha256_file(temp / "none");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), temp / "none" + ": cannot open: No such file or directory");
  }
}

TEST(Fnv1aTest, KnownAnswers) {  // from the authors' page of test vectors
  EXPECT_EQ(fnv1a(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(fnv1a("a"), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(fnv1a("foobar"), 0x85944171f73967e8ull);
}

}  // namespace
}  // namespace ceiling
