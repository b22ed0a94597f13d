#include "data/sentencepiece_model.h"

#include <bit>
#include <cstring>
#include <optional>

#include "base/error.h"

namespace ceiling {

namespace {

// One field of a protocol-buffer message: a number (wire types 0, 1, 5) or bytes (2).
struct WireField {
  uint64_t number = 0, value = 0;
  std::string_view bytes;
};

class WireReader {
 public:
  WireReader(std::string_view message, const std::string& name) : rest_(message), name_(name) {}

  std::optional<WireField> next() {
    if (rest_.empty()) return std::nullopt;
    const uint64_t key = varint();
    WireField field;
    field.number = key >> 3;
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed(4);
        break;
      default:
        fail();
    }
    if (field.number == 0) fail();
    return field;
  }

 private:
  [[noreturn]] void fail() const { throw Error("{}: is not a SentencePiece model", name_); }

  std::string_view take(uint64_t size) {
    if (size > rest_.size()) fail();
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  uint64_t fixed(size_t size) {
    uint64_t value = 0;  // little endian, as this machine
    std::memcpy(&value, take(size).data(), size);
    return value;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view rest_;
  const std::string& name_;
};

SentencePieceModel::Piece parse_piece(std::string_view message, const std::string& name) {
  SentencePieceModel::Piece piece;
  WireReader reader(message, name);
  while (const auto field = reader.next()) {
    if (field->number == 1) piece.text = field->bytes;
    if (field->number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    if (field->number == 3) piece.kind = static_cast<SentencePieceModel::Kind>(field->value);
  }
  return piece;
}

// Field numbers of TrainerSpec and NormalizerSpec in sentencepiece_model.proto.
void parse_trainer_spec(std::string_view message, const std::string& name,
                        SentencePieceModel& model) {
  WireReader reader(message, name);
  while (const auto field = reader.next()) {
    if (field->number == 3)
      model.algorithm = static_cast<SentencePieceModel::Algorithm>(field->value);
    if (field->number == 41) model.bos = static_cast<int32_t>(field->value);
    if (field->number == 42) model.eos = static_cast<int32_t>(field->value);
  }
}

void parse_normalizer_spec(std::string_view message, const std::string& name,
                           SentencePieceModel& model) {
  WireReader reader(message, name);
  while (const auto field = reader.next()) {
    if (field->number == 2) model.rewrites_characters = !field->bytes.empty();
    if (field->number == 4) model.removes_spaces = field->value != 0;
    if (field->number == 5) model.escapes_spaces = field->value != 0;
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& name) {
  SentencePieceModel model;
  WireReader reader(bytes, name);
  while (const auto field = reader.next()) {
    if (field->number == 1) model.pieces.push_back(parse_piece(field->bytes, name));
    if (field->number == 2) parse_trainer_spec(field->bytes, name, model);
    if (field->number == 3) parse_normalizer_spec(field->bytes, name, model);
  }
  if (model.pieces.empty()) throw Error("{}: is not a SentencePiece model", name);
  return model;
}

}  // namespace ceiling
