#include "data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/random.h"
#include "data/train_sentencepiece.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// English-like words with everything that trips tokenizers among them.
std::string sample_text(int64_t n_words, uint64_t seed) {
  const char* words[] = {"stone",  "river", "walking", "the",    "The",    "under",
                         "window", "12",    "naïve",   "été",    "世界",   "ﬁnd",
                         "…",      "a",     "quietly", "north,", "\tcode", "\n\n",
                         ".\n",    "2,048", "—",       "of",     "rivers", "stones."};
  const RandomStream random(seed, "test/tokenizer");
  std::string text;
  for (int64_t i = 0; i < n_words; ++i)
    text +=
        std::string(i ? " " : "") + words[random.bits(static_cast<uint64_t>(i)) % std::size(words)];
  return text;
}

const std::string& sample_model() {
  static const std::string model = [] {
    WordCounts words;
    words.add(sample_text(4000, 1));
    return train_sentencepiece(std::move(words), 320);
  }();
  return model;
}

const std::vector<std::string> kNastyTexts = {
    "",
    " ",
    "   ",
    " leading",
    "trailing ",
    "two  spaces   three",
    "\n",
    "\n\n\na\n b \n",
    "tab\tand\ttab",
    "CR\rand\r\nCRLF",
    std::string("NUL\0in the middle\0", 18),
    "a literal \xE2\x96\x81 mark \xE2\x96\x81\xE2\x96\x81the",
    "the unknown mark \xE2\x96\x85 stone",
    "ﬁ ligature ﬀ, full width ＡＢＣ, ①",
    "emoji 😀👩‍👩‍👧 and e\xCC\x81 combining",
    "<unk> <s> </s> <0x41>",
    "\x01\x02\x1b[0m\x7f",
    "U+FEFF inside \xEF\xBB\xBF text",
    "1234567890",
    "malformed \xff\xc3( \xed\xa0\xbd",
    std::string(20000, 'x'),
    std::string(9000, ' ') + "stone" + std::string(9000, '\n'),
};

TEST(Tokenizer, ByteGivesEveryTextBack) {
  const auto tokenizer = byte_tokenizer();
  for (const std::string& text : kNastyTexts)
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_EQ(tokenizer->info(), (TokenizerInfo{"byte", sha256_hex("byte"), 258, 256, 257}));
  EXPECT_EQ(tokenizer->decode(std::vector<uint32_t>{256, 'a', 257, 258, 4000000}), "a");
}

TEST(Tokenizer, SentencePieceGivesEveryTextBack) {
  const auto tokenizer = sentencepiece_tokenizer(sample_model(), "spm:320");
  for (const std::string& text : kNastyTexts) {
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    for (const uint32_t id : ids) {
      EXPECT_GE(id, 3u) << text;  // never unknown, BOS or EOS
      EXPECT_LT(id, 320u);
    }
  }
}

TEST(Tokenizer, RandomBytesAndTextsComeBack) {
  const auto tokenizer = sentencepiece_tokenizer(sample_model(), "spm:320");
  const RandomStream random(5, "test/bytes");
  for (uint64_t round = 0; round < 300; ++round) {
    std::string text = sample_text(20, round);
    for (uint64_t i = 0; i < 10; ++i)
      text[random.bits(round * 20 + 2 * i) % text.size()] =
          static_cast<char>(random.bits(round * 20 + 2 * i + 1));
    ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(Tokenizer, MergesAreThoseOfTheLibrary) {
  const auto ours = sentencepiece_tokenizer(sample_model(), "spm:320");
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(sample_model()).ok());
  for (uint64_t seed = 10; seed < 60; ++seed) {
    const std::string text = sample_text(200, seed);
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    const auto found = ours->encode(text);
    ASSERT_EQ(std::vector<int>(found.begin(), found.end()), expected);
  }
}

TEST(Tokenizer, TwoTokenizersInOneThreadDoNotMixTheirWords) {
  WordCounts words;
  words.add(sample_text(4000, 2));
  const auto small = sentencepiece_tokenizer(train_sentencepiece(std::move(words), 290), "spm:290");
  const auto large = sentencepiece_tokenizer(sample_model(), "spm:320");
  const std::string text = sample_text(50, 3);
  const auto alone = large->encode(text);
  EXPECT_EQ(small->decode(small->encode(text)), text);
  EXPECT_EQ(large->encode(text), alone);
}

TEST(Tokenizer, TrainedPiecesKeepDigitsAloneAndSpacesInFront) {
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(sample_model()).ok());
  EXPECT_EQ(library.unk_id(), 0);
  EXPECT_EQ(library.bos_id(), 1);
  EXPECT_EQ(library.eos_id(), 2);
  for (int id = 0; id < 256; ++id)
    EXPECT_EQ(library.IdToPiece(3 + id), fmt::format("<0x{:02X}>", id));
  for (int id = 259; id < library.GetPieceSize(); ++id) {
    const std::string& piece = library.IdToPiece(id);
    EXPECT_LT(
        std::count_if(piece.begin(), piece.end(), [](char c) { return c >= '0' && c <= '9'; }), 2);
  }
}

TEST(Tokenizer, TrainingIsDeterministic) {
  WordCounts words;
  words.add(sample_text(4000, 1));
  EXPECT_EQ(sha256_hex(train_sentencepiece(std::move(words), 320)), sha256_hex(sample_model()));
}

TEST(Tokenizer, OneGiantLineTrainsPiecesLongerThanALetter) {
  std::string line;
  for (int i = 0; i < 20000; ++i) line += "stoneriver";
  WordCounts words;
  words.add(line);
  const auto tokenizer =
      sentencepiece_tokenizer(train_sentencepiece(std::move(words), 280), "spm:280");
  EXPECT_LT(tokenizer->encode("stoneriver").size(), 6u);
}

TEST(Tokenizer, TooLargeAVocabularySaysWhatIsPossible) {
  const auto train = [](int64_t vocab_size) {
    WordCounts words;
    words.add("green lamp green river");
    return train_sentencepiece(std::move(words), vocab_size);
  };
  const std::string message = error_of([&] { train(5000); });
  EXPECT_TRUE(
      message.starts_with("tokenizer spm:5000: the text (22 B, 4 different words) gives only "))
      << message;
  const auto possible = message.substr(message.find("use spm:") + 8, 3);
  EXPECT_NO_THROW(train(std::stoll(possible)));
  EXPECT_EQ(error_of([&] { train(200); }),
            "tokenizer spm:200: too small; 259 pieces are taken by bytes, BOS, EOS and unknown, so "
            "the least is spm:261");
  EXPECT_EQ(error_of([] { train_sentencepiece({}, 300); }),
            "tokenizer spm:300: there is no text to learn words from; use the tokenizer byte");
}

TEST(Tokenizer, AModelThatIsNoneOrLosesTextIsRefused) {
  EXPECT_EQ(error_of([] { sentencepiece_tokenizer("no model at all", "x.model"); }),
            "x.model: is not a SentencePiece model");
  EXPECT_EQ(error_of([] { sentencepiece_tokenizer("", "x.model"); }),
            "x.model: is not a SentencePiece model");
  EXPECT_EQ(error_of([] { sentencepiece_tokenizer(sample_model().substr(0, 3000), "x.model"); }),
            "x.model: is not a SentencePiece model");
  const TempDir dir;
  write_file_atomic(dir / "text", sample_text(3000, 4) + "\n" + sample_text(3000, 5));
  const auto refused = [&](const std::string& kind, const std::string& normalisation,
                           const std::string& fallback) {
    std::string model;
    const auto status =
        sentencepiece::SentencePieceTrainer::Train({{"input", dir / "text"},
                                                    {"model_prefix", dir / "m"},
                                                    {"vocab_size", "320"},
                                                    {"hard_vocab_limit", "false"},
                                                    {"model_type", kind},
                                                    {"byte_fallback", fallback},
                                                    {"normalization_rule_name", normalisation},
                                                    {"max_sentence_length", "1000000"},
                                                    {"minloglevel", "3"}});
    if (!status.ok()) return std::string(status.error_message());
    return error_of([&] { sentencepiece_tokenizer(read_file(dir / "m.model"), "x.model"); });
  };
  EXPECT_EQ(refused("unigram", "identity", "true"),
            "x.model: is a SentencePiece model, but not of kind BPE; train one with spm:VOCAB");
  EXPECT_TRUE(refused("bpe", "nmt_nfkc", "true").starts_with("x.model: rewrites the text"));
}

TEST(Tokenizer, ADatasetsTokenizerIsCheckedAgainstItsManifest) {
  const TempDir dir;
  const auto tokenizer = sentencepiece_tokenizer(sample_model(), "spm:320");
  const auto write = [&](const std::string& path, const std::string& file) {
    DatasetWriter writer(path, tokenizer->info(), {});
    writer.add_document(Split::kTrain, tokenizer->encode("the river"), 9);
    if (!file.empty()) writer.add_file(kTokenizerFile, file);
    writer.commit(nlohmann::json::object());
  };
  write(dir / "good", sample_model());
  EXPECT_EQ(dataset_tokenizer(DatasetReader(dir / "good"))->info(), tokenizer->info());
  std::string changed = sample_model();
  changed.back() ^= 1;
  write(dir / "changed", changed);
  EXPECT_TRUE(
      error_of([&] {
        dataset_tokenizer(DatasetReader(dir / "changed"));
      }).starts_with(dir / "changed" + "/tokenizer.model: is not the tokenizer of this dataset"));
  write(dir / "imported", "");
  const auto ids_only = dataset_tokenizer(DatasetReader(dir / "imported"));
  EXPECT_EQ(ids_only->info(), tokenizer->info());
  EXPECT_EQ(error_of([&] { ids_only->encode("x"); }),
            dir / "imported" +
                ": the dataset has no tokenizer.model (its tokens were imported), so "
                "there is no text for its ids; train it without eval.prompts");
}

TEST(Tokenizer, TextIdsAreThePiecesOfTextWithoutControlUnknownAndByteFallback) {
  const auto tokenizer = sentencepiece_tokenizer(sample_model(), "spm:320");
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(sample_model()).ok());
  std::vector<uint32_t> wanted;
  for (int id = 0; id < library.GetPieceSize(); ++id)
    if (!library.IsControl(id) && !library.IsUnknown(id) && !library.IsByte(id))
      wanted.push_back(static_cast<uint32_t>(id));
  EXPECT_EQ(tokenizer->text_ids(), wanted);
  EXPECT_GT(wanted.size(), 32u);
}

TEST(Tokenizer, TextIdsOfBytesArePrintableAndOfBareIdsAllButTheEnds) {
  const auto ids = byte_tokenizer()->text_ids();
  EXPECT_EQ(ids.size(), 95u);
  const std::string text = byte_tokenizer()->decode(ids);
  EXPECT_EQ(text.front(), ' ');
  EXPECT_EQ(text.back(), '~');
  const auto bare =
      ids_only_tokenizer({.name = "gpt2", .sha256 = "", .vocab_size = 5, .bos = -1, .eos = 3},
                         "data")
          ->text_ids();
  EXPECT_EQ(bare, (std::vector<uint32_t>{0, 1, 2, 4}));
}

}  // namespace
}  // namespace ceiling
