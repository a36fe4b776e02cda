// The safetensors reader and writer: round trips, every way in which a file can be wrong, and
// thousands of random ones.
#include "core/checkpoint/safetensors.h"

#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>

#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A file of a given JSON header and data.
std::string FileOf(const std::string& json, const std::string& data) {
  const uint64_t length = json.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + json + data;
}

std::string ErrorOf(const std::string& bytes) {
  TempFolder folder;
  WriteBytes(folder / "x.safetensors", bytes);
  const std::string message = MessageOf([&] { SafetensorsFile file(folder / "x.safetensors"); });
  if (!message.empty()) {
    EXPECT_THAT(message, HasSubstr(folder / "x.safetensors"));
  }
  return message;
}

TEST(SafetensorsFile, RoundTripOfEveryShapeAndDtype) {
  TempFolder folder;
  const std::vector<float> matrix = {1, -2, 3.5, 1e-40F, INFINITY, -0.0F};
  const std::vector<int64_t> labels = {-1, 0, INT64_MAX};
  SafetensorsWriter writer(folder / "a.safetensors",
                           {{"m", "F32", Shape{2, 3}},
                            {"scalar", "F32", Shape{}},
                            {"empty", "F32", Shape{0, 4}},
                            {"labels", "I64", Shape{3}},
                            {"flags", "BOOL", Shape{3}}},
                           {{"kind", "te\"st\n"}});
  // Any order, in parts.
  writer.Write("m", 4, std::span(matrix).subspan(4));
  writer.Write("labels", 0, labels);
  writer.Write("m", 0, std::span(matrix).first(4));
  writer.Write("scalar", 0, std::span(matrix).first(1));
  const char flags[] = {1, 0, 1};
  writer.WriteBytes("flags", 0, std::as_bytes(std::span(flags)));
  writer.Finish();
  EXPECT_THAT(NamesOf(folder.path()), ElementsAre("a.safetensors"));

  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(std::memcmp(file.ReadF32("m").data(), matrix.data(), 24), 0);
  EXPECT_EQ(file.ReadI64("labels"), labels);
  EXPECT_THAT(file.ReadF32("scalar"), ElementsAre(1));
  EXPECT_THAT(file.ReadF32("empty"), IsEmpty());
  EXPECT_EQ(file.Get("m").shape, (Shape{2, 3}));
  EXPECT_EQ(file.Get("scalar").shape, Shape{});
  EXPECT_EQ(file.metadata().at("kind"), "te\"st\n");
  // Data of the widest dtype first, all of it aligned.
  EXPECT_EQ(file.tensors()[0].name, "labels");
  EXPECT_EQ(file.tensors()[0].begin % 8, 0U);
  EXPECT_THAT(MessageOf([&] { file.ReadF32("labels"); }), HasSubstr("is I64, not F32"));
  EXPECT_THAT(MessageOf([&] { file.ReadF32("other"); }), HasSubstr("has no tensor \"other\""));
}

TEST(SafetensorsFile, LayoutDoesNotDependOnTheOrderOfTensors) {
  const std::vector<TensorSpec> specs = {
      {"b", "F32", Shape{3}}, {"a", "F16", Shape{1}}, {"c", "I64", Shape{2}}};
  const std::vector<TensorSpec> reversed(specs.rbegin(), specs.rend());
  const SafetensorsLayout layout = LayOutSafetensors(specs, {});
  EXPECT_EQ(layout.header, LayOutSafetensors(reversed, {}).header);
  EXPECT_EQ(layout.header.size() % 8, 0U);
  EXPECT_EQ(layout.file_size, layout.header.size() + 16 + 12 + 2);
}

TEST(SafetensorsFile, HalvesAreConverted) {
  TempFolder folder;
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00,
                                      0xfc00, 0x8000, 0x03ff, 0x0400};
  const std::vector<uint16_t> brain = {0x3f80, 0xc000, 0x7f80, 0x0001};
  const std::vector<double> wide = {0.1, -1e300};
  SafetensorsWriter writer(
      folder / "a", {{"h", "F16", Shape{9}}, {"b", "BF16", Shape{4}}, {"d", "F64", Shape{2}}}, {});
  writer.WriteBytes("h", 0, std::as_bytes(std::span(half)));
  writer.WriteBytes("b", 0, std::as_bytes(std::span(brain)));
  writer.WriteBytes("d", 0, std::as_bytes(std::span(wide)));
  writer.Finish();
  const SafetensorsFile file(folder / "a");
  std::vector<float> out(9);
  file.ReadAsF32(file.Get("h"), 0, out);
  EXPECT_THAT(
      out, ElementsAre(1, -2, 0x1p-24F, 65504, INFINITY, -INFINITY, -0.0F, 0x1.ff8p-15F, 0x1p-14F));
  out.resize(3);
  file.ReadAsF32(file.Get("b"), 1, out);
  EXPECT_THAT(out, ElementsAre(-2, INFINITY, std::bit_cast<float>(0x00010000U)));
  out.resize(2);
  file.ReadAsF32(file.Get("d"), 0, out);
  EXPECT_THAT(out, ElementsAre(0.1F, -INFINITY));
}

TEST(SafetensorsFile, EachDefectIsNamed) {
  const std::string one = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string data(8, 'x');
  EXPECT_EQ(ErrorOf(FileOf(one, data)), "");
  EXPECT_EQ(ErrorOf(FileOf(one + "   ", data)), "");
  EXPECT_EQ(ErrorOf(FileOf("{}", "")), "");

  EXPECT_THAT(ErrorOf(""), HasSubstr("it has only 0 bytes"));
  EXPECT_THAT(ErrorOf("1234567"), HasSubstr("it has only 7 bytes"));
  EXPECT_THAT(ErrorOf(std::string(8, '\xff') + one), HasSubstr("its header would have"));
  EXPECT_THAT(ErrorOf(FileOf(one, data).substr(0, 20)), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf(FileOf(one, data.substr(1))), HasSubstr("truncated: tensor \"a\""));
  EXPECT_THAT(ErrorOf(FileOf(one, data + "y")), HasSubstr("1 bytes after its last tensor"));
  EXPECT_THAT(ErrorOf(FileOf("[]", "")), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(ErrorOf(FileOf("", "")), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(FileOf("{} x", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\xff\":1}", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":1}", "")), HasSubstr("\"a\" is not an object"));

  const auto tensor = [&](const std::string& text) {
    return ErrorOf(FileOf("{\"a\":{" + text + "}}", data));
  };
  EXPECT_THAT(tensor(R"("shape":[2],"data_offsets":[0,8])"), HasSubstr("no text \"dtype\""));
  EXPECT_THAT(tensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"),
              HasSubstr("unknown dtype \"F31\""));
  EXPECT_THAT(tensor(R"("dtype":"F32","data_offsets":[0,8])"), HasSubstr("no list \"shape\""));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
              HasSubstr("impossible shape"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
              HasSubstr("impossible shape"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[4294967296,4294967298],"data_offsets":[0,8])"),
              HasSubstr("impossible shape"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,2],"data_offsets":[0,8])"),
              HasSubstr("7 dimensions"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2])"), HasSubstr("no pair \"data_offsets\""));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"),
              HasSubstr("no pair \"data_offsets\""));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
              HasSubstr("ends before it begins"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"),
              HasSubstr("needs 4 bytes, but its range has 8"));
  EXPECT_THAT(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
              HasSubstr("unknown key \"x\""));
  EXPECT_THAT(tensor(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])"),
              HasSubstr("the key \"dtype\" twice"));

  const auto two = [&](const std::string& a, const std::string& b) {
    return ErrorOf(FileOf(
        R"({"a":{"dtype":"U8","shape":)" + a + R"(},"b":{"dtype":"U8","shape":)" + b + "}}", data));
  };
  EXPECT_THAT(two(R"([5],"data_offsets":[0,5])", R"([4],"data_offsets":[4,8])"),
              HasSubstr("\"a\" and \"b\" overlap"));
  EXPECT_THAT(two(R"([3],"data_offsets":[0,3])", R"([4],"data_offsets":[4,8])"),
              HasSubstr("1 unused bytes before tensor \"b\""));
  EXPECT_THAT(ErrorOf(FileOf(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},
                                 "a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
                             data)),
              HasSubstr("the key \"a\" twice"));
  EXPECT_THAT(ErrorOf(FileOf(R"({"__metadata__":{"k":1}})", "")), HasSubstr("\"k\" is not a text"));
  EXPECT_THAT(ErrorOf(FileOf(R"({"__metadata__":3})", "")), HasSubstr("is not an object"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":" + std::string(1000000, '['), "")),
              HasSubstr("nested too deeply"));
}

TEST(SafetensorsFile, EveryTruncationIsAnError) {
  TempFolder folder;
  const std::vector<float> values = {1, 2, 3};
  SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{3}}, {"u", "F32", Shape{3}}}, {});
  writer.Write("t", 0, values);
  writer.Write("u", 0, values);
  writer.Finish();
  const std::string bytes = ReadBytes(folder / "a");
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(ErrorOf(bytes.substr(0, size)), "") << size;
  }
  EXPECT_NE(ErrorOf(bytes + '\0'), "");
}

// One random change of a text.
std::string Mutate(std::string text, std::mt19937& random) {
  static const std::string tokens[] = {
      "{",    "}",    "[",         "]",       ",", ":", "\"", "-1", "18446744073709551615",
      "1e99", "null", "\"dtype\"", "\\u0000", "0"};
  const size_t at = random() % text.size();
  switch (random() % 6) {
    case 0:
      text[at] = static_cast<char>(random());
      break;
    case 1:
      text[at] ^= static_cast<char>(1U << (random() % 8));
      break;
    case 2:
      text.erase(at, 1 + random() % 8);
      break;
    case 3:
      text.insert(at, tokens[random() % std::size(tokens)]);
      break;
    case 4:
      text.insert(at, text.substr(random() % text.size(), random() % 40));
      break;
    default:
      text[at] = static_cast<char>('0' + random() % 10);
  }
  return text;
}

TEST(SafetensorsFile, RandomHeadersNeverCrash) {
  const SafetensorsLayout layout = LayOutSafetensors({{"layers.0.weight", "F32", Shape{4, 3}},
                                                      {"layers.0.bias", "F32", Shape{3}},
                                                      {"labels", "I64", Shape{5}},
                                                      {"half", "F16", Shape{1, 2, 3}}},
                                                     {{"format", "pt"}});
  const std::string header = layout.header.substr(8);
  const uint64_t data = layout.file_size - layout.header.size();
  std::mt19937 random(7);
  int accepted = 0;
  for (int i = 0; i < 12000; ++i) {
    std::string text = header;
    for (uint32_t n = 1 + random() % 3; n > 0 && !text.empty(); --n) text = Mutate(text, random);
    try {
      const SafetensorsHeader parsed = ParseSafetensorsHeader(text, data, "fuzz");
      uint64_t end = 0;
      for (const StoredTensor& tensor : parsed.tensors) {
        ASSERT_EQ(tensor.begin, end) << text;
        end += tensor.shape.NumElements() * StoredElementSize(tensor.dtype);
        ASSERT_EQ(tensor.end, end) << text;
      }
      ASSERT_EQ(end, data) << text;
      ++accepted;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr("fuzz"));
    }
  }
  // Changed names and padding are still valid files: the mutations are not all trivial.
  EXPECT_GT(accepted, 100);
}

TEST(SafetensorsFile, RandomFilesNeverCrash) {
  TempFolder folder;
  const SafetensorsLayout layout =
      LayOutSafetensors({{"a", "F32", Shape{4, 3}}, {"b", "I64", Shape{3}}}, {{"format", "pt"}});
  const std::string bytes =
      layout.header + std::string(layout.file_size - layout.header.size(), 'z');
  std::mt19937 random(11);
  for (int i = 0; i < 1500; ++i) {
    std::string text = Mutate(bytes, random);
    if (random() % 4 == 0) text.resize(random() % (text.size() + 1));
    WriteBytes(folder / "f", text);
    try {
      const SafetensorsFile file(folder / "f");
      for (const StoredTensor& tensor : file.tensors()) {
        std::vector<float> out(tensor.shape.NumElements());
        if (tensor.dtype == "F32") file.ReadAsF32(tensor, 0, out);
      }
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr(folder / "f"));
    }
  }
}

TEST(SafetensorsWriter, FailureLeavesTheOldFileAndNothingElse) {
  TempFolder folder;
  WriteBytes(folder / "a", "old");
  const std::vector<float> values(8, 1.F);
  const auto write = [&](FileOps& ops) {
    SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{8}}}, {}, ops);
    writer.Write("t", 0, values);
    writer.Finish();
  };
  const auto expect_old = [&] {
    EXPECT_EQ(ReadBytes(folder / "a"), "old");
    EXPECT_THAT(NamesOf(folder.path()), ElementsAre("a"));
  };
  {
    FaultyOps ops;
    ops.on_write = [](const std::string&, uint64_t offset) { return offset > 0 ? -ENOSPC : 0; };
    EXPECT_THAT(MessageOf([&] { write(ops); }),
                AllOf(HasSubstr("ENOSPC"), HasSubstr("free space")));
    expect_old();
  }
  {
    FaultyOps ops;
    ops.on_write = [](const std::string&, uint64_t) { return -EDQUOT; };
    EXPECT_THAT(MessageOf([&] { write(ops); }), AllOf(HasSubstr("EDQUOT"), HasSubstr("quota")));
    expect_old();
  }
  {
    FaultyOps ops;
    ops.on_fsync = [](const std::string&) { return -EIO; };
    EXPECT_THAT(MessageOf([&] { write(ops); }), HasSubstr("fsync"));
    expect_old();
  }
  {
    FaultyOps ops;
    ops.on_rename = [](const std::string&, const std::string&) { return -EACCES; };
    EXPECT_THAT(MessageOf([&] { write(ops); }), HasSubstr("permission"));
    expect_old();
  }
  {
    FaultyOps ops;
    ops.on_close = [] { return -EIO; };
    EXPECT_THAT(MessageOf([&] { write(ops); }), HasSubstr("cannot close"));
    expect_old();
  }
  // Given up before Finish.
  { const SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{8}}}, {}); }
  expect_old();
  EXPECT_THAT(MessageOf([&] {
                SafetensorsWriter writer(folder / "missing/a", {{"t", "F32", Shape{8}}}, {});
              }),
              HasSubstr("does not exist"));
  EXPECT_THAT(MessageOf([&] {
                SafetensorsWriter writer(folder / "a/b", {{"t", "F32", Shape{8}}}, {});
              }),
              HasSubstr("a part of the path is a file"));
  EXPECT_THAT(MessageOf([&] { SafetensorsWriter writer(folder.path(), {}, {}); }),
              HasSubstr("it is a folder"));
  write(FileOps::System());
  EXPECT_EQ(SafetensorsFile(folder / "a").ReadF32("t"), values);
}

TEST(SafetensorsWriter, ShortAndInterruptedWritesAreContinued) {
  TempFolder folder;
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  FaultyOps ops;
  ops.max_transfer = 7;
  int calls = 0;
  ops.on_write = [&](const std::string&, uint64_t) { return ++calls % 5 == 0 ? -EINTR : 0; };
  SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{1000}}}, {}, ops);
  writer.Write("t", 0, values);
  writer.Finish();
  EXPECT_EQ(SafetensorsFile(folder / "a", ops).ReadF32("t"), values);
}

TEST(SafetensorsWriter, FileSizeLimitIsAnError) {
  TempFolder folder;
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<float> values(4096, 1.F);
  const std::string message = MessageOf([&] {
    SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{4096}}}, {});
    writer.Write("t", 0, values);
    writer.Finish();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("EFBIG"));
  EXPECT_THAT(NamesOf(folder.path()), IsEmpty());
}

TEST(SafetensorsWriter, FullDiskIsAnError) {
  TempFolder folder;
  const SmallFilesystem disk(folder / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a small filesystem is not permitted";
  const std::vector<float> values(1 << 20, 1.F);
  const std::string message = MessageOf([&] {
    SafetensorsWriter writer(folder / "disk/a", {{"t", "F32", Shape{1 << 20}}}, {});
    writer.Write("t", 0, values);
    writer.Finish();
  });
  EXPECT_THAT(message, HasSubstr("ENOSPC"));
  EXPECT_THAT(NamesOf(folder / "disk"), IsEmpty());
}

TEST(SafetensorsWriterDeath, EveryElementHasToBeWritten) {
  TempFolder folder;
  const std::vector<float> values(4, 1.F);
  SafetensorsWriter writer(folder / "a", {{"t", "F32", Shape{8}}}, {});
  writer.Write("t", 0, values);
  EXPECT_DEATH(writer.Finish(), "not every element");
  EXPECT_DEATH(writer.Write("t", 5, values), "bytes 20\\+16 of 32");
}

}  // namespace
}  // namespace swinfleet
