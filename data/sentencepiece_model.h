// A SentencePiece .model file, read without the library: it is one protocol-buffer message, of
// which ceiling needs the pieces and five options.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ceiling {

struct SentencePieceModel {
  enum class Kind {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  enum class Algorithm { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  struct Piece {
    std::string text;  // a space is written as U+2581
    float score = 0;
    Kind kind = Kind::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  Algorithm algorithm = Algorithm::kUnigram;
  bool rewrites_characters = false;  // a normalisation table: ligatures, full-width forms, ...
  bool removes_spaces = true;        // repeated, leading and trailing ones
  bool escapes_spaces = true;        // as U+2581
  int64_t bos = 1, eos = 2;          // -1: none
};

// Error "NAME: ..." if `bytes` is no such message.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& name);

}  // namespace ceiling
