// Documents packed into one row, from the dataset to losses and gradients: what a document teaches
// does not depend on its neighbour, to the last bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "data/loader.h"
#include "tests/support/dataset.h"
#include "tests/support/model.h"
#include "tests/support/temp_dir.h"
#include "train/device_batch.h"

namespace ceiling {
namespace {

const std::string kFirst[] = {"stone garden carry stone market window carry river bridge under.",
                              "letter table stone seven garden bridge bridge river under north."};
const std::string kSecond =
    "market silver silver walk river seven market river green early carry. slowly carry glass "
    "quiet garden garden green silver table wooden window.";

class DocumentsTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Both documents in one row; `batch_` owns the memory.
  DeviceBatch row(const std::string& first, bool bos) {
    write_byte_dataset(dir_ / "data", {first, kSecond}, {}, bos);
    LoaderOptions data;
    data.parts = {{dir_ / "data", 1.0}};
    data.shuffle = false;
    data.context =
        static_cast<int64_t>(first.size() + kSecond.size()) + 2 * (bos ? 2 : 1) - 1;  // and EOS
    batch_ = *Loader(data).next();
    return to_device(batch_, 0, 1, at::kCPU);
  }
  TempDir dir_;
  Batch batch_;
};

TEST_P(DocumentsTest, LossesAndGradientsOfTheSecondDoNotDependOnTheFirst) {
  for (const bool bos : {true, false}) {
    ASSERT_EQ(kFirst[0].size(), kFirst[1].size());
    const int64_t begin = static_cast<int64_t>(kFirst[0].size()) + (bos ? 2 : 1);
    std::vector<at::Tensor> losses;
    std::vector<std::vector<at::Tensor>> gradients;
    for (const std::string& first : kFirst) {
      DeviceBatch batch = row(first, bos);
      const TestModel made = make_tiny(GetParam(), at::kFloat, 258);
      // EOS of each document is a target, what follows it is none.
      EXPECT_EQ(batch_.n_targets, batch.tokens.size(1) - 1);
      EXPECT_EQ(batch.targets[0][begin - 2].item<int>(), 257);
      EXPECT_EQ(batch.targets[0][begin - 1].item<int>(), -1);
      const auto hidden = [&] { return made.model->hidden(batch.tokens, batch.segments, nullptr); };
      {
        at::NoGradGuard no_grad;
        const at::Tensor all =
            made.model->loss(hidden(), batch.targets, {.per_token = true}).token_loss;
        losses.push_back(all[0].narrow(0, begin, all.size(1) - begin));
      }
      batch.targets.narrow(1, 0, begin).fill_(-1);
      zero_gradients(*made.model);
      made.model->loss(hidden(), batch.targets, {}).loss.backward();
      gradients.emplace_back();
      for (const Parameter* parameter : made.model->parameters())
        gradients.back().push_back(parameter->grad.clone());
    }
    EXPECT_GT(losses[0].min().item<float>(), 0);
    EXPECT_TRUE(at::equal(losses[0], losses[1])) << "bos " << bos;
    for (size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i])) << "tensor " << i << ", bos " << bos;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DocumentsTest, ::testing::ValuesIn(tiny_models()), tiny_model_name);

}  // namespace
}  // namespace ceiling
