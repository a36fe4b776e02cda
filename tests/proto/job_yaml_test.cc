#include "proto/job_yaml.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <string>

namespace swinfleet {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;
using testing::StartsWith;

JobSpec MustParse(const std::string& text) {
  JobSpec spec;
  const JobFileErrors errors = ParseJobYaml(text, "job.yaml", &spec);
  EXPECT_TRUE(errors.ok()) << errors.ToString() << "---\n" << text;
  return spec;
}

std::vector<std::string> Faults(const std::string& text) {
  JobSpec spec;
  spec.set_name("untouched");
  const JobSpec before = spec;
  const JobFileErrors errors = ParseJobYaml(text, "job.yaml", &spec);
  EXPECT_FALSE(errors.ok()) << text;
  EXPECT_TRUE(MessageDifferencer::Equals(spec, before)) << "changed in spite of an error";
  return errors.messages;
}

TEST(JobYaml, ReadsEveryKindOfField) {
  const JobSpec spec = MustParse(R"(# The main job.
name: fashion mnist
run_dir: /data/runs/one
model:
  preset: swinv2_tiny_window8_256
  image_size: [32, 48]
  depths: [2, 2, 6]
  mlp_ratio: 4
  qkv_bias: false
  window_size: 0x8
  drop_path_rate: 1e-1
data: {path: "/data/fashion mnist", flip: .5, mean: [0.286], std: 0.353}
train:
  seed: 18446744073709551615
  schedule:
    multisteps:
      - 1
      - 2.5
checkpoint:
  asynchronous: True
schedule: {priority: -3, after: pretrain, max_run_time: 1d12h, preemptible: true}
)");
  EXPECT_EQ(spec.schedule().priority(), -3);
  EXPECT_THAT(spec.schedule().after(), ElementsAre("pretrain"));
  EXPECT_EQ(spec.schedule().max_run_time(), "1d12h");
  EXPECT_EQ(MustParse(JobToYaml(spec)).schedule().priority(), -3);
  EXPECT_EQ(spec.name(), "fashion mnist");
  EXPECT_EQ(spec.run_dir(), "/data/runs/one");
  EXPECT_EQ(spec.model().preset(), "swinv2_tiny_window8_256");
  EXPECT_THAT(spec.model().image_size(), ElementsAre(32u, 48u));
  EXPECT_THAT(spec.model().depths(), ElementsAre(2u, 2u, 6u));
  EXPECT_EQ(spec.model().mlp_ratio(), 4.0);
  EXPECT_TRUE(spec.model().has_qkv_bias());
  EXPECT_FALSE(spec.model().qkv_bias());
  EXPECT_EQ(spec.model().window_size(), 8u);
  EXPECT_EQ(spec.model().drop_path_rate(), 0.1);
  EXPECT_EQ(spec.data().path(), "/data/fashion mnist");
  EXPECT_EQ(spec.data().flip(), 0.5);
  EXPECT_THAT(spec.data().std(), ElementsAre(0.353));
  EXPECT_EQ(spec.train().seed(), std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(spec.train().schedule().multisteps(), ElementsAre(1.0, 2.5));
  EXPECT_TRUE(spec.checkpoint().asynchronous());
  EXPECT_FALSE(spec.has_parallel());
}

TEST(JobYaml, ScalarStandsForListOfOne) {
  EXPECT_THAT(MustParse("model:\n  image_size: 64\n").model().image_size(), ElementsAre(64u));
  EXPECT_THAT(MustParse("model: {image_size: []}").model().image_size(), SizeIs(0));
}

TEST(JobYaml, UnknownKeyNamesItsLineAndTheNearestKey) {
  EXPECT_THAT(Faults("name: a\ntrain:\n  optimizer:\n    lerning_rate: 1\n"),
              ElementsAre(AllOf(StartsWith("job.yaml:4: unknown key \"lerning_rate\""),
                                HasSubstr("train.optimizer"),
                                HasSubstr("did you mean \"learning_rate\"?"))));
  EXPECT_THAT(Faults("zzzzzzzzzzz: 1\n"),
              ElementsAre(AllOf(StartsWith("job.yaml:1:"), Not(HasSubstr("did you mean")),
                                HasSubstr("name, run_dir, model, data"))));
}

TEST(JobYaml, KeyInTheWrongPlaceNamesTheRightOne) {
  EXPECT_THAT(Faults("epochs: 3\n"),
              ElementsAre(HasSubstr("unknown key \"epochs\"; it belongs to train")));
  EXPECT_THAT(Faults("train: {learning_rate: 3}\n"),
              ElementsAre(HasSubstr("it belongs to train.optimizer")));
}

TEST(JobYaml, CollectsAllFaults) {
  const auto faults = Faults(
      "nam: x\n"
      "model:\n"
      "  window_size: eight\n"
      "  depths: [2, -1, 2]\n"
      "train:\n"
      "  epochs: 3\n"
      "  epochs: 4\n");
  ASSERT_THAT(faults, SizeIs(4));
  EXPECT_THAT(faults[0], StartsWith("job.yaml:1: unknown key"));
  EXPECT_THAT(faults[1], StartsWith("job.yaml:3: model.window_size must be a whole number"));
  EXPECT_THAT(faults[2], StartsWith("job.yaml:4: model.depths[1] must be a whole number from 0"));
  EXPECT_THAT(faults[3], AllOf(StartsWith("job.yaml:7: the key train.epochs is repeated"),
                               HasSubstr("line 6")));
}

TEST(JobYaml, BoundsTheNumberOfMessages) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "wrong" + std::to_string(i) + ": 1\n";
  EXPECT_THAT(Faults(text), SizeIs(101));
}

struct Refused {
  const char* text;
  const char* message;
};

class JobYamlRefuses : public testing::TestWithParam<Refused> {};

TEST_P(JobYamlRefuses, WithTheReason) {
  EXPECT_THAT(Faults(GetParam().text),
              ElementsAre(AllOf(StartsWith("job.yaml:"), HasSubstr(GetParam().message))));
}

INSTANTIATE_TEST_SUITE_P(
    Types, JobYamlRefuses,
    testing::Values(
        Refused{"train: {epochs: \"8\"}", "not the text \"8\"; remove the quotes"},
        Refused{"train: {epochs: '8'}", "remove the quotes"},
        Refused{"train: {epochs: !!str 8}", "remove the quotes"},
        Refused{"train: {epochs: 3.5}", "from 0 to 4294967295, not \"3.5\""},
        Refused{"train: {epochs: 8.0}", "must be a whole number"},
        Refused{"train: {epochs: 1e3}", "must be a whole number"},
        Refused{"train: {epochs: -1}", "must be a whole number from 0"},
        Refused{"train: {epochs: --1}", "must be a whole number"},
        Refused{"train: {epochs: +-1}", "must be a whole number"},
        Refused{"train: {epochs: 010}", "must be a whole number"},
        Refused{"train: {epochs: 4294967296}", "from 0 to 4294967295"},
        Refused{"train: {seed: 18446744073709551616}", "from 0 to 18446744073709551615"},
        Refused{"train: {epochs: 1 2}", "must be a whole number"},
        Refused{"train: {epochs: 0x}", "must be a whole number"},
        Refused{"train: {epochs: true}", "must be a whole number"},
        Refused{"train: {epochs: [3]}", "not a list"},
        Refused{"train: {epochs: {a: 3}}", "not a mapping"},
        Refused{"train: {epochs: }", "has no value"}, Refused{"train: {epochs: ~}", "has no value"},
        Refused{"train: {epochs: null}", "has no value"}, Refused{"train:\n", "train has no value"},
        Refused{"train: 3", "train must be a mapping"},
        Refused{"train: [3]", "train must be a mapping"},
        Refused{"train: {epochs: !wrong 3}", "has the tag"},
        Refused{"train: {label_smoothing: abc}", "must be a finite number"},
        Refused{"train: {label_smoothing: \"0.1\"}", "remove the quotes"},
        Refused{"train: {label_smoothing: .inf}", "must be a finite number"},
        Refused{"train: {label_smoothing: .nan}", "must be a finite number"},
        Refused{"train: {label_smoothing: nan}", "must be a finite number"},
        Refused{"train: {label_smoothing: 1e}", "must be a finite number"},
        Refused{"train: {label_smoothing: .}", "must be a finite number"},
        Refused{"train: {label_smoothing: 0x10}", "must be a finite number"},
        Refused{"train: {label_smoothing: 1e999}", "outside of the range"},
        Refused{"model: {qkv_bias: yes}", "must be true or false, not \"yes\""},
        Refused{"model: {qkv_bias: 1}", "must be true or false"},
        Refused{"model: {qkv_bias: \"true\"}", "must be true or false"},
        Refused{"name: 5", "must be text, not \"5\"; write it in quotes"},
        Refused{"name: 1e5", "must be text"}, Refused{"name: true", "must be text"},
        Refused{"name: .inf", "must be text"}, Refused{"name: [a]", "must be text, not a list"},
        Refused{"name: {a: b}", "must be text, not a mapping"},
        Refused{"name: \"a\\nb\"", "holds a control character: \"a\\x0ab\""},
        Refused{"name: \"a\\0b\"", "control character"},
        Refused{"data: {mean: [0.1, [0.2]]}", "data.mean[1] must be a number, not a list"},
        Refused{"data: {mean: [0.1, ~]}", "data.mean[1] must be a number, not empty"},
        Refused{"data: {mean: {a: 1}}", "data.mean must be a number, not a mapping"}));

INSTANTIATE_TEST_SUITE_P(
    Files, JobYamlRefuses,
    testing::Values(Refused{"", "the job file is empty"},
                    Refused{"\n\n# only a remark\n", "is empty"}, Refused{"---\n", "is empty"},
                    Refused{"~", "is empty"}, Refused{"just text", "must be a mapping of keys"},
                    Refused{"- a\n- b\n", "not a list"},
                    Refused{"name: a\n---\nname: b\n", "a second document begins"},
                    Refused{"name: [a", "not YAML"}, Refused{"name: \"a", "not YAML"},
                    Refused{"name: a\n\tmodel: b\n", "not YAML"},
                    Refused{"name: a: b\n", "not YAML"}, Refused{"name: *nothing\n", "not YAML"},
                    Refused{"name: \xff\n", "not UTF-8"}, Refused{"name: \xc0\xaf\n", "not UTF-8"},
                    Refused{"name: \xed\xa0\x80\n", "not UTF-8"},
                    Refused{"name: a\x04\nmodel: {}\n", "control character (4)"},
                    Refused{"? [a, b]\n: c\n", "a key must be a name, not a list"},
                    Refused{"a: &a {b: *a}\n", "inside its own anchor"},
                    Refused{"base: &b {epochs: 3}\n", "unknown key \"base\""},
                    Refused{"train: {<<: 3}\n", "merge keys"}));

TEST(JobYaml, SyntaxErrorNamesItsLine) {
  EXPECT_THAT(Faults("name: a\nmodel: {}\ndata: [1\n"), ElementsAre(StartsWith("job.yaml:4: not")));
  EXPECT_THAT(Faults("name: a\nrun_dir: \xff\n"),
              ElementsAre(StartsWith("job.yaml:2: this is not")));
  EXPECT_THAT(Faults("name: a\n---\nname: b\n"), ElementsAre(StartsWith("job.yaml:3: a second")));
}

TEST(JobYaml, AliasesWork) {
  const JobSpec spec = MustParse(
      "model: {depths: &d [2, 2], num_heads: *d}\n"
      "train: {epochs: &n 4}\n"
      "parallel: {ranks: *n}\n");
  EXPECT_THAT(spec.model().num_heads(), ElementsAre(2u, 2u));
  EXPECT_EQ(spec.parallel().ranks(), 4u);
}

TEST(JobYaml, AliasIsReportedWhereItStands) {
  EXPECT_THAT(Faults("name: &n text\nparallel:\n  ranks: *n\n"),
              ElementsAre(StartsWith("job.yaml:3: parallel.ranks must be")));
}

double SecondsFor(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(JobYaml, HostileFilesCostLittle) {
  std::string laughs = "model:\n  depths: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i < 20; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    laughs += "x" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int j = 0; j < 8; ++j) laughs += ", " + before;
    laughs += "]\n";
  }
  laughs += "data: {mean: *a19}\n";
  const std::string deep(500000, '[');
  const std::string deep_maps = [] {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += "{a: ";
    return text;
  }();
  std::string wide = "model: {depths: [";
  for (int i = 0; i < 300000; ++i) wide += "1, ";
  wide += "1]}\n";
  const std::string key(500000, 'k');
  for (const std::string& text : {laughs, deep, deep_maps, wide, key + ": 1\n", "name: " + key}) {
    JobSpec spec;
    EXPECT_LT(SecondsFor([&] { ParseJobYaml(text, "job.yaml", &spec); }), 5.0)
        << text.substr(0, 40);
  }
  EXPECT_THAT(Faults(deep), ElementsAre(HasSubstr("levels deep")));
  EXPECT_THAT(Faults(wide), ElementsAre(HasSubstr("more than 20000 values")));
  EXPECT_THAT(Faults(std::string((1 << 20) + 1, '#')), ElementsAre(HasSubstr("at most 1 MiB")));
}

TEST(JobYaml, MessagesHoldNoControlCharacters) {
  for (const std::string& message : Faults("\"a\\e[31m\\x9b\": 1\n")) {
    for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20u) << message;
    EXPECT_THAT(message, Not(HasSubstr("\xc2\x9b")));
  }
}

// Bytes drawn near YAML's own grammar must end in a spec or in messages, never in a crash.
TEST(JobYaml, RandomTextNeverCrashes) {
  std::mt19937_64 random(7);
  const std::string pieces[] = {"name",  ": ",   "\n",  "  ", "- ",     "[",   "]",  "{",
                                "}",     ", ",   "\"",  "'",  "&a ",    "*a",  "!x", "!!str ",
                                "|\n",   ">-\n", "? ",  "#",  "---\n",  "...", "%",  "model",
                                "train", "data", "1e5", "~",  "epochs", "\t",  "\\", "\xc3\xa9"};
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    const int length = static_cast<int>(random() % 24);
    for (int j = 0; j < length; ++j) text += pieces[random() % std::size(pieces)];
    JobSpec spec;
    ParseJobYaml(text, "job.yaml", &spec);
  }
}

std::string RandomText(std::mt19937_64* random) {
  const char* const kPieces[] = {"a",
                                 "Z",
                                 "0",
                                 "9",
                                 " ",
                                 ":",
                                 "#",
                                 "'",
                                 "\"",
                                 "\\",
                                 "/",
                                 "-",
                                 ".",
                                 "é",
                                 "日本",
                                 "\xf0\x9f\x98\x80",
                                 "{",
                                 "}",
                                 "[",
                                 "]",
                                 ",",
                                 "&",
                                 "*",
                                 "!",
                                 "|",
                                 ">",
                                 "%",
                                 "@",
                                 "`",
                                 "~",
                                 "true",
                                 "null",
                                 "no",
                                 "1e5",
                                 "- ",
                                 "---",
                                 "\xe2\x80\xa8",
                                 "<<",
                                 "="};
  std::string text;
  const int length = static_cast<int>((*random)() % 8);
  for (int i = 0; i < length; ++i) text += kPieces[(*random)() % std::size(kPieces)];
  return text;
}

double RandomReal(std::mt19937_64* random) {
  for (;;) {
    const uint64_t bits = (*random)();
    double value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    if (std::isfinite(value))
      return (*random)() % 4 == 0 ? std::round(std::fmod(value, 100)) : value;
  }
}

void Randomize(std::mt19937_64* random, Message* message) {
  const auto* reflection = message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    const int count = field->is_repeated() ? static_cast<int>((*random)() % 4)
                                           : static_cast<int>((*random)() % 2);
    for (int j = 0; j < count; ++j) {
      const bool list = field->is_repeated();
      switch (field->cpp_type()) {
        case FieldDescriptor::CPPTYPE_MESSAGE:
          Randomize(random, reflection->MutableMessage(message, field));
          break;
        case FieldDescriptor::CPPTYPE_STRING:
          list ? reflection->AddString(message, field, RandomText(random))
               : reflection->SetString(message, field, RandomText(random));
          break;
        case FieldDescriptor::CPPTYPE_BOOL:
          reflection->SetBool(message, field, (*random)() % 2 == 0);
          break;
        case FieldDescriptor::CPPTYPE_UINT64:
          reflection->SetUInt64(message, field, (*random)());
          break;
        case FieldDescriptor::CPPTYPE_INT32:
          reflection->SetInt32(message, field, static_cast<int32_t>((*random)()));
          break;
        case FieldDescriptor::CPPTYPE_UINT32: {
          const auto value = static_cast<uint32_t>((*random)() >> ((*random)() % 64));
          list ? reflection->AddUInt32(message, field, value)
               : reflection->SetUInt32(message, field, value);
          break;
        }
        case FieldDescriptor::CPPTYPE_DOUBLE:
          list ? reflection->AddDouble(message, field, RandomReal(random))
               : reflection->SetDouble(message, field, RandomReal(random));
          break;
        default:
          FAIL() << field->full_name();
      }
    }
  }
}

TEST(JobYaml, WrittenJobsReadBackEqual) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 3000; ++i) {
    JobSpec spec;
    Randomize(&random, &spec);
    const std::string text = JobToYaml(spec);
    const JobSpec back = MustParse(text);
    ASSERT_TRUE(MessageDifferencer::Equals(spec, back)) << text;
  }
}

TEST(JobYaml, WritesReadableText) {
  const std::string text =
      "name: main\n"
      "run_dir: /runs/one\n"
      "model:\n"
      "  image_size: [32, 32]\n"
      "data: {}\n"
      "train:\n"
      "  optimizer:\n"
      "    name: \"on\"\n"
      "    learning_rate: 0.001\n";
  EXPECT_EQ(JobToYaml(MustParse(text)), text);
  EXPECT_EQ(JobToYaml(JobSpec()), "{}\n");
}

class JobFile : public testing::Test {
 protected:
  JobFile() {
    std::string pattern = testing::TempDir() + "/job_yaml_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~JobFile() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

TEST_F(JobFile, IsRead) {
  const std::string path = folder_ + "/job.yaml";
  std::ofstream(path) << "name: a\r\nwrong: 1\r\n";
  JobSpec spec;
  EXPECT_THAT(ReadJobFile(path, &spec).messages,
              ElementsAre(StartsWith(path + ":2: unknown key \"wrong\"")));
  std::ofstream(path) << "name: a\r\n";
  EXPECT_TRUE(ReadJobFile(path, &spec).ok());
  EXPECT_EQ(spec.name(), "a");
}

TEST_F(JobFile, ThatCantBeReadIsAnError) {
  JobSpec spec;
  EXPECT_THAT(ReadJobFile(folder_ + "/none.yaml", &spec).messages,
              ElementsAre(AllOf(StartsWith(folder_ + "/none.yaml: can't read"),
                                HasSubstr("No such file"))));
  EXPECT_THAT(ReadJobFile(folder_, &spec).messages, ElementsAre(HasSubstr("Is a directory")));
  EXPECT_THAT(ReadJobFile("/dev/zero", &spec).messages,
              ElementsAre(HasSubstr("larger than 1 MiB")));
}

}  // namespace
}  // namespace swinfleet
