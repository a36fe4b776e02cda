// Weights out of checkpoints and into models.
#include <cmath>
#include <cstring>

#include "core/checkpoint/weights_io.h"
#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// Three stages, as far as names go.
ParameterTable Table() {
  ParameterTable table;
  table.BeginUnit("patch_embed");
  table.Add("patch_embed.proj.weight", Shape{4, 3}, {});
  table.BeginUnit("layers.0");
  table.Add("layers.0.blocks.0.mlp.fc1.bias", Shape{5}, {});
  table.Add("layers.0.downsample.norm.weight", Shape{8}, {});
  table.BeginUnit("layers.1");
  table.Add("layers.1.downsample.norm.weight", Shape{16}, {});
  table.BeginUnit("head");
  table.Add("head.weight", Shape{2, 4}, {});
  table.Add("head.bias", Shape{2}, {});
  return table;
}

struct Stored {
  std::string name;
  Shape shape;
  std::string dtype = "F32";
};

std::vector<Stored> OfficialFile() {
  const ParameterTable table = Table();
  std::vector<Stored> list;
  for (const ParameterInfo& info : table.parameters()) list.push_back({info.name, info.shape});
  return list;
}

float ValueOf(size_t i) { return static_cast<float>(i) * 0.5F - 3; }

// Writes tensors whose element i is ValueOf(i), exactly, whatever the dtype.
void WriteFile(const std::string& path, const std::vector<Stored>& list) {
  std::vector<TensorSpec> specs;
  for (const Stored& s : list) specs.push_back({s.name, s.dtype, s.shape});
  SafetensorsWriter writer(path, specs, {});
  for (const Stored& s : list) {
    std::string bytes;
    const size_t size = StoredElementSize(s.dtype);
    for (int64_t i = 0; i < s.shape.NumElements(); ++i) {
      const float value = ValueOf(i);
      uint32_t bits = 0;
      std::memcpy(&bits, &value, 4);
      if (s.dtype == "BF16") bits >>= 16;
      if (s.dtype == "F16") {
        const _Float16 half = static_cast<_Float16>(value);
        std::memcpy(&bits, &half, 2);
      }
      std::string element(size, '\0');
      std::memcpy(element.data(), &bits, std::min<size_t>(size, 4));
      bytes += element;
    }
    writer.WriteBytes(s.name, 0, std::as_bytes(std::span(bytes)));
  }
  writer.Finish();
}

class WeightsIo : public ::testing::Test {
 protected:
  // Imports and returns the message of the error; the values go to `values_`.
  std::string Import(const std::vector<Stored>& list) {
    WriteFile(path_, list);
    values_.clear();
    return MessageOf([&] {
      report_ = ImportWeights(path_, table_, [&](int index, std::span<const float> values) {
        values_[table_.parameters()[index].name].assign(values.begin(), values.end());
      });
    });
  }
  void ExpectAllValues() {
    ASSERT_THAT(values_, SizeIs(table_.parameters().size()));
    for (const auto& [name, values] : values_) {
      for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], ValueOf(i)) << name;
    }
  }

  TempFolder folder_;
  std::string path_ = folder_ / "w.safetensors";
  ParameterTable table_ = Table();
  std::map<std::string, std::vector<float>> values_;
  ImportReport report_;
};

TEST_F(WeightsIo, OfficialNamesOfAnyFloatDtypeWithBuffers) {
  std::vector<Stored> list = OfficialFile();
  list[0].dtype = "BF16";
  list[1].dtype = "F16";
  list.push_back({"layers.0.blocks.0.attn.relative_coords_table", Shape{1, 3, 3, 2}});
  list.push_back({"layers.0.blocks.0.attn.relative_position_index", Shape{4, 4}, "I64"});
  list.push_back({"layers.0.blocks.1.attn_mask", Shape{4, 4, 4}});
  ASSERT_EQ(Import(list), "");
  ExpectAllValues();
  EXPECT_THAT(report_.matched, SizeIs(6));
  EXPECT_THAT(report_.ignored_buffers, SizeIs(3));
  EXPECT_THAT(report_.renamed, IsEmpty());
  EXPECT_THAT(report_.ToString(),
              AllOf(HasSubstr("6 parameters matched"), HasSubstr("computed, not read (3)")));
}

TEST_F(WeightsIo, TimmsNamesAreMapped) {
  std::vector<Stored> list = OfficialFile();
  list[2].name = "layers.1.downsample.norm.weight";
  list[3].name = "layers.2.downsample.norm.weight";
  list[4].name = "head.fc.weight";
  list[5].name = "head.fc.bias";
  ASSERT_EQ(Import(list), "");
  ExpectAllValues();
  EXPECT_THAT(report_.renamed,
              UnorderedElementsAre(
                  Pair("layers.1.downsample.norm.weight", "layers.0.downsample.norm.weight"),
                  Pair("layers.2.downsample.norm.weight", "layers.1.downsample.norm.weight"),
                  Pair("head.fc.weight", "head.weight"), Pair("head.fc.bias", "head.bias")));
  EXPECT_THAT(report_.ToString(), HasSubstr("head.fc.weight -> head.weight"));
}

TEST_F(WeightsIo, EveryMismatchIsReportedAndNothingIsDelivered) {
  std::vector<Stored> list = OfficialFile();
  list[1].shape = Shape{6};
  list[4].dtype = "F64";
  list[3].name = "layers.7.downsample.norm.weight";
  list.push_back({"extra", Shape{1}});
  const std::string message = Import(list);
  EXPECT_THAT(message,
              AllOf(HasSubstr(path_),
                    HasSubstr("layers.0.blocks.0.mlp.fc1.bias: (6) in the file, "
                              "(5) in the model"),
                    HasSubstr("head.weight: F64"),
                    HasSubstr("missing in the file (1):\n    layers.1.downsample.norm.weight"),
                    HasSubstr("unknown to the model (2)"), HasSubstr("extra")));
  EXPECT_THAT(message, HasSubstr("3 parameters matched"));
  EXPECT_THAT(values_, IsEmpty());
}

TEST_F(WeightsIo, NaNAndInfinityAreFound) {
  WriteFile(path_, OfficialFile());
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::string bytes = ReadBytes(path_);
    const SafetensorsFile file(path_);
    std::memcpy(bytes.data() + file.Get("head.bias").begin + 4, &bad, 4);
    WriteBytes(folder_ / "bad", bytes);
    int calls = 0;
    EXPECT_THAT(MessageOf([&] {
                  ImportWeights(folder_ / "bad", table_,
                                [&](int, std::span<const float>) { ++calls; });
                }),
                HasSubstr("NaN or infinite values (1):\n    head.bias"));
    EXPECT_EQ(calls, 0);
    // Shared among ranks, the one that has the parameter finds it.
    WeightsFile shared(folder_ / "bad", table_);
    EXPECT_EQ(MessageOf([&] { shared.VerifyFinite(0, 2); }), "");
    EXPECT_THAT(MessageOf([&] { shared.VerifyFinite(1, 2); }), HasSubstr("head.bias"));
  }
}

TEST_F(WeightsIo, RangesOfOneParameter) {
  WriteFile(path_, OfficialFile());
  const WeightsFile file(path_, table_);
  std::vector<float> part(3);
  file.Read(table_.Find("layers.1.downsample.norm.weight"), 10, part);
  EXPECT_THAT(part, ElementsAre(ValueOf(10), ValueOf(11), ValueOf(12)));
}

TEST_F(WeightsIo, LongListsAreCut) {
  std::vector<Stored> list = OfficialFile();
  for (int i = 0; i < 50; ++i) list.push_back({"extra." + std::to_string(i), Shape{1}});
  EXPECT_THAT(Import(list),
              AllOf(HasSubstr("unknown to the model (50)"), HasSubstr("and 30 more")));
}

TEST_F(WeightsIo, OtherFilesAreErrors) {
  WriteBytes(path_, "not safetensors at all");
  EXPECT_THAT(MessageOf([&] { WeightsFile file(path_, table_); }), HasSubstr(path_));
  EXPECT_THAT(MessageOf([&] { WeightsFile file(folder_ / "none", table_); }),
              HasSubstr("does not exist"));
}

TEST_F(WeightsIo, ExportOfAShardedCheckpointIsImportedAgain) {
  std::map<std::string, Shape> shapes;
  for (const ParameterInfo& info : table_.parameters()) shapes[info.name] = info.shape;
  const Tensors tensors = Tensors::Make(shapes, 9);
  const std::string dir = Save(folder_ / "run", 1, 12, tensors, 3);
  WriteBytes(path_, "an older file");
  const auto reader = CheckpointReader::Open(dir);
  const ExportSummary summary = ExportWeights(*reader, path_);
  EXPECT_EQ(summary.tensors, 6);
  EXPECT_EQ(summary.elements, 12 + 5 + 8 + 16 + 8 + 2);
  const SafetensorsFile file(path_);
  EXPECT_THAT(file.tensors(), SizeIs(6));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("model_config"), "{\"embed_dim\": 8}");
  EXPECT_EQ(file.metadata().at("step"), "12");
  ImportWeights(path_, table_, [&](int index, std::span<const float> values) {
    const std::vector<float>& expected =
        tensors.values.at("param/" + table_.parameters()[index].name);
    EXPECT_TRUE(std::equal(values.begin(), values.end(), expected.begin(), expected.end()));
  });
  // A failure leaves the old file.
  FaultyOps ops;
  ops.on_write = [](const std::string&, uint64_t offset) { return offset > 0 ? -ENOSPC : 0; };
  EXPECT_THAT(MessageOf([&] { ExportWeights(*reader, path_, ops); }), HasSubstr("ENOSPC"));
  EXPECT_EQ(SafetensorsFile(path_).tensors().size(), 6U);
  EXPECT_THAT(NamesOf(folder_.path()), UnorderedElementsAre("run", "w.safetensors"));
}

}  // namespace
}  // namespace swinfleet
