#include "base/fields.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"

namespace ceiling {
namespace {

struct Inner {
  int64_t depth = 3;
  void fields(Fields& f) { f("depth", depth, AtLeast{1}, "how deep"); }
};
struct Part {
  std::string path;
  double weight = 1;
  void fields(Fields& f) {
    f("path", path, IsPath{}, "where");
    f("weight", weight, MoreThan{0}, "how much");
  }
};
struct Example {
  int64_t steps = 10, level = 0;
  double lr = 1e-3, share = 0.5, beta = 0.9;
  bool bos = true;
  std::string name = "x", schedule = "cosine", dir;
  std::vector<std::string> prompts;
  std::vector<int64_t> sizes;
  std::optional<int64_t> micro;
  std::optional<double> limit;
  std::optional<Duration> time;
  Inner inner;
  std::vector<Part> parts;
  void fields(Fields& f) {
    f("steps", steps, AtLeast{1}, "");
    f("level", level, Between{0, 2}, "");
    f("lr", lr, AtLeast{0}, "");
    f("share", share, Between{0, 1}, "").free_to_change();
    f("beta", beta, FromBelow{0, 1}, "");
    f("bos", bos, "");
    f("name", name, "");
    f("schedule", schedule, OneOf{"cosine", "linear"}, "");
    f("dir", dir, IsPath{}, "");
    f("prompts", prompts, "");
    f("sizes", sizes, AtLeast{1}, "");
    f("micro", micro, "auto", AtLeast{1}, "");
    f("limit", limit, "none", AtLeast{0}, "");
    f("time", time, "none", "");
    f.section("inner", inner, "");
    f.list("parts", parts, "");
  }
};

Example parsed(const std::string& text) {
  Example example;
  parse_config(example, parse_config_text(text, "a.yaml"), "");
  return example;
}

std::string error_of(const ConfigNode& node) {
  Example example;
  try {
    parse_config(example, node, "");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
std::string error_of(const std::string& text) {
  return error_of(parse_config_text(text, "a.yaml"));
}
std::string override_error(const std::string& assignment) {
  ConfigNode root = parse_config_text("steps: 1", "a.yaml");
  apply_override(root, assignment);
  return error_of(root);
}

TEST(FieldsTest, EveryTypeIsReadAndWhatIsLeftOutKeepsItsDefault) {
  const Example e = parsed(
      "steps: 2e1\nlr: 3e-4\nbos: false\nname: no\nschedule: linear\nprompts: [a, 'b c', "
      "3]\nsizes: [1, 2]\n"
      "micro: 8\nlimit: 0.5\ntime: 1h30m\ninner: {depth: 1_000}\nparts: [{path: p/, weight: 2}, "
      "{path: q}]\n");
  EXPECT_EQ(e.steps, 20);
  EXPECT_EQ(e.lr, 3e-4);
  EXPECT_FALSE(e.bos);
  EXPECT_EQ(e.name, "no");
  EXPECT_EQ(e.schedule, "linear");
  EXPECT_EQ(e.prompts, (std::vector<std::string>{"a", "b c", "3"}));
  EXPECT_EQ(e.sizes, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(e.micro, 8);
  EXPECT_EQ(e.limit, 0.5);
  EXPECT_EQ(e.time->seconds, 5400);
  EXPECT_EQ(e.inner.depth, 1000);
  ASSERT_EQ(e.parts.size(), 2u);
  EXPECT_EQ(e.parts[0].path, "p");
  EXPECT_EQ(e.parts[1].weight, 1);
  EXPECT_EQ(e.level, 0);
  EXPECT_EQ(e.beta, 0.9);
}

TEST(FieldsTest, QuotedNumbersAreNumbers) {
  EXPECT_EQ(parsed("lr: '3e-3'\nsteps: \"5\"").lr, 3e-3);
}

TEST(FieldsTest, UnsetIsItsWordOrNull) {
  for (const std::string word : {"auto", "null", "~", ""})
    EXPECT_FALSE(parsed("micro: " + word).micro.has_value());
  EXPECT_FALSE(parsed("time: none").time.has_value());
}

TEST(FieldsTest, TextThatIsNoIntegerIsRefused) {
  const std::string hint =
      " is not an integer; write decimal digits without leading zeros, such as 20 or 2e4";
  for (const std::string text :
       {"true", "no", "010", "0x10", "1.5", "1e-2", "five", "1,000", "'1 '", ".inf"})
    EXPECT_EQ(error_of("lr: 1\nsteps: " + text),
              "a.yaml:2: steps: " + (text[0] == '\'' ? text : "'" + text + "'") + hint);
  EXPECT_EQ(error_of("steps: 1e30"), "a.yaml:1: steps: 1e30 is too large for an integer");
  EXPECT_EQ(error_of("micro: x"), "a.yaml:1: micro: 'x'" + hint + ", or 'auto'");
}

TEST(FieldsTest, TextThatIsNoFiniteNumberIsRefused) {
  for (const std::string text :
       {".nan", ".inf", "-.inf", "nan", "1e-400", "1e400", "0.0.3", "true", "off", "3 e-4"})
    EXPECT_EQ(error_of("lr: " + text),
              "a.yaml:1: lr: '" + text + "' is not a finite number; write it as 0.003 or 3e-3");
  EXPECT_EQ(error_of("lr: \"0,003\""),
            "a.yaml:1: lr: '0,003' is not a finite number; write it as 0.003 or 3e-3");
}

TEST(FieldsTest, BooleansAreTrueAndFalseOnly) {
  for (const std::string text : {"yes", "no", "on", "off", "y", "True", "1", "0"})
    EXPECT_EQ(error_of("bos: " + text), "a.yaml:1: bos: '" + text + "' is neither true nor false");
}

TEST(FieldsTest, ValuesOutOfRangeAreRefused) {
  EXPECT_EQ(error_of("steps: 0"), "a.yaml:1: steps: 0 is out of range, must be at least 1");
  EXPECT_EQ(error_of("level: 3"), "a.yaml:1: level: 3 is out of range, must be between 0 and 2");
  EXPECT_EQ(error_of("lr: -1"), "a.yaml:1: lr: -1 is out of range, must be at least 0");
  EXPECT_EQ(error_of("beta: 1"),
            "a.yaml:1: beta: 1 is out of range, must be at least 0 and below 1");
  EXPECT_EQ(error_of("micro: 0"),
            "a.yaml:1: micro: 0 is out of range, must be at least 1, or 'auto'");
  EXPECT_EQ(error_of("sizes: [1, 0]"), "a.yaml:1: sizes[1]: 0 is out of range, must be at least 1");
  EXPECT_EQ(error_of("parts: [{weight: 0}]"),
            "a.yaml:1: parts[0].weight: 0 is out of range, must be more than 0");
}

TEST(FieldsTest, WordsOutsideTheListAreRefused) {
  EXPECT_EQ(error_of("schedule: off"), "a.yaml:1: schedule: 'off' is not one of cosine, linear");
  EXPECT_EQ(error_of("schedule: cosin"),
            "a.yaml:1: schedule: 'cosin' is not one of cosine, linear; did you mean 'cosine'?");
}

TEST(FieldsTest, MissingValuesAndWrongShapesAreRefused) {
  EXPECT_EQ(error_of("steps:"),
            "a.yaml:1: steps: has no value; must be an integer, or leave the key out");
  EXPECT_EQ(error_of("name: ~"),
            "a.yaml:1: name: has no value; must be text, or leave the key out");
  EXPECT_EQ(error_of("steps: [1]"), "a.yaml:1: steps: is a list, must be an integer");
  EXPECT_EQ(error_of("lr: {a: 1}"), "a.yaml:1: lr: is a map, must be a number");
  EXPECT_EQ(error_of("prompts: hello"),
            "a.yaml:1: prompts: must be a list, as in [a, b]; [] is empty");
  EXPECT_EQ(error_of("parts: {path: a}"),
            "a.yaml:1: parts: must be a list, each item with the keys {path, weight}");
  EXPECT_EQ(error_of("inner: fast"),
            "a.yaml:1: inner: 'fast' is not a section; write its keys indented below it, or as "
            "inner: {key: value}");
  EXPECT_EQ(error_of("inner: [1]"),
            "a.yaml:1: inner: a list is not a section; write its keys indented below it, or as "
            "inner: {key: value}");
  EXPECT_EQ(error_of("inner:\nsteps: 3"), "no error");  // an empty section: all defaults
}

TEST(FieldsTest, UnknownKeysAreRefusedWithTheNearestOne) {
  EXPECT_EQ(error_of("steps: 1\ninner:\n  dept: 2\n"),
            "a.yaml:3: inner: unknown key 'dept'; did you mean 'depth'?");
  EXPECT_EQ(error_of("sceduhle: linear"),
            "a.yaml:1: unknown key 'sceduhle'; did you mean 'schedule'?");
  EXPECT_EQ(error_of("inner: {steps: 2}"),
            "a.yaml:1: inner: unknown key 'steps'; did you mean 'steps'?");
  EXPECT_EQ(error_of("depth: 2"), "a.yaml:1: unknown key 'depth'; did you mean 'inner.depth'?");
  EXPECT_EQ(error_of("inner: {quite_other: 2}"),
            "a.yaml:1: inner: unknown key 'quite_other'; known keys: depth");
  EXPECT_EQ(error_of("shared: &s {steps: 2}\ninner: {depth: 1}"),
            "a.yaml:1: unknown key 'shared'; to share values put them into a file of their own and "
            "name it with "
            "'base:'");
}

TEST(FieldsTest, OverridesSayTheWholeKey) {
  EXPECT_EQ(override_error("inner.dept=2"),
            "command line: unknown key 'inner.dept'; did you mean 'inner.depth'?");
  EXPECT_EQ(override_error("depht=2"),
            "command line: unknown key 'depht'; did you mean 'inner.depth'?");
  EXPECT_EQ(override_error("parts=[{weigth: 1}]"),
            "command line: unknown key 'parts[0].weigth'; did you mean 'parts[0].weight'?");
  EXPECT_EQ(override_error("steps="),
            "command line: steps: has no value; must be an integer, or leave the key out");
}

TEST(FieldsTest, OverrideInAnUnknownSectionIsLedToTheKey) {
  EXPECT_EQ(override_error("iner.depth=2"),
            "command line: unknown key 'iner.depth'; did you mean 'inner.depth'?");
  EXPECT_EQ(override_error("other.x.depth=2"),
            "command line: unknown key 'other.x.depth'; did you mean 'inner.depth'?");
}

TEST(FieldsTest, FileAndOverrideGiveTheSameValueOrTheSameRefusal) {
  for (const char* assignment : {"lr=1e-4",
                                 "lr=.nan",
                                 "lr=0,003",
                                 "lr=-0.0",
                                 "steps=2e1",
                                 "steps=010",
                                 "steps=0x10",
                                 "steps=1_000",
                                 "steps=true",
                                 "name=no",
                                 "name=010",
                                 "bos=no",
                                 "bos=true",
                                 "schedule=off",
                                 "dir=a/b/",
                                 "time=5",
                                 "time=2h",
                                 "micro=auto",
                                 "micro=~",
                                 "prompts=[a, \"b, c\"]",
                                 "prompts=x",
                                 "sizes=[1, x]",
                                 "parts=[{path: a, weight: 2}]"}) {
    const std::string text = assignment;
    const size_t at = text.find('=');
    const ConfigNode from_file =
        parse_config_text(text.substr(0, at) + ": " + text.substr(at + 1), "F");
    ConfigNode from_line = parse_config_text("steps: 1", "F");
    if (text.rfind("steps", 0) != 0) from_line.entries.clear();
    apply_override(from_line, text);
    const std::string file_error = error_of(from_file), line_error = error_of(from_line);
    EXPECT_EQ(file_error.substr(file_error.find(": ") + 1),
              line_error.substr(line_error.find(": ") + 1))
        << text;
    if (file_error != "no error") continue;
    Example a, b;
    parse_config(a, from_file, "");
    parse_config(b, from_line, "");
    EXPECT_EQ(to_yaml(dump_config(a)), to_yaml(dump_config(b))) << text;
  }
}

TEST(FieldsTest, PathsAreNormalised) {
  EXPECT_EQ(parsed("dir: a/./b/../c//").dir, "a/c");
  EXPECT_EQ(parsed("dir: /").dir, "/");
  EXPECT_EQ(parsed("dir: ../x/").dir, "../x");
  EXPECT_EQ(parsed("dir: './'").dir, ".");
  EXPECT_EQ(parsed("dir: '\u00dcn\u00ef #1/'").dir, "\u00dcn\u00ef #1");
  EXPECT_EQ(parsed("dir: ~/runs/").dir, expand_home("~") + "/runs");
}

TEST(FieldsTest, PathsThatNoFileSystemTakesAreRefused) {
  EXPECT_EQ(parsed("dir: " + std::string(200, 'x')).dir.size(), 200u);
  EXPECT_EQ(error_of("dir: runs/" + std::string(300, 'x')),
            "a.yaml:1: dir: the name '" + std::string(40, 'x') +
                "...' has 300 bytes, at most 230 are allowed");
  std::string deep = "d";
  for (int i = 0; i < 2000; ++i) deep += "/d";
  EXPECT_EQ(error_of("dir: " + deep),
            "a.yaml:1: dir: the path has 4001 bytes, at most 3800 are allowed");
  EXPECT_EQ(error_of("dir: \"a\\0b\""), "a.yaml:1: dir: a path with a control character (0x00)");
}

TEST(FieldsTest, DumpReadsBackTheSame) {
  Example e = parsed(
      "lr: 0.1\nname: 'null'\nschedule: linear\nprompts: ['', '~', 'a: b', \"x\\ny\", "
      "'no']\nmicro: 3\ntime: 90s\n"
      "parts: [{path: 'a b', weight: 0.1}]\nsizes: []\n");
  const std::string text = to_yaml(dump_config(e));
  Example back = parsed(text);
  EXPECT_EQ(to_yaml(dump_config(back)), text);
  EXPECT_EQ(back.prompts, e.prompts);
  EXPECT_EQ(back.name, "null");
  EXPECT_EQ(back.parts[0].weight, 0.1);
}

TEST(FieldsTest, DumpQuotesTextThatOtherReadersTakeForBooleansOrNumbers) {
  Example e = parsed("name: no\ndir: '010'\n");
  const std::string text = to_yaml(dump_config(e));
  EXPECT_NE(text.find("name: \"no\"\n"), std::string::npos);
  EXPECT_NE(text.find("dir: \"010\"\n"), std::string::npos);
}

TEST(FieldsTest, DumpedNumbersAreNumbersToYaml11ReadersToo) {
  Example e = parsed("lr: 1e-8\nlimit: 1.5e300\nbeta: 0.5\n");
  const ConfigNode dump = dump_config(e);
  EXPECT_EQ(dump.find("lr")->text, "1.0e-08");
  EXPECT_EQ(dump.find("limit")->text, "1.5e+300");
  EXPECT_EQ(dump.find("beta")->text, "0.5");
}

TEST(FieldsTest, MarksOfASectionReachItsKeys) {
  Inner inner;
  Fields f;
  f.section("inner", inner, "").free_to_change();
  EXPECT_TRUE(f.all()[0].children[0].may_change);
}

TEST(DurationTest, UnitsAreReadAndWrittenBack) {
  const std::pair<const char*, double> spans[] = {
      {"55m", 3300},     {"2h", 7200},   {"90s", 90},    {"1h30m", 5400},
      {"1d12h", 129600}, {"0.5h", 1800}, {"0.25s", 0.25}};
  for (const auto& [text, seconds] : spans) {
    ASSERT_TRUE(parse_duration(text).has_value()) << text;
    EXPECT_EQ(parse_duration(text)->seconds, seconds);
    EXPECT_EQ(parse_duration(duration_text({seconds}))->seconds, seconds);
  }
  for (const char* text :
       {"", "5", "m", "5x", "30m1h", "1h 30m", "-5m", "0s", "1e999h", "h5", "5m5m", "infs"})
    EXPECT_FALSE(parse_duration(text).has_value()) << text;
  EXPECT_EQ(error_of("time: 5"),
            "a.yaml:1: time: '5' is not a time span; write it as 55m, 2h, 90s or 1h30m, or 'none'");
}

}  // namespace
}  // namespace ceiling
