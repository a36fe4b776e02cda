// Weights out of checkpoints and into models.
#include <cmath>
#include <cstring>

#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/weight_names.h"
#include "core/checkpoint/weight_transfer.h"
#include "core/checkpoint/weights_io.h"
#include "core/nn/model.h"
#include "core/nn/sin_cos_positions.h"
#include "kernels/ops.h"
#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// Two stages: 8x8 tokens with window 4, and 4x4.
ModelConfig SmallModel(Architecture arch) {
  ModelConfig model;
  model.arch = arch;
  model.image_h = model.image_w = 32;
  model.num_classes = 5;
  model.embed_dim = 8;
  model.depths = {1, 1};
  model.num_heads = {2, 4};
  model.window_size = 4;
  model.mlp_ratio = 2;
  return model;
}

ModelConfig SmallVideo() {
  ModelConfig model = SmallModel(Architecture::kVideoSwin);
  model.frames = 4;
  model.patch_frames = 2;
  model.window_frames = 2;
  return model;
}

ParameterTable TableOf(const ModelConfig& model) { return MakeModel(model, {}, {})->parameters(); }

struct Stored {
  std::string name;
  Shape shape;
  std::string dtype = "F32";
  // Of a table of coordinates, (1, rows, columns, 2): the window that they are in units of.
  int64_t units = 0;
};

// What a file with the model's own names holds.
std::vector<Stored> Official(const ModelConfig& model) {
  std::vector<Stored> list;
  const ParameterTable table = TableOf(model);
  for (const ParameterInfo& info : table.parameters()) {
    list.push_back({info.name, info.shape});
  }
  return list;
}

Stored& Find(std::vector<Stored>* list, const std::string& name) {
  for (Stored& stored : *list) {
    if (stored.name == name) return stored;
  }
  ADD_FAILURE() << name;
  return list->front();
}

void Erase(std::vector<Stored>* list, const std::string& start) {
  std::erase_if(*list, [&](const Stored& stored) { return stored.name.starts_with(start); });
}

void Rename(std::vector<Stored>* list, const std::string& from, const std::string& to) {
  for (Stored& stored : *list) {
    if (stored.name.starts_with(from)) stored.name = to + stored.name.substr(from.size());
  }
}

// Exact in every dtype.
float ValueOf(size_t i) { return static_cast<float>(i % 256) * 0.5F - 3; }

std::vector<float> ValuesOf(int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = ValueOf(i);
  return values;
}

std::string BytesOf(float value, const std::string& dtype) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  if (dtype == "BF16") bits >>= 16;
  if (dtype == "F16") {
    const _Float16 half = static_cast<_Float16>(value);
    std::memcpy(&bits, &half, 2);
  }
  std::string element(StoredElementSize(dtype), '\0');
  std::memcpy(element.data(), &bits, std::min<size_t>(element.size(), 4));
  return element;
}

std::vector<float> ValuesOf(const Stored& stored) {
  std::vector<float> values = ValuesOf(stored.shape.NumElements());
  if (stored.units > 0) {
    LogSpacedCoordinates((stored.shape[1] + 1) / 2, (stored.shape[2] + 1) / 2, stored.units,
                         stored.units, values.data());
  }
  return values;
}

// Writes tensors whose element i is ValueOf(i), and coordinates.
void WriteFile(const std::string& path, const std::vector<Stored>& list) {
  std::vector<TensorSpec> specs;
  for (const Stored& s : list) specs.push_back({s.name, s.dtype, s.shape});
  SafetensorsWriter writer(path, specs, {});
  for (const Stored& s : list) {
    std::string bytes;
    for (const float value : ValuesOf(s)) bytes += BytesOf(value, s.dtype);
    writer.WriteBytes(s.name, 0, std::as_bytes(std::span(bytes)));
  }
  writer.Finish();
}

class WeightsIo : public ::testing::Test {
 protected:
  // The model that weights are imported into.
  void Target(const ModelConfig& model) {
    options_.model = model;
    table_ = TableOf(model);
  }
  // Imports and returns the message of the error; the values go to `values_`.
  std::string Import(const std::vector<Stored>& list) {
    WriteFile(path_, list);
    return ImportFile();
  }
  std::string ImportFile() {
    values_.clear();
    return MessageOf([&] {
      report_ =
          ImportWeights(path_, table_, options_, [&](int index, std::span<const float> values) {
            values_[table_.parameters()[index].name].assign(values.begin(), values.end());
          });
    });
  }
  void ExpectAllValues() {
    ASSERT_THAT(values_, SizeIs(table_.parameters().size()));
    for (const auto& [name, values] : values_) {
      EXPECT_EQ(values, ValuesOf(static_cast<int64_t>(values.size()))) << name;
    }
  }

  TempFolder folder_;
  std::string path_ = folder_ / "w.safetensors";
  ModelConfig v1_ = SmallModel(Architecture::kSwinV1);
  ModelConfig v2_ = SmallModel(Architecture::kSwinV2);
  ImportOptions options_ = {.model = v2_, .skip = {}, .source_model = {}};
  ParameterTable table_ = TableOf(v2_);
  std::map<std::string, std::vector<float>> values_;
  ImportReport report_;
};

// ---- Names ----

TEST_F(WeightsIo, OfficialNamesOfAnyFloatDtypeWithBuffers) {
  std::vector<Stored> list = Official(v2_);
  list[0].dtype = "BF16";
  list[1].dtype = "F16";
  list.push_back({"layers.0.blocks.0.attn.relative_coords_table", Shape{1, 7, 7, 2}, "F32", 4});
  list.push_back({"layers.0.blocks.0.attn.relative_position_index", Shape{16, 16}, "I64"});
  list.push_back({"layers.0.blocks.1.attn_mask", Shape{4, 16, 16}});
  ASSERT_EQ(Import(list), "");
  ExpectAllValues();
  EXPECT_THAT(report_.matched, SizeIs(table_.parameters().size()));
  EXPECT_THAT(report_.left_out, SizeIs(3));
  EXPECT_THAT(report_.renamed, IsEmpty());
  EXPECT_THAT(report_.ToString(), AllOf(HasSubstr("parameters matched"), HasSubstr("left out (3)"),
                                        HasSubstr("relative_coords_table: computed")));
}

TEST_F(WeightsIo, TimmsNamesAreMapped) {
  for (const ModelConfig& model : {v1_, v2_}) {
    Target(model);
    std::vector<Stored> list = Official(model);
    Rename(&list, "layers.0.downsample.", "layers.1.downsample.");
    Rename(&list, "head.", "head.fc.");
    ASSERT_EQ(Import(list), "");
    ExpectAllValues();
    EXPECT_THAT(report_.renamed, Contains(Pair("head.fc.weight", "head.weight")));
    EXPECT_THAT(report_.renamed, Contains(Pair("layers.1.downsample.norm.weight",
                                               "layers.0.downsample.norm.weight")));
  }
}

TEST_F(WeightsIo, WrappersAreTakenOff) {
  for (const std::string wrapper : {"module.", "model.", "model.module.", "_orig_mod.module."}) {
    std::vector<Stored> list = Official(v2_);
    Rename(&list, "", wrapper);
    ASSERT_EQ(Import(list), "") << wrapper;
    ExpectAllValues();
  }
}

TEST_F(WeightsIo, TheOldNameOfThePositionMlp) {
  std::vector<Stored> list = Official(v2_);
  Rename(&list, "layers.0.blocks.0.attn.cpb_mlp.", "layers.0.blocks.0.attn.rpe_mlp.");
  ASSERT_EQ(Import(list), "");
  ExpectAllValues();
}

TEST_F(WeightsIo, TwoTensorsOfOneNameAreAnError) {
  std::vector<Stored> list = Official(v2_);
  list.push_back({"module.head.bias", Shape{5}});
  EXPECT_THAT(Import(list), HasSubstr("module.head.bias: stands for the same as head.bias"));
}

TEST_F(WeightsIo, BiasesInOtherPieces) {
  // Swin V2 from one bias of q, k and v, that of the keys being zero: written by hand.
  std::vector<Stored> list = Official(v2_);
  Erase(&list, "layers.0.blocks.0.attn.q_bias");
  Erase(&list, "layers.0.blocks.0.attn.v_bias");
  list.push_back({"layers.0.blocks.0.attn.qkv.bias", Shape{24}});
  EXPECT_THAT(Import(list), HasSubstr("layers.0.blocks.0.attn.qkv.bias has a bias of keys"));
  EXPECT_THAT(values_, IsEmpty());
  std::string bytes = ReadBytes(path_);
  const uint64_t begin = SafetensorsFile(path_).Get("layers.0.blocks.0.attn.qkv.bias").begin;
  std::memset(bytes.data() + begin + 8 * 4, 0, 8 * 4);
  WriteBytes(path_, bytes);
  ASSERT_EQ(ImportFile(), "");
  const std::vector<float> all = ValuesOf(24);
  EXPECT_EQ(values_["layers.0.blocks.0.attn.q_bias"],
            std::vector<float>(all.begin(), all.begin() + 8));
  EXPECT_EQ(values_["layers.0.blocks.0.attn.v_bias"],
            std::vector<float>(all.begin() + 16, all.end()));

  // Swin V1 from biases of q and v.
  Target(v1_);
  list = Official(v1_);
  Erase(&list, "layers.1.blocks.0.attn.qkv.bias");
  list.push_back({"layers.1.blocks.0.attn.q_bias", Shape{16}});
  list.push_back({"layers.1.blocks.0.attn.v_bias", Shape{16}});
  ASSERT_EQ(Import(list), "");
  std::vector<float> expected = ValuesOf(16);
  expected.resize(32, 0.0F);
  const std::vector<float> v = ValuesOf(16);
  expected.insert(expected.end(), v.begin(), v.end());
  EXPECT_EQ(values_["layers.1.blocks.0.attn.qkv.bias"], expected);
}

TEST(MatchesPattern, WholeNamesAndPrefixes) {
  EXPECT_TRUE(MatchesPattern("head.weight", "head.weight"));
  EXPECT_TRUE(MatchesPattern("head.weight", "head.*"));
  EXPECT_FALSE(MatchesPattern("head.weight", "head."));
  EXPECT_FALSE(MatchesPattern("header.weight", "head.*"));
  EXPECT_TRUE(MatchesPattern("anything", "*"));
}

// ---- What must not be ----

TEST_F(WeightsIo, EveryMismatchIsReportedAndNothingIsDelivered) {
  std::vector<Stored> list = Official(v2_);
  Find(&list, "layers.0.blocks.0.mlp.fc1.bias").shape = Shape{6};
  Find(&list, "head.weight").dtype = "F64";
  Find(&list, "norm.weight").name = "nrom.weight";
  list.push_back({"extra", Shape{1}});
  const std::string message = Import(list);
  EXPECT_THAT(
      message,
      AllOf(HasSubstr(path_),
            HasSubstr("layers.0.blocks.0.mlp.fc1.bias: (6) in the file, "
                      "(16) in the model"),
            HasSubstr("head.weight: F64"), HasSubstr("missing in the file (1):\n    norm.weight"),
            HasSubstr("unknown to the model (2)"), HasSubstr("extra"), HasSubstr("nrom.weight")));
  EXPECT_THAT(values_, IsEmpty());
}

TEST_F(WeightsIo, NaNAndInfinityAreFound) {
  WriteFile(path_, Official(v2_));
  const std::string good = path_;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::string bytes = ReadBytes(good);
    std::memcpy(bytes.data() + SafetensorsFile(good).Get("head.bias").begin + 4, &bad, 4);
    path_ = folder_ / "bad";
    WriteBytes(path_, bytes);
    const std::string message = ImportFile();
    EXPECT_THAT(message, HasSubstr("NaN or infinite values (1):\n    head.bias"));
    EXPECT_THAT(message, HasSubstr(path_ + ": they hold NaN or infinite values in head.bias\n"));
    EXPECT_THAT(message,
                AllOf(HasSubstr("an earlier checkpoint"),
                      HasSubstr("model.init_skip: [\"head.bias\"]"), Not(HasSubstr("do not fit"))));
    EXPECT_THAT(values_, IsEmpty());
    // Shared among ranks, the one that has the parameter finds it.
    WeightsFile shared(path_, table_, options_);
    const int index = table_.Find("head.bias");
    EXPECT_EQ(MessageOf([&] { shared.Verify((index + 1) % 2, 2); }), "");
    EXPECT_THAT(MessageOf([&] { shared.Verify(index % 2, 2); }), HasSubstr("head.bias"));
  }
}

TEST_F(WeightsIo, OtherClassesAreAnErrorThatSaysWhatToDo) {
  std::vector<Stored> list = Official(v2_);
  Find(&list, "head.weight").shape = Shape{21841, 16};
  Find(&list, "head.bias").shape = Shape{21841};
  EXPECT_THAT(Import(list), AllOf(HasSubstr("head.weight: (21841, 16) in the file"),
                                  HasSubstr("model.init_skip: [\"head.*\"]")));
  options_.skip = {"head.*"};
  ASSERT_EQ(Import(list), "");
  EXPECT_THAT(values_, SizeIs(table_.parameters().size() - 2));
  EXPECT_THAT(report_.skipped, UnorderedElementsAre("head.weight", "head.bias"));
}

TEST_F(WeightsIo, WhatInitSkipNamesIsNotRead) {
  options_.skip = {"norm.bias", "extra.*"};
  std::vector<Stored> list = Official(v2_);
  list.push_back({"extra.a", Shape{1}});
  list.push_back({"extra.b", Shape{2}});
  ASSERT_EQ(Import(list), "");
  EXPECT_FALSE(values_.contains("norm.bias"));
  EXPECT_THAT(report_.skipped, SizeIs(3));
  options_.skip = {"nrom.bias"};
  EXPECT_THAT(Import(Official(v2_)),
              HasSubstr("in init_skip, but neither in the model nor in the file (1):\n    "
                        "nrom.bias"));
}

TEST_F(WeightsIo, WhatTheModelHasNoPlaceForMayBeNamed) {
  std::vector<Stored> list = Official(v2_);
  for (const std::string name : {"aux.a", "aux.b", "extra", "head.scale"}) {
    list.push_back({"module." + name, Shape{1}});
  }
  // Not the whole head, which the model has.
  EXPECT_THAT(Import(list), HasSubstr("to leave out what the model has no place for: "
                                      "model.init_skip: [\"aux.*\", \"extra\", \"head.scale\"]"));
  // What is in the setting already stays there.
  options_.skip = {"norm.*", "extra"};
  EXPECT_THAT(ImportFile(), HasSubstr("[\"norm.*\", \"extra\", \"aux.*\", \"head.scale\"]"));
  options_.skip = {"norm.*", "extra", "aux.*", "head.scale"};
  EXPECT_EQ(ImportFile(), "");
  // One more weight in a block is another block.
  options_.skip.clear();
  list = Official(v2_);
  list.push_back({"layers.0.blocks.0.gamma", Shape{1}});
  EXPECT_THAT(Import(list), Not(HasSubstr("init_skip")));
  // Together with another classifier.
  list = Official(v2_);
  Find(&list, "head.bias").shape = Shape{9};
  list.push_back({"aux.a", Shape{1}});
  EXPECT_THAT(Import(list),
              HasSubstr("to start with a new classifier and leave out what the model "
                        "has no place for: model.init_skip: [\"head.*\", \"aux.*\"]"));
}

TEST_F(WeightsIo, WeightsOfAnotherModelAreDescribed) {
  const std::string message = Import(Official(*ModelPreset("swin_tiny_patch4_window7_224")));
  EXPECT_THAT(message, HasSubstr("the file holds Swin V1 of embed_dim 96, depths [2, 2, 6, 2], "
                                 "heads [3, 6, 12, 24]"));
  EXPECT_THAT(message, HasSubstr("the model is Swin V2 of embed_dim 8"));
  EXPECT_THAT(message, HasSubstr("presets that fit the file: swin_tiny_patch4_window7_224"));
  EXPECT_THAT(Import({{"features.0.0.weight", Shape{1}}}), HasSubstr("torchvision"));
  EXPECT_THAT(Import({{"swin.encoder.layers.0.blocks.0.attention.self.query.weight", Shape{1}}}),
              HasSubstr("transformers"));
}

TEST_F(WeightsIo, LongListsAreCut) {
  std::vector<Stored> list = Official(v2_);
  for (int i = 0; i < 50; ++i) list.push_back({"extra." + std::to_string(i), Shape{1}});
  EXPECT_THAT(Import(list), AllOf(HasSubstr("unknown to the model (50)"),
                                  HasSubstr("and 30 more; `swinfleet import --json` lists all")));
}

TEST_F(WeightsIo, OtherFilesAreErrors) {
  WriteBytes(path_, "not safetensors at all");
  EXPECT_THAT(ImportFile(), HasSubstr(path_));
  // PyTorch's zip archive and its older pickle.
  for (const std::string& head : {std::string("PK\3\4"), std::string("\x80\x02\x8a\x0a")}) {
    WriteBytes(path_, head + std::string(100, 'x'));
    EXPECT_THAT(ImportFile(), AllOf(HasSubstr("PyTorch pickle"), Not(HasSubstr("\n")),
                                    HasSubstr("python3 deploy/pickle_to_safetensors.py '" + path_ +
                                              "' weights.safetensors")));
  }
  // The command can be copied whatever the name.
  path_ = folder_ / "it's.pth";
  WriteBytes(path_, "PK\3\4" + std::string(100, 'x'));
  EXPECT_THAT(ImportFile(), HasSubstr("/it'\\''s.pth' weights.safetensors"));
  path_ = folder_ / "none";
  EXPECT_THAT(ImportFile(), HasSubstr("does not exist"));
  path_ = folder_.path();
  EXPECT_THAT(ImportFile(), HasSubstr("neither manifest.json nor"));
}

TEST_F(WeightsIo, RangesOfOneParameter) {
  WriteFile(path_, Official(v2_));
  const WeightsFile file(path_, table_, options_);
  std::vector<float> part(3);
  file.Read(table_.Find("layers.1.blocks.0.mlp.fc1.weight"), 10, part);
  EXPECT_THAT(part, ElementsAre(ValueOf(10), ValueOf(11), ValueOf(12)));
}

// ---- Other windows, sizes and dimensions ----

TEST_F(WeightsIo, TablesOfOtherWindowsAreInterpolated) {
  ModelConfig larger = v1_;
  larger.image_h = larger.image_w = 48;
  larger.window_size = 6;
  larger.ape = v1_.ape = true;
  Target(larger);
  ASSERT_EQ(Import(Official(v1_)), "");
  EXPECT_THAT(report_.transferred,
              UnorderedElementsAre(
                  "absolute_pos_embed: bicubic, 8x8 to 12x12",
                  "layers.0.blocks.0.attn.relative_position_bias_table: bicubic, 7x7 to 11x11",
                  "layers.1.blocks.0.attn.relative_position_bias_table: bicubic, 7x7 to 11x11"));
  EXPECT_EQ(values_["layers.1.blocks.0.attn.relative_position_bias_table"],
            ResizeBicubic(ValuesOf(49 * 4), {7, 7}, {11, 11}, 4));
  EXPECT_EQ(values_["absolute_pos_embed"], ResizeBicubic(ValuesOf(64 * 8), {8, 8}, {12, 12}, 8));
}

TEST_F(WeightsIo, PositionsOfRectanglesNeedTheSourcesModel) {
  ModelConfig wide = v1_;
  wide.ape = true;
  wide.image_h = 16;
  wide.image_w = 64;
  ModelConfig square = v1_;
  square.ape = true;
  // Both have 64 tokens; the first stage's window is 4 in both, the second's 2 and 4.
  Target(square);
  WriteFile(path_, Official(wide));
  options_.source_model = wide;
  ASSERT_EQ(ImportFile(), "");
  EXPECT_EQ(values_["absolute_pos_embed"], ResizeBicubic(ValuesOf(64 * 8), {4, 16}, {8, 8}, 8));
  options_.source_model.reset();
  square.image_h = square.image_w = 64;
  Target(square);
  wide.image_h = 32;
  EXPECT_THAT(Import(Official(wide)), HasSubstr("absolute_pos_embed: (1, 128, 8) in the file"));
}

TEST_F(WeightsIo, OfSwinV2NothingIsResized) {
  ModelConfig larger = v2_;
  larger.image_h = larger.image_w = 64;
  larger.window_size = 8;
  Target(larger);
  ASSERT_EQ(Import(Official(v2_)), "");
  ExpectAllValues();
  // As of newer files of timm, nobody knows what its units are.
  EXPECT_THAT(report_.notes, ElementsAre(HasSubstr("trained in units of; the model's are [8, 8]")));
  // With the source's model known, its units have to be the model's.
  options_.source_model = v2_;
  EXPECT_THAT(ImportFile(),
              AllOf(HasSubstr("stage 1: of window 4 in the file, of window 8 in the model"),
                    HasSubstr("model.pretrained_window_sizes: [4, 4]")));
  EXPECT_THAT(values_, IsEmpty());
  larger.pretrained_window_sizes = {4, 4};
  Target(larger);
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.notes, IsEmpty());
  // The second stage's window has one token, which has no coordinates to divide.
  ModelConfig smaller = v2_;
  smaller.image_h = smaller.image_w = 8;
  Target(smaller);
  EXPECT_THAT(ImportFile(),
              AllOf(HasSubstr("model.pretrained_window_sizes: [4, 0]"), Not(HasSubstr("stage 1"))));
}

class CoordinatesTest : public WeightsIo {
 protected:
  CoordinatesTest() {
    larger_.image_h = larger_.image_w = 64;
    larger_.window_size = 8;
  }
  static std::string Block(int stage) {
    return "layers." + std::to_string(stage) + ".blocks.0.attn.";
  }
  // The official file, whose tables for windows of 4 are in units of these.
  static std::vector<Stored> WithTables(const std::vector<int64_t>& units,
                                        const std::string& dtype = "F32") {
    std::vector<Stored> list = Official(SmallModel(Architecture::kSwinV2));
    for (int stage = 0; stage < 2; ++stage) {
      list.push_back(
          {Block(stage) + "relative_coords_table", Shape{1, 7, 7, 2}, dtype, units[stage]});
    }
    return list;
  }
  ModelConfig larger_ = v2_;
};

TEST_F(CoordinatesTest, OfTheOfficialFileTellTheirUnits) {
  for (const std::string dtype : {"F32", "BF16", "F16"}) {
    Target(v2_);
    ASSERT_EQ(Import(WithTables({4, 4}, dtype)), "") << dtype;
    EXPECT_THAT(report_.notes, IsEmpty());
    Target(larger_);
    EXPECT_THAT(
        ImportFile(),
        AllOf(HasSubstr("with position biases in other units (2):\n    stage 0: of window 4"),
              HasSubstr("model.pretrained_window_sizes: [4, 4]")));
    EXPECT_THAT(values_, IsEmpty());
    ModelConfig transferred = larger_;
    transferred.pretrained_window_sizes = {4, 4};
    Target(transferred);
    ASSERT_EQ(ImportFile(), "") << dtype;
    ExpectAllValues();
    EXPECT_THAT(report_.notes, IsEmpty());
    // Trained before at yet another window.
    Target(v2_);
    EXPECT_THAT(Import(WithTables({4, 12}, dtype)),
                AllOf(HasSubstr("(1):\n    stage 1: of window 12 in the file, of window 4 in"),
                      HasSubstr("model.pretrained_window_sizes: [4, 12]")));
    transferred = v2_;
    transferred.pretrained_window_sizes = {0, 12};
    Target(transferred);
    ASSERT_EQ(ImportFile(), "") << dtype;
    EXPECT_THAT(report_.notes, IsEmpty());
  }
  // Without the layers that they go into they mean nothing.
  Target(larger_);
  options_.skip = {Block(0) + "cpb_mlp.*", Block(1) + "cpb_mlp.*"};
  EXPECT_EQ(Import(WithTables({4, 4})), "");
}

TEST_F(CoordinatesTest, ThatNoWindowGivesAreAnError) {
  EXPECT_THAT(Import(WithTables({4, 0})),
              HasSubstr(Block(1) + "relative_coords_table: no window gives these coordinates"));
  std::vector<Stored> list = WithTables({4, 4});
  list.push_back({"layers.0.blocks.1.attn.relative_coords_table", Shape{1, 7, 7, 2}, "F32", 6});
  EXPECT_THAT(Import(list), HasSubstr("blocks.1.attn.relative_coords_table: of window 6, in "
                                      "another block of the stage of window 4"));
  list.back() = {"layers.0.blocks.1.attn.relative_coords_table", Shape{1, 8, 8, 2}};
  EXPECT_THAT(Import(list), HasSubstr("no window gives"));
}

TEST_F(CoordinatesTest, AnIndexTellsTheWindow) {
  std::vector<Stored> list = Official(v2_);
  for (int stage = 0; stage < 2; ++stage) {
    list.push_back({Block(stage) + "relative_position_index", Shape{16, 16}, "I64"});
  }
  ASSERT_EQ(Import(list), "");
  EXPECT_THAT(report_.notes, IsEmpty());
  Target(larger_);
  EXPECT_THAT(ImportFile(), HasSubstr("model.pretrained_window_sizes: [4, 4]"));
  // Its units may have been those of a window before.
  larger_.pretrained_window_sizes = {6, 6};
  Target(larger_);
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.notes, ElementsAre(HasSubstr("the model's are [6, 6]")));
}

TEST_F(WeightsIo, PreTrainingStartsAClassifier) {
  for (const Architecture arch : {Architecture::kSwinV1, Architecture::kSwinV2}) {
    ModelConfig model = SmallModel(arch);
    std::vector<Stored> list = Official(model);
    Erase(&list, "head.");
    Rename(&list, "", "encoder.");
    list.push_back({"encoder.mask_token", Shape{1, 1, 8}});
    list.push_back({"decoder.0.weight", Shape{192, 16, 1, 1}});
    list.push_back({"decoder.0.bias", Shape{192}});
    model.image_h = model.image_w = 48;
    model.window_size = 6;
    Target(model);
    options_.skip.clear();
    EXPECT_THAT(Import(list), AllOf(HasSubstr("missing in the file (2)"),
                                    HasSubstr("model.init_skip: [\"head.*\"]")));
    options_.skip = {"head.*"};
    ASSERT_EQ(ImportFile(), "");
    EXPECT_THAT(report_.left_out, SizeIs(3));
    if (arch == Architecture::kSwinV2) continue;
    EXPECT_THAT(report_.transferred, SizeIs(2));
    EXPECT_EQ(values_["layers.0.blocks.0.attn.relative_position_bias_table"],
              ResizeGeometric(ValuesOf(49 * 2), 7, 11, 2));
    // What is left out anyway may be named too.
    options_.skip.push_back("decoder.*");
    ASSERT_EQ(ImportFile(), "");
    EXPECT_THAT(report_.left_out, SizeIs(1));
  }
}

TEST_F(WeightsIo, PicturesWeightsAreInflatedForClips) {
  ModelConfig video = SmallVideo();
  Target(video);
  options_.skip = {"cls_head.*"};
  ASSERT_EQ(Import(Official(v1_)), "");
  const std::string table = "backbone.layers.0.blocks.0.attn.relative_position_bias_table";
  EXPECT_EQ(values_[table], RepeatTable(ValuesOf(49 * 2), 3));
  EXPECT_EQ(values_["backbone.patch_embed.proj.weight"],
            InflateProjection(ValuesOf(8 * 3 * 16), 8 * 3, 2));
  EXPECT_THAT(report_.inflated, SizeIs(3));
  EXPECT_THAT(report_.left_out, UnorderedElementsAre("head.weight: the classifier of pictures",
                                                     "head.bias: the classifier of pictures"));
  // To another window.
  ModelConfig other = v1_;
  other.window_size = 2;
  ASSERT_EQ(Import(Official(other)), "");
  EXPECT_EQ(values_[table], RepeatTable(ResizeBicubic(ValuesOf(9 * 2), {3, 3}, {7, 7}, 2), 3));
  options_.skip.clear();
  EXPECT_THAT(Import(Official(v1_)), HasSubstr("model.init_skip: [\"cls_head.*\"]"));
  // A recogniser's own weights are read as they are.
  ASSERT_EQ(Import(Official(video)), "");
  ExpectAllValues();
}

TEST_F(WeightsIo, TablesOfOtherClipWindowsAreTransferred) {
  const ModelConfig source = SmallVideo();
  const std::string block = "backbone.layers.0.blocks.0.attn.relative_position_bias_table: ";
  struct Case {
    int64_t frames;
    int64_t side;
    std::string how;
  };
  for (const Case& c : std::vector<Case>{
           {3, 4, "3 to 5 offsets in time, the ends repeated"},
           {1, 4, "3 to 1 offsets in time, the middle ones"},
           {2, 6, "bicubic, 7x7 to 11x11 at each of 3 offsets in time"},
           {3, 6, "bicubic, 7x7 to 11x11, 3 to 5 offsets in time, the ends repeated"}}) {
    ModelConfig model = source;
    model.window_frames = c.frames;
    model.window_size = c.side;
    model.image_h = model.image_w = 64;
    Target(model);
    // The rows alone tell the window: 3 x 7 x 7.
    ASSERT_EQ(Import(Official(source)), "");
    EXPECT_THAT(report_.transferred, AllOf(SizeIs(2), Contains(block + c.how)));
    EXPECT_THAT(report_.notes, IsEmpty());
    EXPECT_EQ(values_["backbone.layers.1.blocks.0.attn.relative_position_bias_table"],
              ResizeClipTable(ValuesOf(147 * 4), {2, 4, 4}, {c.frames, c.side, c.side}, 4));
    EXPECT_EQ(values_["backbone.patch_embed.proj.weight"], ValuesOf(8 * 3 * 2 * 16));
  }
}

TEST_F(WeightsIo, WindowsThatRowsDoNotTellNeedTheFilesWord) {
  ModelConfig source = SmallVideo();
  source.window_frames = 5;
  source.window_size = 2;
  ModelConfig model = SmallVideo();
  model.window_frames = 3;
  Target(model);
  std::vector<Stored> list = Official(source);
  // 81 rows.
  EXPECT_THAT(Import(list),
              AllOf(HasSubstr("(81, 2) in the file, of windows of 41x1x1 or 5x2x2 or 1x5x5; the "
                              "model's windows are 3x4x4"),
                    HasSubstr("relative_position_index beside each table")));
  const std::string attention = "backbone.layers.0.blocks.0.attn.relative_position_bias_table";
  const std::vector<float> expected = ResizeClipTable(ValuesOf(81 * 2), {5, 2, 2}, {3, 4, 4}, 2);
  options_.source_model = source;
  ASSERT_EQ(ImportFile(), "");
  EXPECT_EQ(values_[attention], expected);
  options_.source_model.reset();
  for (const std::string stage : {"0", "1"}) {
    list.push_back({"backbone.layers." + stage + ".blocks.0.attn.relative_position_index",
                    Shape{20, 20}, "I64"});
  }
  ASSERT_EQ(Import(list), "");
  EXPECT_EQ(values_[attention], expected);
  // As many rows are not the same window.
  model.window_frames = 1;
  model.window_size = 5;
  Target(model);
  ASSERT_EQ(ImportFile(), "");
  EXPECT_EQ(values_[attention], ResizeClipTable(ValuesOf(81 * 2), {5, 2, 2}, {1, 5, 5}, 2));
  // No window has so many.
  Find(&list, attention).shape = Shape{82, 2};
  EXPECT_THAT(Import(list), HasSubstr(attention + ": (82, 2) in the file, (81, 2) in the model"));
}

TEST_F(WeightsIo, ClipsOfOtherPatchesAreAnError) {
  ModelConfig model = SmallVideo();
  model.patch_frames = 4;
  Target(model);
  EXPECT_THAT(Import(Official(SmallVideo())),
              AllOf(HasSubstr("proj.weight: (8, 3, 2, 4, 4) in the file"),
                    HasSubstr("patch_frames 2"), HasSubstr("patch_frames 4")));
}

// The official code numbers the places of a map that is smaller than the window by the window.
TEST_F(WeightsIo, MapsSmallerThanTheirWindowAreNoted) {
  ModelConfig model = SmallVideo();
  model.image_h = 16;
  Target(model);
  ASSERT_EQ(Import(Official(SmallVideo())), "");
  EXPECT_THAT(report_.notes, ElementsAre(HasSubstr("those of stage 1 may not mean")));
  // Trained on the same maps they do.
  options_.source_model = model;
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.notes, IsEmpty());
  options_.source_model = SmallVideo();
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.notes, SizeIs(1));
  // Fewer frames than the window has are numbered alike.
  model = SmallVideo();
  model.frames = 2;
  Target(model);
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.notes, IsEmpty());
}

TEST_F(WeightsIo, MaesPositionsAreComputedOrInterpolated) {
  ModelConfig vit = SmallModel(Architecture::kVit);
  vit.depths = {2};
  vit.num_heads = {2};
  vit.patch_norm = false;
  Target(vit);
  std::vector<Stored> list = Official(vit);
  Erase(&list, "head.");
  Erase(&list, "fc_norm.");
  Erase(&list, "pos_embed");
  list.push_back({"norm.weight", Shape{8}});
  list.push_back({"norm.bias", Shape{8}});
  list.push_back({"mask_token", Shape{1, 1, 16}});
  list.push_back({"decoder_embed.weight", Shape{16, 8}});
  EXPECT_THAT(Import(list), HasSubstr("model.init_skip: [\"head.*\", \"fc_norm.*\"]"));
  options_.skip = {"head.*", "fc_norm.*"};
  ASSERT_EQ(ImportFile(), "");
  EXPECT_EQ(values_["pos_embed"], SinCosPositions(8, 8, 8, true));
  EXPECT_THAT(report_.left_out, SizeIs(4));
  // The official file holds them; for another size they are interpolated, but the class token's.
  list.push_back({"pos_embed", Shape{1, 17, 8}});
  list.push_back({"decoder_pos_embed", Shape{1, 17, 16}});
  ASSERT_EQ(Import(list), "");
  const std::vector<float> all = ValuesOf(17 * 8);
  std::vector<float> expected(all.begin(), all.begin() + 8);
  const std::vector<float> body = ResizeBicubic(std::span(all).subspan(8), {4, 4}, {8, 8}, 8);
  expected.insert(expected.end(), body.begin(), body.end());
  EXPECT_EQ(values_["pos_embed"], expected);
}

// As mae_pretrain_vit_base.pth.
TEST_F(WeightsIo, MaesPublishedEncoderHasNoDecoder) {
  ModelConfig vit = SmallModel(Architecture::kVit);
  vit.depths = {2};
  vit.num_heads = {2};
  vit.patch_norm = false;
  Target(vit);
  std::vector<Stored> list = Official(vit);
  Erase(&list, "head.");
  Erase(&list, "fc_norm.");
  list.push_back({"norm.weight", Shape{8}});
  list.push_back({"norm.bias", Shape{8}});
  EXPECT_THAT(Import(list), AllOf(HasSubstr("model.init_skip: [\"head.*\", \"fc_norm.*\"]"),
                                  Not(HasSubstr("unknown to the model"))));
  options_.skip = {"head.*", "fc_norm.*"};
  ASSERT_EQ(ImportFile(), "");
  EXPECT_THAT(report_.left_out,
              UnorderedElementsAre("norm.weight: of pre-training", "norm.bias: of pre-training"));
  // A classifier's norm is its own.
  list = Official(vit);
  list.push_back({"norm.weight", Shape{8}});
  options_.skip.clear();
  EXPECT_THAT(Import(list), AllOf(HasSubstr("unknown to the model (1):\n    norm.weight"),
                                  HasSubstr("model.init_skip: [\"norm.*\"]")));
}

// ---- Checkpoints ----

TEST_F(WeightsIo, ExportOfAShardedCheckpointIsImportedAgain) {
  std::map<std::string, Shape> shapes;
  for (const ParameterInfo& info : table_.parameters()) shapes[info.name] = info.shape;
  const Tensors tensors = Tensors::Make(shapes, 9);
  const std::string dir = Save(folder_ / "run", 1, 12, tensors, 3);
  WriteBytes(path_, "an older file");
  const auto reader = CheckpointReader::Open(dir);
  const ExportSummary summary = ExportWeights(*reader, path_, {{"data_config", "{}"}});
  EXPECT_EQ(summary.tensors, static_cast<int64_t>(shapes.size()));
  EXPECT_EQ(summary.elements, table_.TotalElements());
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("model_config"), "{\"embed_dim\": 8}");
  EXPECT_EQ(file.metadata().at("data_config"), "{}");
  EXPECT_EQ(file.metadata().at("step"), "12");
  // The file, the checkpoint itself and the run are all the same weights.
  for (const std::string& source : {path_, dir, folder_ / "run"}) {
    int count = 0;
    ImportWeights(source, table_, options_, [&](int index, std::span<const float> values) {
      const std::vector<float>& expected =
          tensors.values.at("param/" + table_.parameters()[index].name);
      EXPECT_TRUE(std::equal(values.begin(), values.end(), expected.begin(), expected.end()));
      ++count;
    });
    EXPECT_EQ(count, static_cast<int>(shapes.size())) << source;
  }
  // A failure leaves the old file.
  FaultyOps ops;
  ops.on_write = [](const std::string&, uint64_t offset) { return offset > 0 ? -ENOSPC : 0; };
  EXPECT_THAT(MessageOf([&] { ExportWeights(*reader, path_, {}, ops); }), HasSubstr("ENOSPC"));
  EXPECT_EQ(SafetensorsFile(path_).tensors().size(), shapes.size());
  EXPECT_THAT(NamesOf(folder_.path()), UnorderedElementsAre("run", "w.safetensors"));
}

TEST_F(WeightsIo, ADamagedCheckpointIsFoundBeforeAnythingIsDelivered) {
  std::map<std::string, Shape> shapes;
  for (const ParameterInfo& info : table_.parameters()) shapes[info.name] = info.shape;
  path_ = Save(folder_ / "run", 1, 12, Tensors::Make(shapes, 9), 1);
  for (const std::string& name : NamesOf(path_)) {
    if (!name.ends_with(".safetensors")) continue;
    std::string bytes = ReadBytes(path_ + "/" + name);
    bytes.back() ^= 1;
    WriteBytes(path_ + "/" + name, bytes);
  }
  EXPECT_THAT(ImportFile(), HasSubstr("checksum"));
  EXPECT_THAT(values_, IsEmpty());
}

}  // namespace
}  // namespace swinfleet
