#include "data/loader.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "base/stop.h"
#include "tests/support/temp_dir.h"
#include "tests/support/token_sets.h"

namespace ceiling {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// One sample, copied out of its batch.
struct Row {
  int64_t position, id;
  std::vector<int32_t> tokens, targets, documents;
  bool operator==(const Row&) const = default;
};

struct Seen {
  std::vector<Row> rows;
  std::vector<int64_t> step_samples;
  int64_t n_targets = 0;
  uint64_t digest = 0;
};

Seen read_steps(const LoaderOptions& options, int64_t n_steps = INT64_MAX) {
  Loader loader(options);
  Seen seen;
  for (int64_t step = 0; step < n_steps; ++step) {
    const auto batch = loader.next();
    if (!batch) break;
    seen.step_samples.push_back(batch->n_samples);
    seen.n_targets += batch->n_targets;
    seen.digest += batch->digest;
    EXPECT_EQ(static_cast<int64_t>(batch->sample_ids.size()), batch->n_samples);
    for (int64_t i = 0; i < batch->n_samples; ++i) {
      const int64_t T = batch->context, at = i * T;
      const auto copy = [&](const int32_t* from) {
        return std::vector<int32_t>(from + at, from + at + T);
      };
      seen.rows.push_back({batch->first_position + i, batch->sample_ids[static_cast<size_t>(i)],
                           copy(batch->tokens), copy(batch->targets), copy(batch->documents)});
    }
  }
  return seen;
}

class LoaderTest : public ::testing::Test {
 protected:
  // Stream of all documents, for comparison.
  std::vector<uint32_t> write(const std::string& name, const Documents& documents,
                              int64_t vocab_size = 300) {
    write_dataset(dir_ / name, documents, vocab_size, {.shard_tokens = 500});
    std::vector<uint32_t> stream;
    for (const auto& document : documents)
      stream.insert(stream.end(), document.begin(), document.end());
    return stream;
  }
  LoaderOptions options(const std::string& name, int64_t context, int64_t global_batch) {
    LoaderOptions o;
    o.parts = {{dir_ / name, 1.0}};
    o.context = context;
    o.global_batch = global_batch;
    return o;
  }
  const TempDir dir_;
};

TEST_F(LoaderTest, EveryEpochSeesEverySampleOnceInAnotherOrder) {
  const auto stream = write("d", random_documents(100, 1, 60, 300, 1));
  LoaderOptions o = options("d", 16, 8);
  o.cross_document = true;
  const auto per_epoch = static_cast<int64_t>((stream.size() - 1) / 16);
  o.end_position = 2 * per_epoch;
  EXPECT_EQ(Loader(o).samples_per_epoch(), per_epoch);
  const Seen seen = read_steps(o);
  ASSERT_EQ(static_cast<int64_t>(seen.rows.size()), 2 * per_epoch);
  std::vector<int64_t> first, second;
  for (const Row& row : seen.rows) {
    (row.position < per_epoch ? first : second).push_back(row.id);
    for (int64_t t = 0; t < 16; ++t) {
      const auto at = static_cast<size_t>(row.id * 16 + t);
      ASSERT_EQ(row.tokens[static_cast<size_t>(t)], static_cast<int32_t>(stream[at]));
      ASSERT_EQ(row.targets[static_cast<size_t>(t)], static_cast<int32_t>(stream[at + 1]));
      ASSERT_EQ(row.documents[static_cast<size_t>(t)], 0);
    }
  }
  EXPECT_NE(first, second);
  std::vector<int64_t> all(static_cast<size_t>(per_epoch));
  std::iota(all.begin(), all.end(), 0);
  EXPECT_NE(first, all);
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, all);
  EXPECT_EQ(second, all);
}

TEST_F(LoaderTest, WorldSizePrefetchAndBatchDoNotChangeWhatIsSeen) {
  write("d", random_documents(100, 1, 60, 300, 1));
  LoaderOptions o = options("d", 16, 30);
  o.end_position = 150;
  const Seen whole = read_steps(o);
  for (const int64_t world_size : {2, 3, 7, 40}) {
    for (const int64_t prefetch : {1, 5}) {
      std::map<int64_t, Row> rows;
      uint64_t digest = 0;
      int64_t n_targets = 0;
      std::vector<int64_t> per_step(5, 0);
      for (int64_t rank = 0; rank < world_size; ++rank) {
        LoaderOptions mine = o;
        mine.rank = rank, mine.world_size = world_size, mine.prefetch = prefetch;
        const Seen seen = read_steps(mine);
        ASSERT_EQ(seen.step_samples.size(), 5u) << "every rank takes part in every step";
        for (size_t step = 0; step < 5; ++step) per_step[step] += seen.step_samples[step];
        digest += seen.digest, n_targets += seen.n_targets;
        for (const Row& row : seen.rows) EXPECT_TRUE(rows.emplace(row.position, row).second);
      }
      EXPECT_EQ(per_step, std::vector<int64_t>(5, 30)) << "never fewer than the global batch";
      EXPECT_EQ(digest, whole.digest);
      EXPECT_EQ(n_targets, whole.n_targets);
      for (const Row& row : whole.rows) EXPECT_EQ(rows.at(row.position), row);
    }
  }
  for (const int64_t global_batch : {1, 7, 150}) {
    LoaderOptions other = o;
    other.global_batch = global_batch;
    const Seen seen = read_steps(other);
    EXPECT_EQ(seen.rows, whole.rows);
    EXPECT_EQ(seen.digest, whole.digest);
  }
}

TEST_F(LoaderTest, ResumeFromAnyPositionContinuesTheSameOrder) {
  write("d", random_documents(30, 1, 60, 300, 1));
  LoaderOptions o = options("d", 16, 4);
  o.end_position = 200;
  const Seen whole = read_steps(o);
  for (const int64_t cut : {0, 1, 55, 56, 57, 199, 200}) {
    LoaderOptions rest = o;
    rest.first_position = cut;
    const Seen seen = read_steps(rest);
    EXPECT_EQ(seen.rows, std::vector<Row>(whole.rows.begin() + cut, whole.rows.end()));
  }
}

TEST_F(LoaderTest, SeedChangesTheOrderAndTheDigestTellsOrdersApart) {
  write("d", random_documents(100, 1, 60, 300, 1));
  LoaderOptions o = options("d", 16, 10);
  const Seen a = read_steps(o, 3);
  o.seed = 2;
  const Seen b = read_steps(o, 3);
  EXPECT_NE(a.rows, b.rows);
  EXPECT_NE(a.digest, b.digest);
}

TEST_F(LoaderTest, DigestIsTheDocumentedHash) {
  const auto stream = write("d", {{1, 2, 3, 4, 5}});
  LoaderOptions o = options("d", 4, 1);
  o.end_position = 1;
  const int64_t position = 0;
  const auto bytes = Sha256().update(&position, 8).update(stream.data(), 5 * 4).digest();
  uint64_t wanted = 0;
  std::memcpy(&wanted, bytes.data(), 8);
  EXPECT_EQ(read_steps(o).digest, wanted);
}

TEST_F(LoaderTest, EvaluationCountsEveryTargetOnceTheTailToo) {
  for (const int64_t n_tokens : {2, 16, 17, 18, 100, 1001}) {
    const std::string name = "d" + std::to_string(n_tokens);
    const auto stream = write(name, random_documents(1, n_tokens, n_tokens, 300, 4));
    for (const int64_t batch : {1, 3, 7, 64}) {
      LoaderOptions o = options(name, 16, batch);
      o.shuffle = false;
      const Seen seen = read_steps(o);
      EXPECT_EQ(static_cast<int64_t>(seen.rows.size()), Loader::evaluation_samples(o));
      EXPECT_EQ(seen.n_targets, n_tokens - 1);
      std::vector<uint32_t> targets;
      for (const Row& row : seen.rows)
        for (size_t t = 0; t < 16; ++t) {
          if (row.targets[t] < 0) continue;
          EXPECT_EQ(row.tokens[t], static_cast<int32_t>(stream[targets.size()]));
          targets.push_back(static_cast<uint32_t>(row.targets[t]));
        }
      EXPECT_EQ(targets, std::vector<uint32_t>(stream.begin() + 1, stream.end()));
    }
  }
}

TEST_F(LoaderTest, EvaluationOfSeveralPartsReadsOneAfterTheOther) {
  write("a", random_documents(10, 5, 60, 300, 1));
  write("b", random_documents(3, 5, 60, 300, 2));
  LoaderOptions o = options("a", 16, 5);
  o.parts.push_back({dir_ / "b", 100.0});
  o.shuffle = false;
  LoaderOptions only_a = options("a", 16, 5), only_b = options("b", 16, 5);
  only_a.shuffle = only_b.shuffle = false;
  const Seen both = read_steps(o), a = read_steps(only_a), b = read_steps(only_b);
  EXPECT_EQ(both.n_targets, a.n_targets + b.n_targets);
  EXPECT_EQ(both.rows.size(), a.rows.size() + b.rows.size());
}

TEST_F(LoaderTest, DocumentsAreCountedAndTheirLastTokensHaveNoTarget) {
  write("d", {{10, 11, 1}, {20, 1}, {30, 31, 32, 1}, {40, 41, 1}, {1}, {1}});
  LoaderOptions o = options("d", 8, 1);
  o.shuffle = false;
  const Seen seen = read_steps(o);
  ASSERT_EQ(seen.rows.size(), 2u);
  EXPECT_EQ(seen.rows[0].tokens, (std::vector<int32_t>{10, 11, 1, 20, 1, 30, 31, 32}));
  EXPECT_EQ(seen.rows[0].targets, (std::vector<int32_t>{11, 1, -1, 1, -1, 31, 32, 1}));
  EXPECT_EQ(seen.rows[0].documents, (std::vector<int32_t>{0, 0, 0, 1, 1, 2, 2, 2}));
  EXPECT_EQ(seen.rows[1].tokens, (std::vector<int32_t>{1, 40, 41, 1, 1, 1, 0, 0}));
  EXPECT_EQ(seen.rows[1].targets, (std::vector<int32_t>{-1, 41, 1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(seen.rows[1].documents, (std::vector<int32_t>{0, 1, 1, 1, 2, 3, 3, 3}));
  EXPECT_EQ(seen.n_targets, 8);  // 14 tokens in 6 documents, whose first tokens nobody predicts
  o.cross_document = true;
  EXPECT_EQ(read_steps(o).n_targets, 13);
}

TEST_F(LoaderTest, DocumentEndingWithTheRowHasNoTargetInIt) {
  write("d", {{10, 11, 12, 1}, {20, 21, 22, 23, 1}});
  LoaderOptions o = options("d", 4, 1);
  o.shuffle = false;
  const Seen seen = read_steps(o);
  EXPECT_EQ(seen.rows[0].targets, (std::vector<int32_t>{11, 12, 1, -1}));
  EXPECT_EQ(seen.rows[1].documents, (std::vector<int32_t>{0, 0, 0, 0}));
}

// The second document's rows of loss must not depend on the first: it is never a target from there,
// and what is a target in it is the same whatever came before.
TEST_F(LoaderTest, TargetsOfADocumentDoNotDependOnItsNeighbour) {
  write("a", {{10, 11, 12, 1}, {20, 21, 22, 1, 1}});
  write("b", {{15, 16, 17, 1}, {20, 21, 22, 1, 1}});
  const Seen a = read_steps(options("a", 8, 1), 1), b = read_steps(options("b", 8, 1), 1);
  for (size_t t = 4; t < 8; ++t) {
    EXPECT_EQ(a.rows[0].tokens[t], b.rows[0].tokens[t]);
    EXPECT_EQ(a.rows[0].targets[t], b.rows[0].targets[t]);
  }
  EXPECT_EQ(a.rows[0].targets[3], -1);
  EXPECT_EQ(a.rows[0].targets[2], 1) << "EOS is a target";
}

TEST_F(LoaderTest, MixtureKeepsItsSharesAndEachPartItsOwnEpochs) {
  write("a", random_documents(50, 1, 60, 300, 1));
  write("b", random_documents(5, 1, 60, 300, 2));
  LoaderOptions o = options("a", 16, 10);
  o.parts[0].weight = 0.7;
  o.parts.push_back({dir_ / "b", 0.3});
  o.end_position = 400;
  const Seen mixed = read_steps(o);
  // Samples of b are recognised by comparing with b alone, whose order has part number 0 there:
  // compare as sets.
  LoaderOptions only_b = options("b", 16, 1);
  only_b.shuffle = false;
  std::map<std::vector<int32_t>, int64_t> of_b;
  for (const Row& row : read_steps(only_b).rows) of_b[row.tokens] = 0;
  int64_t n_b = 0;
  for (const Row& row : mixed.rows)
    if (const auto at = of_b.find(row.tokens); at != of_b.end()) ++at->second, ++n_b;
  EXPECT_EQ(n_b, 120);
  const int64_t per_epoch = [&] {
    LoaderOptions b = options("b", 16, 1);
    return Loader(b).samples_per_epoch();
  }();
  for (const auto& [tokens, count] : of_b)
    if (count > 0) {
      EXPECT_NEAR(static_cast<double>(count), 120.0 / static_cast<double>(per_epoch), 1.0);
    }
}

TEST_F(LoaderTest, FingerprintTellsDataApartAndNothingElse) {
  write("a", random_documents(50, 1, 60, 300, 1));
  write("b", random_documents(50, 1, 60, 300, 2));
  const LoaderOptions base = options("a", 16, 10);
  const std::string wanted = Loader(base).fingerprint();
  const auto with = [&](const std::function<void(LoaderOptions&)>& change) {
    LoaderOptions o = base;
    change(o);
    return Loader(o).fingerprint();
  };
  EXPECT_EQ(wanted,
            with([](LoaderOptions& o) { o.seed = 9, o.global_batch = 3, o.world_size = 2; }));
  EXPECT_NE(wanted, with([](LoaderOptions& o) { o.context = 8; }));
  EXPECT_NE(wanted, with([](LoaderOptions& o) { o.cross_document = true; }));
  EXPECT_NE(wanted, with([](LoaderOptions& o) { o.shuffle = false; }));
  EXPECT_NE(wanted, with([&](LoaderOptions& o) { o.parts[0].path = dir_ / "b"; }));
  EXPECT_NE(with([&](LoaderOptions& o) {
              o.parts.push_back({dir_ / "b", 1.0});
            }),
            with([&](LoaderOptions& o) {
              o.parts.push_back({dir_ / "b", 2.0});
            }));
  std::filesystem::rename(dir_ / "a", dir_ / "moved");
  EXPECT_EQ(wanted, with([&](LoaderOptions& o) { o.parts[0].path = dir_ / "moved"; }));
  EXPECT_EQ(Loader(options("b", 16, 1)).describe()["parts"][0]["path"], dir_ / "b");
}

TEST_F(LoaderTest, TextBytesPerTokenCountTargets) {
  write("d", {{10, 11, 1}, {20, 1}});  // 3 bytes per token
  LoaderOptions o = options("d", 2, 1);
  EXPECT_DOUBLE_EQ(Loader(o).text_bytes_per_token(), 15.0 / 3);
  o.cross_document = true;
  EXPECT_DOUBLE_EQ(Loader(o).text_bytes_per_token(), 15.0 / 4);
}

TEST_F(LoaderTest, TooFewTokensAreRefusedWithTheirNumber) {
  write("d", random_documents(1, 64, 64, 300, 1));
  EXPECT_EQ(
      message_of([&] { Loader(options("d", 64, 1)); }),
      dir_ /
          "d: split train has 64 tokens, at least 65 are needed (context 64 + 1): use more text "
          "or a smaller data.context");
  LoaderOptions valid = options("d", 64, 1);
  valid.split = Split::kValid;
  EXPECT_EQ(
      message_of([&] { Loader{valid}; }),
      dir_ /
          "d: split valid has 0 tokens, at least 65 are needed (context 64 + 1): use more text "
          "or a smaller data.context");
  EXPECT_EQ(message_of([&] { Loader(options("d", 63, 1)); }), "no error");
}

TEST_F(LoaderTest, MixedVocabulariesAreRefused) {
  write("a", {{1, 2, 3, 4}}, 300);
  write("b", {{1, 2, 3, 4}}, 301);
  LoaderOptions o = options("a", 2, 1);
  o.parts.push_back({dir_ / "b", 1.0});
  EXPECT_EQ(message_of([&] { Loader{o}; }),
            dir_ / "b: tokenizer is 'test' (sha256 aaaaaaaaaaaa, 301 ids), " + (dir_ / "a") +
                " has 'test' (aaaaaaaaaaaa, 300 ids); one run needs one tokenizer: prepare one of "
                "them again");
}

TEST_F(LoaderTest, AbsurdOptionsAreRefused) {
  write("d", {{1, 2, 3, 4}});
  const auto message = [&](const std::function<void(LoaderOptions&)>& change) {
    LoaderOptions o = options("d", 2, 1);
    change(o);
    return message_of([&] { Loader{o}; });
  };
  EXPECT_EQ(message([](LoaderOptions& o) { o.context = 0; }),
            "loader: context is 0, must be from 1 to 2147483647");
  EXPECT_EQ(message([](LoaderOptions& o) { o.context = int64_t{1} << 60; }),
            "loader: context is 1152921504606846976, must be from 1 to 2147483647");
  EXPECT_EQ(message([](LoaderOptions& o) { o.rank = 2, o.world_size = 2; }),
            "loader: rank is 2, must be from 0 to 1");
  EXPECT_EQ(message([](LoaderOptions& o) { o.global_batch = -1; }),
            "loader: global_batch is -1, must be from 1 to 2147483647");
  EXPECT_EQ(message([](LoaderOptions& o) { o.parts.clear(); }),
            "loader: there is no dataset to read");
  EXPECT_EQ(message([](LoaderOptions& o) { o.parts[0].weight = 0; }),
            "mixture: weight 0 is out of range, must be more than 0");
}

// ---- the reader thread

TEST_F(LoaderTest, ErrorInTheReaderThreadReachesNextAfterTheGoodBatches) {
  write("d", random_documents(40, 50, 50, 300, 1));
  LoaderOptions o = options("d", 16, 1);
  o.shuffle = false;
  o.prefetch = 1;
  Loader loader(o);
  ASSERT_TRUE(loader.next());
  // The reader is one or two samples ahead, within the first shard of 500 tokens; the third is
  // gone.
  const std::string shard = dir_ / "d/train-00002.h5";
  std::filesystem::remove(shard);
  int64_t n_good = 1;
  const std::string message = message_of([&] {
    while (loader.next()) ++n_good;
  });
  EXPECT_EQ(message, shard + ": cannot open the shard: No such file or directory");
  EXPECT_EQ(n_good, (2 * 500) / 16) << "all samples before the third shard";
  EXPECT_EQ(message_of([&] { loader.next(); }), message) << "and it stays an error";
}

// A reader thread held up at its next allocation, as by a file system that does not answer.
class HeldUp {
 public:
  std::shared_ptr<void> operator()(size_t size_bytes) {
    if (n_left-- == 0) release.get_future().wait();
    return {::operator new(size_bytes), [](void* memory) { ::operator delete(memory); }};
  }
  int n_left = 0;
  std::promise<void> release;
};

TEST_F(LoaderTest, WaitIsBoundedAndNamesShardAndRank) {
  write("d", random_documents(40, 50, 50, 300, 1));
  const auto held = std::make_shared<HeldUp>();
  held->n_left = 1;
  LoaderOptions o = options("d", 16, 2);
  o.shuffle = false;
  o.timeout_s = 0.01;
  o.rank = 1, o.world_size = 2;
  o.allocate = [held](size_t n) { return (*held)(n); };
  {
    Loader loader(o);
    ASSERT_TRUE(loader.next());
    EXPECT_EQ(
        message_of([&] { loader.next(); }),
        dir_ /
            "d/train-00000.h5: no data for 0.01 s on rank 1 (sample 1): is the file system alive?");
  }  // does not hang although the reader does
  held->release.set_value();
}

TEST_F(LoaderTest, StopRequestEndsTheWait) {
  write("d", random_documents(40, 50, 50, 300, 1));
  const auto held = std::make_shared<HeldUp>();
  LoaderOptions o = options("d", 16, 2);
  o.allocate = [held](size_t n) { return (*held)(n); };
  Loader loader(o);
  stop::install_handlers();
  std::raise(SIGUSR1);
  EXPECT_THROW(loader.next(), Interrupted);
  stop::reset();
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) std::signal(signal, SIG_DFL);
  held->release.set_value();
}

TEST_F(LoaderTest, FailedAllocationIsAnError) {
  write("d", random_documents(40, 50, 50, 300, 1));
  LoaderOptions o = options("d", 16, 2);
  o.allocate = [](size_t) -> std::shared_ptr<void> { throw std::bad_alloc(); };
  Loader loader(o);
  EXPECT_EQ(message_of([&] { loader.next(); }),
            "rank 0: no memory for a step of 2 samples of 16 tokens; lower data.context, "
            "train.global_batch "
            "or data.prefetch");
}

TEST_F(LoaderTest, DestructionAtAnyMomentIsClean) {
  write("d", random_documents(40, 50, 50, 300, 1));
  for (int64_t n_steps = 0; n_steps < 100; ++n_steps) {
    LoaderOptions o = options("d", 16, 1 + n_steps % 7);
    o.prefetch = 1 + n_steps % 3;
    std::optional<Batch> last;
    {
      Loader loader(o);
      for (int64_t i = 0; i < n_steps % 5; ++i) last = loader.next();
    }
    if (!last) continue;
    EXPECT_GE(last->tokens[0], 0) << "a batch outlives its loader";
  }
}

TEST_F(LoaderTest, SeveralLoadersReadOneDatasetAtOnce) {
  write("d", random_documents(400, 1, 60, 300, 1));
  LoaderOptions o = options("d", 16, 10);
  o.end_position = 300;
  const Seen alone = read_steps(o);
  std::vector<std::future<Seen>> together;
  for (int i = 0; i < 4; ++i)
    together.push_back(std::async(std::launch::async, [o] { return read_steps(o); }));
  for (auto& seen : together) EXPECT_EQ(seen.get().rows, alone.rows);
}

}  // namespace
}  // namespace ceiling
