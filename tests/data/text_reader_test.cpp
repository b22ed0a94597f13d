#include "data/text_reader.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "data/text_files.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

using Texts = std::vector<std::string>;

std::string gzip(const std::string& text) {
  z_stream state{};
  deflateInit2(&state, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&state, text.size()), '\0');
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  deflate(&state, Z_FINISH);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class TextReader : public ::testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& content) {
    fs::create_directories(fs::path(dir_ / name).parent_path());
    write_file_atomic(dir_ / name, content);
    return dir_ / name;
  }
  Texts read(const std::string& input, const TextOptions& options = {}) {
    const auto source = file_source({input}, options);
    const auto stream = source->open();
    Texts texts;
    for (std::string text; stream->next(text);) texts.push_back(text);
    EXPECT_EQ(stream->bytes_done(), source->size_bytes());
    n_replaced_ = stream->n_replaced();
    provenance_ = stream->provenance();
    return texts;
  }
  std::string error_of(const std::string& input, const TextOptions& options = {}) {
    try {
      read(input, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  TempDir dir_;
  int64_t n_replaced_ = 0;
  nlohmann::json provenance_;
};

TEST_F(TextReader, JsonlEscapesBecomeTheirCharacters) {
  const auto path = put(
      "a.jsonl",
      R"({"id": [1, {"text": "no"}, -2.5e3], "text": "a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00 é", "z": null})"
      "\n\n{\"text\":\"\"}\n  {\"text\" : \"last, without a line end\"}  ");
  EXPECT_EQ(read(path),
            (Texts{"a\"\\/\b\f\n\r\t\xC3\xA9\xF0\x9F\x98\x80 é", "", "last, without a line end"}));
}

TEST_F(TextReader, ByteOrderMarkAndCrlfDoNotChangeJsonl) {
  const std::string lf = "{\"text\": \"one\\r\\ntwo\"}\n{\"text\": \"three\"}\n";
  std::string crlf;
  for (const char c : lf) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  const Texts expected = {"one\r\ntwo", "three"};
  EXPECT_EQ(read(put("lf.jsonl", lf)), expected);
  EXPECT_EQ(read(put("crlf.jsonl", crlf)), expected);
  EXPECT_EQ(read(put("bom.jsonl", "\xEF\xBB\xBF" + crlf)), expected);
}

TEST_F(TextReader, LineEndsOfATextBecomeLf) {
  const std::string filler(200'000, 'x');  // so that a CR ends a block
  for (size_t shift = 0; shift < 3; ++shift) {
    const std::string begin = filler.substr(0, (size_t{1} << 17) - 2 + shift);
    EXPECT_EQ(read(put("crlf.txt", begin + "\r\n\r\nb\r\n")), Texts{begin + "\n\nb\n"});
    EXPECT_EQ(read(put("cr.txt", begin + "\r\rb\r")), Texts{begin + "\n\nb\n"});
  }
  EXPECT_EQ(read(put("bom.txt", "\xEF\xBB\xBFtext")), Texts{"text"});
  EXPECT_EQ(read(put("nul.txt", std::string("a\0b", 3))), Texts{std::string("a\0b", 3)});
}

TEST_F(TextReader, ASeparatorSplitsAText) {
  const TextOptions options{.document_separator = "\n\n"};
  EXPECT_EQ(read(put("a.txt", "one\r\n\r\ntwo\nlines\n\n\n\nthree\n"), options),
            (Texts{"one", "two\nlines", "", "three\n"}));
  EXPECT_EQ(read(put("b.txt", "one\n\n"), options), Texts{"one"});
  const std::string filler((size_t{1} << 17) - 1, 'x');  // the separator lies over two blocks
  EXPECT_EQ(read(put("c.txt", filler + "\n\nb"), options), (Texts{filler, "b"}));
  EXPECT_EQ(unescape("\\n--\\t\\\\n\\x"), "\n--\t\\n\\x");
}

TEST_F(TextReader, AllMembersAndFramesAreReadWhateverTheName) {
  const std::string a = "{\"text\": \"a\"}\n", b = "{\"text\": \"b\"}\n";
  const Texts expected = {"a", "b"};
  EXPECT_EQ(read(put("m.jsonl.gz", gzip(a) + gzip("") + gzip(b))), expected);
  EXPECT_EQ(read(put("f.jsonl.zst", zstd(a) + zstd("") + zstd(b))), expected);
  EXPECT_EQ(read(put("s.jsonl.zst", std::string("\x50\x2a\x4d\x18\x02\0\0\0??", 10) + zstd(a + b))),
            expected);
  EXPECT_EQ(read(put("wrong.jsonl.zst", gzip(a + b))), expected);
  EXPECT_EQ(read(put("plain.jsonl.gz", a + b)), expected);
  EXPECT_EQ(provenance_.at("files")[0].at("sha256"), sha256_hex(a + b));
}

TEST_F(TextReader, LargeCompressedTextComesBack) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += std::to_string(i * 7919) + ' ';
  EXPECT_EQ(read(put("a.txt.gz", gzip(text))), Texts{text});
  EXPECT_EQ(read(put("a.txt.zst", zstd(text))), Texts{text});
}

TEST_F(TextReader, EveryCutOfACompressedFileIsAnError) {
  const std::string text = "{\"text\": \"some words that are compressed, some words\"}\n";
  for (const auto& [name, all] : {std::pair{"gzip", gzip(text)}, {"zstd", zstd(text)}})
    for (size_t size = 4; size < all.size(); ++size) {
      const auto path = put("cut", all.substr(0, size));
      EXPECT_EQ(
          error_of(path),
          fmt::format("{}: byte {}: the file ends in the middle of the {} data: it is cut; get "
                      "it again",
                      path, size, name));
    }
}

TEST_F(TextReader, GarbageAndDamageAreErrorsWithTheirByte) {
  const std::string text = "{\"text\": \"some words\"}\n";
  const std::string gz = gzip(text), zst = zstd(text);
  auto path = put("a.gz", gz + "garbage");
  EXPECT_EQ(
      error_of(path),
      fmt::format("{}: byte {}: the gzip data end here, but the file goes on with something else",
                  path, gz.size()));
  path = put("a.zst", zst + "garbage");
  EXPECT_EQ(
      error_of(path),
      fmt::format("{}: byte {}: the zstd data end here, but the file goes on with something else",
                  path, zst.size()));
  std::string damaged = gz;
  damaged[gz.size() - 6] ^= 1;  // the checksum
  path = put("b.gz", damaged);
  EXPECT_EQ(error_of(path),
            fmt::format(
                "{}: byte {}: the gzip data are damaged (incorrect data check); get the file again",
                path, gz.size() - 4));
  path = put("c.txt", "BZh91AY&SY");
  EXPECT_EQ(error_of(path), path +
                                ": is bzip2-compressed, which ceiling does not read; write it as "
                                "plain text, gzip or zstd");
}

TEST_F(TextReader, MalformedUtf8IsAnErrorOrReplaced) {
  const TextOptions replace{.replace_invalid = true};
  const std::string way_out =
      "; convert the file (iconv), or let --invalid-utf8 replace write U+FFFD in place of what is "
      "malformed";
  auto path = put("a.txt", "fine\nbad \xff here\n");
  EXPECT_EQ(error_of(path), path + ":2: is no valid UTF-8" + way_out);
  EXPECT_EQ(read(path, replace), Texts{"fine\nbad \xEF\xBF\xBD here\n"});
  EXPECT_EQ(n_replaced_, 1);
  path = put("a.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"\xc3(\"}\n");
  EXPECT_EQ(error_of(path), path + ":2: is no valid UTF-8, byte 11 of the line" + way_out);
  EXPECT_EQ(read(path, replace), (Texts{"fine", "\xEF\xBF\xBD("}));
}

TEST_F(TextReader, LoneSurrogatesAreAnErrorOrReplaced) {
  const TextOptions replace{.replace_invalid = true};
  for (const auto& [escaped, expected] :
       {std::pair{R"(\ud83d high)", "\xEF\xBF\xBD high"},
        {R"(\ude00 low)", "\xEF\xBF\xBD low"},
        {R"(\ude00\ud83d)", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {R"(\ud83d\ud83d\ude00)", "\xEF\xBF\xBD\xF0\x9F\x98\x80"}}) {
    const auto path = put("a.jsonl", std::string("{\"text\": \"") + escaped + "\"}\n");
    EXPECT_TRUE(error_of(path).starts_with(path + ":1: \\u" + std::string(escaped).substr(2, 4) +
                                           " is half of a surrogate pair"))
        << error_of(path);
    EXPECT_EQ(read(path, replace), Texts{expected});
  }
}

TEST_F(TextReader, BadJsonNamesFileLineAndByte) {
  const std::pair<std::string, std::string> cases[] = {
      {"[1]", "is no JSON object (byte 1 of the line)"},
      {"{\"text\": \"a\"", "',' or '}' is missing (byte 13 of the line)"},
      {"{\"text\": \"a", "the line ends inside a string (byte 12 of the line)"},
      {"{\"text\": 5}", "the value of 'text' is no string (byte 10 of the line)"},
      {"{\"text\": null}", "the value of 'text' is no string (byte 10 of the line)"},
      {"{\"a\": [1, {]}, \"text\": \"\"}", "a string is missing (byte 12 of the line)"},
      {"{\"a\": tru, \"text\": \"\"}", "a value is missing or malformed (byte 7 of the line)"},
      {"{\"a\": 01, \"text\": \"\"}", "',' or '}' is missing (byte 8 of the line)"},
      {"{\"text\": \"\\x\"}", "an unknown escape stands in a string (byte 11 of the line)"},
      {"{\"text\": \"\\u12g4\"}",
       "four hexadecimal digits are missing after \\u (byte 15 of the line)"},
      {"{\"text\": \"tab\there\"}",
       "a control character stands unescaped in a string (byte 14 of the line)"},
      {"{\"text\": \"a\"} {}", "something follows the JSON object (byte 15 of the line)"},
      {"{\"text\": \"a\", \"text\": \"b\"}", "the key 'text' stands twice (byte 15 of the line)"},
      {"{\"body\": \"a\", \"id\": 1}",
       "has no key 'text', only 'body', 'id'; name the key of the text with --text-key (byte 1 of "
       "the line)"},
      {"{}", "has no key 'text'; name the key of the text with --text-key (byte 1 of the line)"},
      {"{\"a\": " + std::string(600, '['), "values are nested too deep (byte 520 of the line)"},
  };
  for (const auto& [line, message] : cases) {
    const auto path = put("bad.jsonl", "{\"text\": \"fine\"}\n" + line + "\n");
    EXPECT_EQ(error_of(path), path + ":2: " + message);
  }
  EXPECT_EQ(read(put("key.jsonl", "{\"body\": \"a\"}"), {.text_key = "body"}), Texts{"a"});
}

TEST_F(TextReader, ATooLongDocumentIsAnErrorNotMemory) {
  const TextOptions options{.max_document_bytes = 100'000};
  auto path = put("a.jsonl.zst", zstd("{\"text\": \"" + std::string(50'000'000, 'x') + "\"}"));
  EXPECT_EQ(error_of(path, options),
            path + ":1: a document is longer than 97.7 KiB; raise --max-document-bytes");
  path = put("a.txt", std::string(500'000, 'x'));
  EXPECT_EQ(error_of(path, options),
            path +
                ":1: a document is longer than 97.7 KiB; split the text with --document-separator "
                "(data.document_separator), or raise --max-document-bytes");
}

TEST_F(TextReader, FoldersAndPatternsGiveTheTextFilesInOrder) {
  put("c/b.txt", "b");
  put("c/a.jsonl", "");
  put("c/sub/z.txt.gz", gzip("z"));
  put("c/.hidden.txt", "h");
  put("c/.git/x.txt", "h");
  put("c/picture.png", "p");
  put("c/new, text=1 é#.txt", "n");
  const TextFiles files = find_text_files({dir_ / "c/"});
  EXPECT_EQ(files.paths, (Texts{dir_ / "c/a.jsonl", dir_ / "c/b.txt", dir_ / "c/new, text=1 é#.txt",
                                dir_ / "c/sub/z.txt.gz"}));
  EXPECT_EQ(files.n_skipped, 2);
  EXPECT_EQ(find_text_files({dir_ / "c/*.txt"}).paths,
            (Texts{dir_ / "c/b.txt", dir_ / "c/new, text=1 é#.txt"}));
  EXPECT_EQ(find_text_files({dir_ / "c/picture.png"}).paths, Texts{dir_ / "c/picture.png"});
}

TEST_F(TextReader, InputsThatNameNothingAreErrors) {
  put("c/picture.png", "p");
  put("c/a.txt", "a");
  const auto find_error = [](const std::vector<std::string>& inputs) -> std::string {
    try {
      find_text_files(inputs);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(find_error({dir_ / "none"}), (dir_ / "none") + ": there is no such file or folder");
  EXPECT_EQ(find_error({dir_ / "*.zst"}), (dir_ / "*.zst") + ": no file matches this pattern");
  EXPECT_EQ(
      find_error({dir_ / "c/*.png"}),
      (dir_ / "c/*.png") +
          ": no text file was found (1 other files); wanted are .txt, .jsonl or .ndjson, each "
          "also with .gz, .dz or .zst");
  EXPECT_EQ(
      find_error({dir_ / "c", dir_ / "c/../c/a.txt"}),
      (dir_ / "c/../c/a.txt") + ": is named twice by the inputs, so its text would count twice");
}

}  // namespace
}  // namespace ceiling
