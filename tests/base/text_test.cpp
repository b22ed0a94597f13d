#include "base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace ceiling {
namespace {

TEST(TextTest, IntegersAreReadInTheFormsThatMeanOneThing) {
  const std::pair<const char*, int64_t> cases[] = {
      {"0", 0},
      {"20", 20},
      {"-3", -3},
      {"+7", 7},
      {"1_000_000", 1000000},
      {"2e4", 20000},
      {"2E4", 20000},
      {"1.5e3", 1500},
      {"-0", 0},
      {"9223372036854775807", std::numeric_limits<int64_t>::max()},
      {"-9223372036854775808", std::numeric_limits<int64_t>::min()}};
  for (const auto& [text, value] : cases) EXPECT_EQ(parse_int(text), value) << text;
}

TEST(TextTest, AmbiguousIntegersAreRefused) {
  for (const char* text : {"",
                           "+",
                           "-",
                           "+-3",
                           "--3",
                           "++3",
                           "010",
                           "-010",
                           "0x10",
                           "0b1",
                           "0o7",
                           "1.5",
                           "1.0",
                           "yes",
                           "1,000",
                           "1 000",
                           " 1",
                           "1 ",
                           "1__0",
                           "_1",
                           "1_",
                           "1e-2",
                           "1e400",
                           "1e19",
                           "9223372036854775808",
                           "9007199254740993e0",
                           "nan",
                           "inf",
                           "\xC3\xA9_1",
                           "1_\xC3\xA9",
                           "\xD9\xA1"})
    EXPECT_FALSE(parse_int(text)) << text;
}

TEST(TextTest, NumbersAreReadInDecimalOnly) {
  const std::pair<const char*, double> cases[] = {{"3e-3", 0.003}, {"0.1", 0.1}, {".5", 0.5},
                                                  {"-.5", -0.5},   {"+2", 2},    {"0", 0},
                                                  {"0.0", 0},      {"0e5", 0},   {"1e308", 1e308}};
  for (const auto& [text, value] : cases) EXPECT_EQ(parse_double(text), value) << text;
}

TEST(TextTest, WhatIsNotAFiniteDecimalNumberIsRefused) {
  for (const char* text : {"",       "+",   "-",    "+-3",  "-+3",  ".",     "nan",  "-nan",
                           ".nan",   "inf", "-inf", ".inf", "0x10", "1,5",   "true", "1e999",
                           "1e-999", "1 ",  " 1",   "1e",   "e5",   "1.2.3", "1f"})
    EXPECT_FALSE(parse_double(text)) << text;
}

TEST(TextTest, WrittenNumbersReadBackAsTheSame) {
  EXPECT_EQ(format_double(0.003), "0.003");
  EXPECT_EQ(format_double(20), "20");
  EXPECT_EQ(format_double(1e-5), "1e-05");
  for (const double value :
       {0.1, 1.0 / 3, 1e300, 5e-324, -2.5, 123456789.123456789, std::nextafter(1.0, 2.0)})
    EXPECT_EQ(parse_double(format_double(value)), value);
}

TEST(TextTest, AmountsAreWrittenReadably) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1048575), "1.0 MiB");
  EXPECT_EQ(format_bytes(12.3 * 1024 * 1024), "12.3 MiB");
  EXPECT_EQ(format_bytes(5e15), "4547.5 TiB");
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(999'999), "1.0 M");
  EXPECT_EQ(format_count(162'200'000), "162.2 M");
  EXPECT_EQ(format_thousands(0), "0");
  EXPECT_EQ(format_thousands(999), "999");
  EXPECT_EQ(format_thousands(318204), "318,204");
  EXPECT_EQ(format_thousands(-1234567), "-1,234,567");
  EXPECT_EQ(format_thousands(-123), "-123");
}

TEST(TextTest, DurationsChooseTheirUnit) {
  EXPECT_EQ(format_duration(0.42), "0.4 s");
  EXPECT_EQ(format_duration(41), "41 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(3599.6), "1 h 00 min");
  EXPECT_EQ(format_duration(7500), "2 h 05 min");
  EXPECT_EQ(format_duration(90000), "1 d 01 h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
}

TEST(TextTest, MisspellingsFindTheirWord) {
  const std::vector<std::string> keys = {"d_model", "n_layers", "n_heads",
                                         "lr",      "steps",    "micro_batch"};
  EXPECT_EQ(nearest("d_modle", keys), "d_model");
  EXPECT_EQ(nearest("n_layer", keys), "n_layers");
  EXPECT_EQ(nearest("step", keys), "steps");
  EXPECT_EQ(nearest("rl", keys), "lr");
  EXPECT_EQ(nearest("microbatch", keys), "micro_batch");
  EXPECT_EQ(did_you_mean("setps", keys), "; did you mean 'steps'?");
}

TEST(TextTest, WordsWithNothingInCommonAreNotSuggested) {
  const std::vector<std::string> keys = {"lr", "steps", "d"};
  for (const char* word : {"xy", "", "q", "checkpoint", "optimizer"})
    EXPECT_EQ(did_you_mean(word, keys), "") << word;
  EXPECT_EQ(did_you_mean("lr", {}), "");
}

TEST(TextTest, SplitKeepsEmptyPartsAndJoinUndoesIt) {
  for (const char* text : {"", ",", "a", "a,b", ",a,,b,"})
    EXPECT_EQ(join(split(text, ','), ","), text);
  EXPECT_EQ(split("a,,b", ',').size(), 3u);
  EXPECT_EQ(split("", ',').size(), 1u);
}

TEST(TextTest, WellFormedUtf8IsAccepted) {
  for (const char* text : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_FALSE(invalid_utf8(text)) << text;
  EXPECT_FALSE(invalid_utf8(std::string_view("a\0b", 3)));
}

TEST(TextTest, TheFirstMalformedByteIsNamed) {
  const std::pair<const char*, size_t> cases[] = {
      {"\x80", 0},                 // continuation without a lead
      {"ab\xC3", 2},               // cut short
      {"ab\xE2\x82", 2},           // cut short
      {"\xC0\xAF", 0},             // overlong '/'
      {"\xC1\xBF", 0},             // overlong
      {"\xE0\x9F\xBF", 0},         // overlong
      {"\xF0\x8F\xBF\xBF", 0},     // overlong
      {"x\xED\xA0\x80", 1},        // surrogate
      {"\xF4\x90\x80\x80", 0},     // over U+10FFFF
      {"\xF5\x80\x80\x80", 0},     // no such lead
      {"\xFF", 0},                 // no such byte
      {"\xE2\x28\xA1", 0},         // second byte wrong
      {"\xE2\x82\x28", 0},         // third byte wrong
      {"\xC3\xA9\xF0\x9F\x98", 2}  // cut short after a good one
  };
  for (const auto& [text, at] : cases) EXPECT_EQ(invalid_utf8(text), at) << text;
}

TEST(TextTest, RepairedTextIsWellFormedAndKeepsTheGoodParts) {
  int64_t replaced = 0;
  EXPECT_EQ(repair_utf8("a\xC3\xA9z", &replaced), "a\xC3\xA9z");
  EXPECT_EQ(replaced, 0);
  EXPECT_EQ(repair_utf8("a\xFF"
                        "b\xE2\x82",
                        &replaced),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
  EXPECT_EQ(replaced, 2);
  replaced = 0;
  EXPECT_EQ(repair_utf8("\xED\xA0\x80", &replaced), "\xEF\xBF\xBD");
  EXPECT_EQ(replaced, 1);
}

TEST(TextTest, EveryPairOfBytesIsRepairedToWellFormedText) {
  for (int first = 0; first < 256; ++first)
    for (int second = 0; second < 256; ++second) {
      const std::string text = {'a', static_cast<char>(first), static_cast<char>(second), 'b'};
      int64_t replaced = 0;
      const std::string good = repair_utf8(text, &replaced);
      ASSERT_FALSE(invalid_utf8(good)) << first << " " << second;
      ASSERT_EQ(replaced == 0, !invalid_utf8(text)) << first << " " << second;
      ASSERT_EQ(good.front(), 'a');
      ASSERT_EQ(good.back(), 'b');
    }
}

}  // namespace
}  // namespace ceiling
