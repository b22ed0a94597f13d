#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "train/logging.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  ceiling::start_logging();
  return RUN_ALL_TESTS();
}
