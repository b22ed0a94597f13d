#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

TEST(TensorboardTest, Crc32cGivesTheKnownAnswers) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);            // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(TensorboardTest, RecordsAreFramedAndCarryTheScalar) {
  const TempDir dir;
  {
    TensorboardWriter writer(dir.path());
    writer.scalar("train/loss", 7, 2.5);
    writer.flush();
  }
  std::string content;
  for (const auto& entry : fs::directory_iterator(dir.path()))
    content = read_file(entry.path().string());
  std::vector<std::string> records;
  for (size_t at = 0; at < content.size();) {
    uint64_t size = 0;
    uint32_t crc = 0;
    std::memcpy(&size, &content[at], 8);
    std::memcpy(&crc, &content[at + 8], 4);
    const uint32_t plain = crc32c(content.substr(at, 8));
    EXPECT_EQ(crc, ((plain >> 15) | (plain << 17)) + 0xa282ead8u);
    records.push_back(content.substr(at + 12, size));
    at += 12 + size + 4;
  }
  ASSERT_EQ(records.size(), 2u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_NE(records[1].find("train/loss"), std::string::npos);
  const float value = 2.5f;
  EXPECT_NE(records[1].find(std::string(reinterpret_cast<const char*>(&value), 4)),
            std::string::npos);
}

}  // namespace
}  // namespace ceiling
