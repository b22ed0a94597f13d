#include "base/config_node.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "tests/support/temp_dir.h"

namespace ceiling {
namespace {

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string text_error(const std::string& text) {
  return error_of([&] { parse_config_text(text, "a.yaml"); });
}

// The text of the value at `key`.
std::string value(const ConfigNode& root, const std::string& key) {
  const ConfigNode* node = root.find_path(key);
  return node ? node->text : "(missing)";
}
std::string value(const std::string& text, const std::string& key) {
  return value(parse_config_text(text, "a.yaml"), key);
}

TEST(ConfigNodeTest, ValuesRememberTheLineOfTheirKey) {
  const ConfigNode root =
      parse_config_text("# head\nrun:\n  seed: 1\ntrain: {lr: 1, steps:\n  3}\n", "a.yaml");
  EXPECT_EQ(root.find("run")->where, "a.yaml:2");
  EXPECT_EQ(root.find_path("run.seed")->where, "a.yaml:3");
  EXPECT_EQ(root.find_path("train.lr")->where, "a.yaml:4");
  EXPECT_EQ(root.find_path("train.steps")->where, "a.yaml:4");
}

TEST(ConfigNodeTest, ScalarsStayAsWritten) {
  EXPECT_EQ(value("a: 010", "a"), "010");
  EXPECT_EQ(value("a: no", "a"), "no");
  EXPECT_EQ(value("a: '3'", "a"), "3");
  EXPECT_EQ(value("a: x#y", "a"), "x#y");
}

TEST(ConfigNodeTest, ByteOrderMarkAndEveryLineEndAreRead) {
  for (const std::string text : {"\xEF\xBB\xBF"
                                 "a: 1\nb: 2\n",
                                 "a: 1\r\nb: 2\r\n", "a: 1\rb: 2\r"}) {
    EXPECT_EQ(value(text, "a"), "1");
    EXPECT_EQ(value(text, "b"), "2");
    EXPECT_EQ(parse_config_text(text, "a.yaml").find("b")->where, "a.yaml:2");
  }
}

TEST(ConfigNodeTest, AliasStandsForItsValueOnItsOwnLine) {
  const ConfigNode root = parse_config_text("a: &x 7\nb: *x\n", "a.yaml");
  EXPECT_EQ(value(root, "b"), "7");
  EXPECT_EQ(root.find("b")->where, "a.yaml:2");
}

TEST(ConfigNodeTest, MergeKeyGivesItsMapAndExplicitKeysWin) {
  const std::string text = "a: &x {p: 1, q: 2}\nb: &y {p: 3, r: 4}\nc:\n  <<: [*x, *y]\n  q: 5\n";
  EXPECT_EQ(value(text, "c.p"), "1");  // the first of the list wins
  EXPECT_EQ(value(text, "c.q"), "5");
  EXPECT_EQ(value(text, "c.r"), "4");
  EXPECT_EQ(value("a: &x {p: 1}\nc: {p: 2, <<: *x}\n", "c.p"), "2");
}

TEST(ConfigNodeTest, MergeOfAScalarIsRefused) {
  EXPECT_EQ(
      text_error("a: &x 3\nb: {<<: *x}\n"),
      "a.yaml:2: '<<' merges maps, as in '<<: *name'; to build on another file write 'base: FILE'");
}

TEST(ConfigNodeTest, DuplicateKeyIsRefusedWithBothLines) {
  EXPECT_EQ(text_error("t:\n  a: 1\n  b: 2\n  a: 3\n"),
            "a.yaml:4: the key 'a' is given twice, first in a.yaml:2; keep one");
}

TEST(ConfigNodeTest, SecondDocumentIsRefused) {
  const std::string message =
      "the YAML document ended above this line (by '---' or wrong indentation); a configuration is "
      "one document";
  EXPECT_EQ(text_error("a: 1\n---\nb: 2\n"), "a.yaml:2: " + message);
  EXPECT_EQ(text_error("- a\nb: 2\n"), "a.yaml:2: " + message);
  EXPECT_EQ(value("---\na: 1\n...\n", "a"), "1");
}

TEST(ConfigNodeTest, FileWithoutSettingsIsRefused) {
  for (const char* text : {"", "# nothing\n", "\n\n", "---\n"})
    EXPECT_EQ(text_error(text),
              "a.yaml:1: the file holds no settings; configs/quickstart.yaml is an example");
}

TEST(ConfigNodeTest, RootThatIsNoMapIsRefused) {
  EXPECT_EQ(text_error("- run: 1\n- b: 2\n"),
            "a.yaml:1: the file is a list, not sections such as 'train: {steps: 20}'");
  EXPECT_EQ(text_error("\nhello\n"),
            "a.yaml:2: the file is a single value, not sections such as 'train: {steps: 20}'");
}

TEST(ConfigNodeTest, TabInIndentationIsRefused) {
  EXPECT_EQ(text_error("a:\n\tb: 1\n"),
            "a.yaml:2: a tab in the indentation; YAML indents with spaces");
  EXPECT_EQ(text_error("a:\n  \tb: 1\n"),
            "a.yaml:2: a tab in the indentation; YAML indents with spaces");
  EXPECT_EQ(value("a:\t1\t# c\n", "a"), "1");
}

TEST(ConfigNodeTest, SyntaxErrorsNameTheLineAndTheUsualCause) {
  EXPECT_EQ(text_error("a:\n  b: 1\n c: 2\n"),
            "a.yaml:3: not valid YAML: wrong indentation, or a line without 'key: ' (end of map "
            "not found)");
  EXPECT_EQ(text_error("a: {b: 1\nc: 2\n"),
            "a.yaml:2: not valid YAML: a '{' without its '}', or a missing ',' (end of map flow "
            "not found)");
  EXPECT_EQ(text_error("a: [1, 2\n"),
            "a.yaml:1: not valid YAML: a '[' without its ']', or a missing ',' (end of sequence "
            "flow not found)");
  EXPECT_EQ(text_error("a: b: c\n"),
            "a.yaml:1: not valid YAML: wrong indentation, or a value with ': ' in it that needs "
            "quotes (illegal map "
            "value)");
  for (const char* text : {"a: \"b\n", "a: \"b", "a: 'b\n", "a: [x, 'b]\n\n"})
    EXPECT_EQ(text_error(text),
              "a.yaml:1: not valid YAML: a quote at or above this line is never closed (illegal "
              "document indicator in scalar)");
  EXPECT_EQ(text_error("a: *b\n"),
            "a.yaml:1: not valid YAML: no '&name' above for this '*name' (the referenced anchor is "
            "not defined)");
}

TEST(ConfigNodeTest, TagsAndKeysThatAreNoWordsAreRefused) {
  EXPECT_EQ(text_error("a: !!int 3\n"),
            "a.yaml:1: the tag 'tag:yaml.org,2002:int' is not supported; remove it, every key "
            "knows its type");
  EXPECT_EQ(text_error("? [a]\n: 1\n"), "a.yaml:1: a key must be a word, not a list");
  EXPECT_EQ(text_error("~: 1\n"), "a.yaml:1: a key must be a word, not nothing");
}

TEST(ConfigNodeTest, BytesThatAreNoTextAreRefused) {
  EXPECT_EQ(text_error("a: 1\nb: \xFF\n"), "a.yaml:2: not UTF-8 text (byte 8)");
  EXPECT_EQ(text_error(std::string("a: 1\nb: \0 2\n", 12)),
            "a.yaml:2: control character 0x00; is this a text file?");
  EXPECT_EQ(text_error("a: \x04\n"), "a.yaml:1: control character 0x04; is this a text file?");
}

TEST(ConfigNodeTest, AliasesOfAliasesCannotFillTheMemory) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    text += fmt::format("a{0}: &a{0} [", i);
    for (int k = 0; k < 10; ++k) text += fmt::format("*a{}{}", i - 1, k < 9 ? ", " : "]\n");
  }
  EXPECT_EQ(text_error(text), "a.yaml:5: more than 100000 values (counting each use of an alias)");
  EXPECT_EQ(text_error("a: &a [*a]\n"), "a.yaml:1: an alias stands inside the value that it names");
}

TEST(ConfigNodeTest, DeepNestingIsRefused) {
  EXPECT_EQ(text_error("a: " + std::string(1000, '[') + std::string(1000, ']')),
            "a.yaml:1: not valid YAML: lists or maps nested too deeply (bad file)");
}

class ConfigFileTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    fs::create_directories(fs::path(dir_ / name).parent_path());
    write_file_atomic(dir_ / name, text);
    return dir_ / name;
  }
  std::string load_error(const std::string& path) {
    return error_of([&] { load_config_file(path); });
  }
  TempDir dir_;
};

TEST_F(ConfigFileTest, BaseIsOverlaidKeyByKey) {
  write("sub/low.yaml", "base: ../lowest.yaml\nt: {a: 1, b: 2}\nl: [1, 2]\n");
  write("lowest.yaml", "t: {a: 0, z: 9}\n");
  const std::string top = write("top.yaml", "base: sub/low.yaml\nt: {b: 3}\nl: [4]\n");
  const ConfigNode root = load_config_file(top);
  EXPECT_EQ(value(root, "t.a"), "1");
  EXPECT_EQ(value(root, "t.b"), "3");
  EXPECT_EQ(value(root, "t.z"), "9");
  EXPECT_EQ(root.find("l")->items.size(), 1u);  // a list replaces a list
  EXPECT_EQ(root.find("base"), nullptr);
  EXPECT_EQ(root.find_path("t.b")->where, top + ":2");
  EXPECT_EQ(root.find_path("t.a")->where, dir_ / "sub/low.yaml:2");
}

TEST_F(ConfigFileTest, LaterFilesOfABaseListWin) {
  write("one.yaml", "t: {a: 1, b: 1}\n");
  write("two.yaml", "t: {b: 2}\n");
  const ConfigNode root =
      load_config_file(write("top.yaml", "base: [one.yaml, two.yaml]\nt: {c: 3}\n"));
  EXPECT_EQ(value(root, "t.a"), "1");
  EXPECT_EQ(value(root, "t.b"), "2");
}

TEST_F(ConfigFileTest, OneFileMayBeABaseTwice) {
  write("low.yaml", "t: {a: 1}\n");
  write("left.yaml", "base: low.yaml\n");
  write("right.yaml", "base: low.yaml\nt: {b: 2}\n");
  EXPECT_EQ(value(load_config_file(write("top.yaml", "base: [left.yaml, right.yaml]\n")), "t.a"),
            "1");
}

TEST_F(ConfigFileTest, AnotherArchitectureReplacesTheSection) {
  write("low.yaml", "model: {architecture: retnet, d_model: 64, form: chunk}\n");
  const ConfigNode other =
      load_config_file(write("a.yaml", "base: low.yaml\nmodel: {architecture: llama}\n"));
  EXPECT_EQ(other.find("model")->entries.size(), 1u);
  const ConfigNode same =
      load_config_file(write("b.yaml", "base: low.yaml\nmodel: {architecture: retnet}\n"));
  EXPECT_EQ(same.find("model")->entries.size(), 3u);
}

TEST_F(ConfigFileTest, CycleOfBasesNamesTheChain) {
  const std::string a = write("a.yaml", "base: b.yaml\n"),
                    b = write("b.yaml", "x: 1\nbase: a.yaml\n");
  EXPECT_EQ(load_error(a),
            fmt::format("{1}:2: base: the files include each other: {0} -> {1} -> {0}", a, b));
}

TEST_F(ConfigFileTest, MissingBaseNamesTheChain) {
  const std::string a = write("a.yaml", "base: b.yaml\n"), b = write("b.yaml", "base: gone.yaml\n");
  EXPECT_EQ(load_error(a), fmt::format("{1}:1: base: there is no file {2} ({0} -> {1} -> {2})", a,
                                       b, dir_ / "gone.yaml"));
}

TEST_F(ConfigFileTest, BaseThatNamesNoFileIsRefused) {
  const std::string a = write("a.yaml", "base: {x: 1}\n");
  EXPECT_EQ(load_error(a), a + ":1: base: names a file or a list of files, relative to this one");
}

TEST_F(ConfigFileTest, FilesThatAreNoConfigurationAreRefused) {
  EXPECT_EQ(load_error(dir_ / "gone.yaml"), (dir_ / "gone.yaml") + ": there is no such file");
  EXPECT_EQ(load_error(dir_.path()), dir_.path() + ": is a folder; name the YAML file in it");
  const std::string large = write("large.yaml", std::string(5 << 20, '#'));
  EXPECT_EQ(load_error(large),
            large + ": 5.0 MiB is too large for a configuration (limit 4.0 MiB)");
}

TEST_F(ConfigFileTest, FilesInFoldersWithSpacesAndAccentsAreRead) {
  write("a b/\u00dcn\u00ef #1/low.yaml", "t: {a: 1}\n");
  EXPECT_EQ(
      value(load_config_file(write("a b/top.yaml", "base: '\u00dcn\u00ef #1/low.yaml'\n")), "t.a"),
      "1");
}

TEST(ConfigOverrideTest, PlainTextIsTakenAsItStands) {
  for (const std::string text :
       {"runs/new #1", "a: b", "x, y", "*star", "3e-4", "a=b", " padded ", "!x", "-1"}) {
    ConfigNode root = parse_config_text("run: {dir: x}", "a.yaml");
    apply_override(root, "run.dir=" + text);
    EXPECT_EQ(value(root, "run.dir"), text);
    EXPECT_EQ(root.find_path("run.dir")->where, "command line");
  }
}

TEST(ConfigOverrideTest, BracketsAndQuotesAreYaml) {
  EXPECT_EQ(to_yaml(parse_config_value("[a, \"x, y\", {k: 1}]", kCommandLine)),
            "[a, \"x, y\", {k: 1}]\n");
  EXPECT_EQ(parse_config_value("'it''s'", kCommandLine).text, "it's");
  for (const char* null : {"", "~", "null"})
    EXPECT_EQ(parse_config_value(null, kCommandLine).kind, ConfigNode::Kind::kNull);
}

TEST(ConfigOverrideTest, MapsMergeAndMissingSectionsAreMade) {
  ConfigNode root = parse_config_text("t: {a: 1, b: 2}", "a.yaml");
  apply_override(root, "t={b: 3}");
  apply_override(root, "u.v.w=4");
  EXPECT_EQ(value(root, "t.a"), "1");
  EXPECT_EQ(value(root, "t.b"), "3");
  EXPECT_EQ(value(root, "u.v.w"), "4");
}

TEST(ConfigOverrideTest, MalformedOverridesAreRefused) {
  ConfigNode root = parse_config_text("t: {a: 1}", "a.yaml");
  for (const std::string text : {"train.lr", "=3", "train..lr=3", ".lr=3", "train.=3"})
    EXPECT_EQ(error_of([&] { apply_override(root, text); }),
              "command line: '" + text +
                  "' is not of the form section.key=value, for example train.lr=3e-4");
  EXPECT_EQ(error_of([&] { apply_override(root, "t.a=[x"); }),
            "command line: not valid YAML: a '[' without its ']', or a missing ',' (end of "
            "sequence flow not found) "
            "(in t.a=[x)");
  EXPECT_EQ(error_of([&] { apply_override(root, "t.a=\xFF"); }),
            "command line: not UTF-8 text (byte 0) (in t.a=\xFF)");
}

TEST(ConfigWriteTest, WrittenYamlReadsBackTheSame) {
  const std::string nasty[] = {"",
                               "null",
                               "~",
                               "a b",
                               "x: y",
                               "spm:2000",
                               "a:",
                               "#x",
                               " lead",
                               "tail ",
                               "[a]",
                               "{a}",
                               "'q'",
                               "\"q\"",
                               "\\",
                               "a\nb",
                               "a\tb",
                               "\x01",
                               "...",
                               "---",
                               "-1",
                               "-",
                               "- a",
                               "*a",
                               "&a",
                               "!a",
                               "%a",
                               "@a",
                               "`a`",
                               "a,b",
                               "?",
                               "? a",
                               "|",
                               ">",
                               "=",
                               "<<",
                               "no",
                               "1e-04",
                               "0x10",
                               "\u00dc",
                               "\u2028",
                               "\x7F",
                               std::string(300, 'x')};
  ConfigNode root = parse_config_text("t: {}", "a.yaml");
  std::vector<ConfigNode> items;
  for (const std::string& text : nasty) {
    items.push_back(ConfigNode::scalar(text));
    set_by_path(root, fmt::format("t.k{}", items.size()), ConfigNode::scalar(text));
  }
  set_by_path(root, "l.short",
              ConfigNode::list({ConfigNode::scalar("a"), ConfigNode::scalar("[b")}));
  set_by_path(root, "l.long", ConfigNode::list(items));
  const std::string written = to_yaml(root);
  const ConfigNode back = parse_config_text(written, "b.yaml");
  EXPECT_EQ(to_yaml(back), written);
  for (size_t i = 0; i < std::size(nasty); ++i) {
    const ConfigNode* entry = back.find_path(fmt::format("t.k{}", i + 1));
    EXPECT_EQ(entry->text, nasty[i]);
    EXPECT_EQ(entry->kind, ConfigNode::Kind::kScalar) << nasty[i];
    EXPECT_EQ(back.find_path("l.long")->items[i].text, nasty[i]);
  }
}

}  // namespace
}  // namespace ceiling
