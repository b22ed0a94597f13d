#include "checkpoints/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

using nlohmann::json;

at::Tensor counting(std::vector<int64_t> shape, at::ScalarType dtype) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return at::arange(n, at::kFloat).to(dtype).view(shape);
}

std::string raw_file(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  return file + header + std::string(data_bytes, '\0');
}

class SafetensorsTest : public ::testing::Test {
 protected:
  std::string put(const std::string& content) {
    write_file_atomic(path_, content);
    return path_;
  }
  // The message without the path, which every message begins with.
  std::string refusal(const std::string& content) {
    put(content);
    try {
      const SafetensorsFile file(path_);
    } catch (const Error& e) {
      const std::string message = e.what();
      EXPECT_EQ(message.rfind(path_ + ": ", 0), 0u) << message;
      return message.substr(std::min(message.size(), path_.size() + 2));
    }
    return "accepted";
  }
  std::string refusal_of(const json& header, size_t data_bytes) {
    return refusal(raw_file(header.dump(), data_bytes));
  }
  TempDir dir_;
  std::string path_ = dir_ / "a.safetensors";
};

json entry(const char* dtype, json shape, int64_t begin, int64_t end) {
  return {{"dtype", dtype}, {"shape", std::move(shape)}, {"data_offsets", {begin, end}}};
}

TEST_F(SafetensorsTest, EveryDtypeAndShapeReadsBackBitForBit) {
  std::vector<NamedTensor> tensors;
  for (const auto dtype :
       {at::kByte, at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt})
    tensors.push_back({std::string("of ") + safetensors_dtype(dtype), counting({3, 5}, dtype)});
  tensors.push_back({"scalar", counting({}, at::kFloat)});
  tensors.push_back({"empty", at::empty({0, 4}, at::kFloat)});
  tensors.push_back({"transposed", counting({4, 6}, at::kFloat).t()});
  tensors.push_back({"ünï \"quoted\"", counting({2}, at::kFloat)});
  const FileRecord record = write_safetensors(path_, tensors, {{"format", "pt"}});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata(), (SafetensorsMetadata{{"format", "pt"}}));
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const NamedTensor& tensor : tensors) {
    const at::Tensor back = file.read(tensor.name);
    EXPECT_EQ(back.scalar_type(), tensor.value.scalar_type()) << tensor.name;
    EXPECT_TRUE(at::equal(back, tensor.value)) << tensor.name;
  }
  for (const auto& e : file.entries())
    EXPECT_EQ(e.begin % static_cast<int64_t>(c10::elementSize(e.dtype)), 0) << e.name;
  EXPECT_EQ(record.name, "a.safetensors");
  EXPECT_EQ(record.size_bytes, static_cast<int64_t>(fs::file_size(path_)));
  EXPECT_EQ(record.sha256, sha256_file(path_));
}

TEST_F(SafetensorsTest, PartsOfATensorEqualThoseOfTheWhole) {
  const at::Tensor whole = counting({7, 3}, at::kFloat);
  write_safetensors(path_, std::vector<NamedTensor>{{"x", whole}});
  const SafetensorsFile file(path_);
  EXPECT_TRUE(at::equal(file.read_rows("x", 2, 5), whole.narrow(0, 2, 3)));
  EXPECT_TRUE(at::equal(file.read_flat("x", 4, 9), whole.flatten().narrow(0, 4, 5)));
  at::Tensor converted = at::zeros({3, 7}, at::kDouble);
  file.read_into("x", converted.t());
  EXPECT_TRUE(at::equal(converted.t(), whole.to(at::kDouble)));
  at::Tensor direct = at::zeros({7, 3}, at::kFloat);
  file.read_into("x", direct);
  EXPECT_TRUE(at::equal(direct, whole));
}

TEST_F(SafetensorsTest, WrongRequestsNameTensorAndShapes) {
  write_safetensors(path_, std::vector<NamedTensor>{{"weight", counting({7, 3}, at::kFloat)}});
  const SafetensorsFile file(path_);
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([&] { file.read("wieght"); }),
            path_ + ": no tensor 'wieght'; did you mean 'weight'?");
  EXPECT_EQ(message([&] {
              file.read_into("weight", at::zeros({3, 7}));
            }),
            path_ + ": tensor 'weight' has shape [7,3], the model needs [3,7]");
  EXPECT_EQ(message([&] { file.read_rows("weight", 5, 8); }),
            path_ + ": tensor 'weight' has shape [7,3], rows [5, 8) were asked for");
  EXPECT_EQ(message([&] {
              write_safetensors(dir_ / "b", std::vector<NamedTensor>{{"x", at::zeros({1})},
                                                                     {"x", at::zeros({1})}});
            }),
            dir_ / "b" + ": two tensors are named 'x'");
}

TEST_F(SafetensorsTest, HeaderLengthsThatCannotBeAreRefused) {
  EXPECT_EQ(refusal(""), "0 bytes are no safetensors file");
  EXPECT_EQ(refusal("1234567"), "7 bytes are no safetensors file");
  EXPECT_EQ(refusal(std::string(8, '\xff')),
            "the header should take 18446744073709551615 bytes, the file has 8");
  EXPECT_EQ(refusal(raw_file("{}", 0).substr(0, 9)),
            "the header should take 2 bytes, the file has 9");
}

TEST_F(SafetensorsTest, HeadersThatAreNotWhatTheyShouldBeAreRefused) {
  EXPECT_NE(refusal(raw_file("{\"a\":", 0)).find("the header is not valid JSON"),
            std::string::npos);
  EXPECT_NE(refusal(raw_file("{\"\xff\":1}", 0)).find("the header is not valid JSON"),
            std::string::npos);
  EXPECT_EQ(refusal(raw_file("[]", 0)), "the header is not a JSON object");
  EXPECT_NE(refusal(raw_file(std::string(100000, '['), 0)).find("not valid JSON"),
            std::string::npos);
  EXPECT_EQ(refusal(raw_file(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                             R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                             0)),
            "the header names 'a' twice");
  EXPECT_EQ(refusal(raw_file(R"({"a":{"dtype":"U8","dtype":"F32","shape":[0]}})", 0)),
            "the header names 'dtype' twice");
  EXPECT_EQ(refusal_of({{"a", {{"dtype", "F32"}}}}, 4),
            "tensor 'a': dtype, shape and data_offsets are needed");
  EXPECT_EQ(refusal_of({{"a", 3}}, 4), "tensor 'a': dtype, shape and data_offsets are needed");
  EXPECT_EQ(refusal_of({{"a", entry("F8_E4M3", {4}, 0, 4)}}, 4),
            "tensor 'a': dtype \"F8_E4M3\" is not one of F64, F32, F16, BF16, I64, I32, U8");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {-1}, 0, 4)}}, 4),
            "tensor 'a': shape [-1] is not a list of sizes");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {1.5}, 0, 4)}}, 4),
            "tensor 'a': shape [1.5] is not a list of sizes");
  EXPECT_EQ(refusal_of({{"a", entry("F32", "1", 0, 4)}}, 4),
            "tensor 'a': shape \"1\" is not a list of sizes");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {int64_t{1} << 40, int64_t{1} << 40}, 0, 4)}}, 4),
            "tensor 'a': shape [1099511627776,1099511627776] is absurd");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {2}, 8, 0)}}, 8),
            "tensor 'a': data_offsets [8,0] are not a range");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {2}, 0, 4)}}, 4),
            "tensor 'a': F32 of shape [2] takes 8 bytes, data_offsets give it 4");
  EXPECT_EQ(refusal_of({{"__metadata__", {{"step", 3}}}}, 0), "__metadata__.step is not a string");
  EXPECT_EQ(refusal_of({{"__metadata__", "x"}}, 0), "__metadata__ is not an object");
}

TEST_F(SafetensorsTest, OverlapsHolesAndWrongSizesAreRefused) {
  const json two = {{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {1}, 8, 12)}};
  EXPECT_EQ(refusal_of(two, 12), "accepted");
  EXPECT_EQ(refusal_of(two, 11),
            "tensor 'b' ends at byte 12 of the data, the file has 11 (truncated?)");
  EXPECT_EQ(refusal_of(two, 13), "the tensors take 12 bytes, the file holds 13 of data");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {1}, 4, 8)}}, 8),
            "tensor 'b' begins at byte 4 of the data, 8 was expected (it overlaps another)");
  EXPECT_EQ(refusal_of({{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {1}, 12, 16)}}, 16),
            "tensor 'b' begins at byte 12 of the data, 8 was expected (a hole before it)");
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  write_safetensors(path_, std::vector<NamedTensor>{{"x", counting({3}, at::kFloat)}});
  const std::string whole = read_file(path_);
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_NE(refusal(whole.substr(0, n)), "accepted") << n;
}

}  // namespace
}  // namespace ceiling
