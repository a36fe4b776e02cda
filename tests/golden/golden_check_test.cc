// golden_check has to fail where something is wrong: it is run on goldens that were changed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/checkpoint/safetensors.h"

namespace swinfleet {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kUnsupported = 3;
constexpr int kUnreadable = 4;

fs::path DataFolder() { return fs::path(SWINFLEET_SOURCE_DIR) / "tests/golden/data"; }

// A whole golden in memory.
struct File {
  std::vector<TensorSpec> specs;
  std::map<std::string, std::vector<float>> floats;
  std::map<std::string, std::vector<int64_t>> integers;
  std::map<std::string, std::string> metadata;

  void Remove(const std::string& name) {
    std::erase_if(specs, [&](const TensorSpec& spec) { return spec.name == name; });
    floats.erase(name);
    integers.erase(name);
  }
  void Add(const std::string& name, const std::vector<float>& values) {
    specs.push_back({name, "F32", Shape{static_cast<int64_t>(values.size())}});
    floats[name] = values;
  }
};

File ReadFile(const fs::path& path) {
  const SafetensorsFile stored(path.string());
  File file;
  file.metadata = stored.metadata();
  for (const StoredTensor& tensor : stored.tensors()) {
    file.specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    if (tensor.dtype == "F32") {
      file.floats[tensor.name] = stored.ReadF32(tensor.name);
    } else {
      file.integers[tensor.name] = stored.ReadI64(tensor.name);
    }
  }
  return file;
}

void WriteFile(const fs::path& path, const File& file) {
  SafetensorsWriter writer(path.string(), file.specs, file.metadata);
  for (const auto& [name, values] : file.floats) writer.Write(name, 0, std::span(values));
  for (const auto& [name, values] : file.integers) writer.Write(name, 0, std::span(values));
  writer.Finish();
}

struct RunResult {
  int code = -1;
  std::string output;
};

RunResult RunCheck(const std::string& arguments) {
  const std::string command = std::string(GOLDEN_CHECK) + " " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  RunResult result;
  if (pipe == nullptr) return result;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) result.output.append(buffer, n);
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

class GoldenCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "golden_check_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Runs golden_check on a changed copy of a golden, with the manifest beside it or without.
  RunResult Check(const std::string& name, const std::function<void(File&)>& change,
                  bool manifest = true) {
    const fs::path path = folder_ / (name + ".safetensors");
    File file = ReadFile(DataFolder() / (name + ".safetensors"));
    change(file);
    WriteFile(path, file);
    if (manifest) {
      fs::copy_file(DataFolder() / "MANIFEST.json", folder_ / "MANIFEST.json",
                    fs::copy_options::overwrite_existing);
    }
    return RunCheck(path.string());
  }

  fs::path folder_;
};

TEST_F(GoldenCheckTest, UnchangedCopyPasses) {
  const RunResult result = Check("ops_mlp", [](File&) {});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("PASS ops_mlp"));
  EXPECT_THAT(result.output, HasSubstr("tolerances: MANIFEST.json"));
}

TEST_F(GoldenCheckTest, PassesByTheTableWithoutManifest) {
  for (const std::string name :
       {"ops_layernorm", "lr_linear", "groups_v2_classification", "v2_rect", "accum_v2"}) {
    const RunResult result = Check(
        name, [](File&) {}, /*manifest=*/false);
    EXPECT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output, HasSubstr("tolerances: table by kind")) << name;
  }
}

TEST_F(GoldenCheckTest, GradientOfAnotherSignFails) {
  const RunResult result = Check("v2_rect", [](File& file) {
    float& largest =
        *std::ranges::max_element(file.floats.at("grad/layers.0.blocks.1.attn.v_bias"),
                                  [](float a, float b) { return std::abs(a) < std::abs(b); });
    largest = -largest;
  });
  EXPECT_EQ(result.code, kFailed);
  EXPECT_THAT(result.output, HasSubstr("FAIL  error"));
  EXPECT_THAT(result.output, HasSubstr("grad/layers.0.blocks.1.attn.v_bias"));
  EXPECT_THAT(result.output, HasSubstr("1 failures"));
}

TEST_F(GoldenCheckTest, SlightlyWrongOutputFails) {
  const RunResult result = Check("v2_rect", [](File& file) {
    for (float& x : file.floats.at("output/logits")) x *= 1.0001f;
  });
  EXPECT_EQ(result.code, kFailed);
  EXPECT_THAT(result.output, HasSubstr("output/logits"));
}

TEST_F(GoldenCheckTest, WrongWeightDecayListFailsByItsNames) {
  const RunResult result = Check("train_v2_adamw", [](File& file) {
    nlohmann::json names = nlohmann::json::parse(file.metadata.at("no_weight_decay"));
    names.erase(names.begin() + 3);
    file.metadata["no_weight_decay"] = names.dump();
  });
  EXPECT_EQ(result.code, kFailed);
  EXPECT_THAT(result.output, HasSubstr("does not decay, and must"));
}

// What a run with a wrong list looks like from outside: one tensor has decayed that should not
// have.
TEST_F(GoldenCheckTest, WrongWeightDecayFailsByItsMovement) {
  const std::string name = "layers.0.blocks.0.attn.cpb_mlp.0.weight";
  const RunResult result = Check("train_v2_sgd", [&](File& file) {
    double rates = 0;
    for (const float rate : file.floats.at("output/lr")) rates += rate;
    const std::vector<float>& before = file.floats.at("param/" + name);
    std::vector<float>& after = file.floats.at("after_steps/" + name);
    for (size_t i = 0; i < after.size(); ++i) {
      after[i] -= static_cast<float>(rates * 0.05) * before[i];
    }
  });
  EXPECT_EQ(result.code, kFailed);
  EXPECT_THAT(result.output, HasSubstr("movement of the worst tensor (" + name + ")"));
}

TEST_F(GoldenCheckTest, MissingTensorsFail) {
  for (const std::string name : {"output/logits", "grad/head.weight", "param/norm.bias",
                                 "input/image", "input/label", "output/features"}) {
    const RunResult result = Check("v2_rect", [&](File& file) { file.Remove(name); });
    EXPECT_EQ(result.code, kFailed) << name << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(name));
  }
  for (const std::string name : {"after_steps/head.bias", "output/grad_norm", "output/lr"}) {
    const RunResult result = Check("train_v2_sgd", [&](File& file) { file.Remove(name); });
    EXPECT_EQ(result.code, kFailed) << name << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(name));
  }
}

TEST_F(GoldenCheckTest, TensorsThatNothingIsComparedWithFail) {
  for (const std::string name : {"output/something", "grad/something", "after_steps/something",
                                 "input/something", "param/something"}) {
    const RunResult result = Check("ops_mlp", [&](File& file) { file.Add(name, {1, 2}); });
    EXPECT_EQ(result.code, kFailed) << name << "\n" << result.output;
    EXPECT_THAT(result.output, HasSubstr(name));
  }
}

TEST_F(GoldenCheckTest, NotANumberFails) {
  for (const std::string name : {"output/y", "grad/fc1.weight", "input/x", "param/fc2.bias"}) {
    const RunResult result = Check("ops_mlp", [&](File& file) {
      file.floats.at(name)[0] = std::numeric_limits<float>::quiet_NaN();
    });
    EXPECT_EQ(result.code, kFailed) << name << "\n" << result.output;
  }
}

TEST_F(GoldenCheckTest, WrongShapeFailsWithoutCrashing) {
  const RunResult result = Check("v2_rect", [](File& file) {
    file.Remove("param/norm.weight");
    file.Add("param/norm.weight", {1, 2, 3});
  });
  EXPECT_EQ(result.code, kFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("param/norm.weight has the shape (3)"));
}

TEST_F(GoldenCheckTest, LabelBeyondTheClassesFailsWithoutCrashing) {
  const RunResult result =
      Check("v2_rect", [](File& file) { file.integers.at("input/label")[0] = 10; });
  EXPECT_EQ(result.code, kFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("input/label has 10 of 10 classes"));
}

TEST_F(GoldenCheckTest, ChangedMaskOrIndexFails) {
  RunResult result = Check("ops_attn_v2", [](File& file) {
    float& value = file.floats.at("input/mask")[5 * 256 + 3];
    value = value == 0 ? -100 : 0;
  });
  EXPECT_EQ(result.code, kFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("input/mask"));
  result = Check("ops_cpb", [](File& file) { ++file.integers.at("output/w3x5.index")[7]; });
  EXPECT_EQ(result.code, kFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("output/w3x5.index"));
}

TEST_F(GoldenCheckTest, ExactRatesAreComparedFinely) {
  const RunResult result = Check("lr_cosine", [](File& file) {
    nlohmann::json rates = nlohmann::json::parse(file.metadata.at("lr_used_exact"));
    rates[0][50] = rates[0][50].get<double>() * (1 + 1e-10);
    file.metadata["lr_used_exact"] = rates.dump();
  });
  EXPECT_EQ(result.code, kFailed) << result.output;
  EXPECT_THAT(result.output, HasSubstr("lr_used_exact"));
}

TEST_F(GoldenCheckTest, UnknownKindArchitectureAndOperationAreUnsupported) {
  const auto set_config = [](File& file, const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json config = nlohmann::json::parse(file.metadata.at("config"));
    change(config);
    file.metadata["config"] = config.dump();
  };
  const std::vector<std::pair<std::string, std::function<void(File&)>>> cases = {
      {"v2_rect", [](File& file) { file.metadata["kind"] = "segmentation"; }},
      {"v2_rect",
       [&](File& file) {
         set_config(file, [](nlohmann::json& c) { c["model"]["arch"] = "swin_v3"; });
       }},
      {"v2_rect",
       [&](File& file) {
         set_config(file, [](nlohmann::json& c) { c["model"]["qk_scale"] = 0.2; });
       }},
      {"v2_rect",
       [&](File& file) {
         set_config(file, [](nlohmann::json& c) { c["model"]["window_size"] = 0; });
       }},
      {"v2_rect",
       [&](File& file) {
         set_config(file, [](nlohmann::json& c) { c["loss"]["type"] = "hinge"; });
       }},
      {"ops_mlp", [](File& file) { file.metadata["handler"] = "Fourier"; }},
      {"lr_step",
       [&](File& file) {
         set_config(file, [](nlohmann::json& c) { c["schedule"]["scheduler"] = "tanh"; });
       }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const RunResult result = Check(cases[i].first, cases[i].second);
    EXPECT_EQ(result.code, kUnsupported) << i << "\n" << result.output;
  }
}

// Files without the metadata `handler` and `op` are told by their names.
TEST_F(GoldenCheckTest, OperationIsFoundByName) {
  const RunResult result = Check("ops_ce_smooth", [](File& file) {
    file.metadata.erase("handler");
    file.metadata.erase("op");
  });
  EXPECT_EQ(result.code, 0) << result.output;
}

TEST_F(GoldenCheckTest, UnreadableFilesAreErrors) {
  EXPECT_EQ(RunCheck("/nonexistent/file.safetensors").code, kUnreadable);
  const fs::path source = DataFolder() / "ops_ce.safetensors";
  const fs::path path = folder_ / "ops_ce.safetensors";
  fs::copy_file(source, path);
  fs::resize_file(path, fs::file_size(path) - 3);
  const RunResult truncated = RunCheck(path.string());
  EXPECT_EQ(truncated.code, kUnreadable) << truncated.output;
  EXPECT_THAT(truncated.output, HasSubstr(path.string()));
  std::ofstream(path) << "not a safetensors file at all";
  EXPECT_EQ(RunCheck(path.string()).code, kUnreadable);
}

TEST_F(GoldenCheckTest, BadMetadataIsAnError) {
  const RunResult text =
      Check("ops_ce", [](File& file) { file.metadata["config"] = "{\"batch_size\": "; });
  EXPECT_EQ(text.code, kUnreadable) << text.output;
  const RunResult type = Check("ops_ce", [](File& file) {
    file.metadata["config"] = R"({"batch_size": "six", "num_classes": 11, "loss": "soft_target"})";
  });
  EXPECT_EQ(type.code, kUnreadable) << type.output;
  const RunResult none = Check("ops_ce", [](File& file) { file.metadata.erase("kind"); });
  EXPECT_EQ(none.code, kUnreadable) << none.output;
}

TEST_F(GoldenCheckTest, BrokenManifestIsAnError) {
  fs::copy_file(DataFolder() / "ops_ce.safetensors", folder_ / "ops_ce.safetensors");
  std::ofstream(folder_ / "MANIFEST.json") << "{\"cases\": [";
  EXPECT_NE(RunCheck((folder_ / "ops_ce.safetensors").string()).code, 0);
}

TEST_F(GoldenCheckTest, SeveralFilesFailTogether) {
  const std::string good = (DataFolder() / "ops_ce.safetensors").string();
  File file = ReadFile(DataFolder() / "ops_ce.safetensors");
  file.metadata["kind"] = "hologram";
  WriteFile(folder_ / "unsupported.safetensors", file);
  const std::string unsupported = (folder_ / "unsupported.safetensors").string();
  EXPECT_EQ(RunCheck(good + " " + unsupported).code, kUnsupported);
  EXPECT_EQ(RunCheck(unsupported + " /nonexistent " + good).code, kUnsupported);
  EXPECT_EQ(RunCheck(good + " " + good).code, 0);
  EXPECT_EQ(RunCheck("").code, kUsage);
  EXPECT_EQ(RunCheck("--threads 0 " + good).code, kUsage);
}

}  // namespace
}  // namespace swinfleet
