// swinfleet-eval and swinfleet-predict as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/safetensors.h"
#include "tests/worker/child.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

std::string Program(const std::string& name) {
  return std::string(SWINFLEET_BIN_DIR) + "/swinfleet-" + name;
}

constexpr int kPictures = 40;
constexpr int kSide = 16;

// Pixels of picture i: stripes and a slope.
std::string Pixels(int i) {
  std::string pixels;
  for (int y = 0; y < kSide; ++y) {
    for (int x = 0; x < kSide; ++x) {
      pixels += static_cast<char>((x * (3 + i % 4) * 16 + y * 7 + i) & 0xff);
    }
  }
  return pixels;
}

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 0xff);
  return bytes;
}

std::string Chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const auto crc =
      crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return BigEndian(static_cast<uint32_t>(data.size())) + body +
         BigEndian(static_cast<uint32_t>(crc));
}

// A grey PNG of kSide columns.
std::string Png(const std::string& pixels) {
  std::string rows;
  for (size_t at = 0; at < pixels.size(); at += kSide) {
    rows += '\0' + pixels.substr(at, kSide);
  }
  uLongf size = compressBound(static_cast<uLong>(rows.size()));
  std::string packed(size, '\0');
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(rows.data()), static_cast<uLong>(rows.size()));
  packed.resize(size);
  const std::string header = BigEndian(kSide) +
                             BigEndian(static_cast<uint32_t>(pixels.size() / kSide)) +
                             std::string("\x08\0\0\0\0", 5);
  return "\x89PNG\r\n\x1a\n" + Chunk("IHDR", header) + Chunk("IDAT", packed) + Chunk("IEND", "");
}

class InferenceTest : public testing::Test {
 protected:
  InferenceTest() {
    std::string pattern = fs::temp_directory_path() / "swinfleet-inference-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    WriteData();
    job_ =
        Write("job.yaml", "name: small\nrun_dir: " + folder_ + "/run\ndata:\n  path: " + folder_ +
                              "/data\n  mean: [0.3]\n  std: [0.4]\n"
                              "model:\n  image_size: 16\n  in_chans: 1\n  num_classes: 4\n"
                              "  patch_size: 2\n  embed_dim: 8\n  depths: [1, 1]\n"
                              "  num_heads: [2, 4]\n  window_size: 4\n"
                              "train:\n  epochs: 1\n  global_batch: 8\n  micro_batch: 8\n"
                              "  eval_batch: 16\n");
  }
  ~InferenceTest() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  void WriteData() {
    fs::create_directory(folder_ + "/data");
    for (const std::string split : {"train", "t10k"}) {
      std::string images("\0\0\x08\x03\0\0\0\x28\0\0\0\x10\0\0\0\x10", 16);
      std::string labels("\0\0\x08\x01\0\0\0\x28", 8);
      for (int i = 0; i < kPictures; ++i) {
        images += Pixels(i);
        labels += static_cast<char>(i % 4);
      }
      Write("data/" + split + "-images-idx3-ubyte", images);
      Write("data/" + split + "-labels-idx1-ubyte", labels);
    }
  }
  // Runs a program to its end.
  int Run(std::vector<std::string> arguments) {
    arguments[0] = Program(arguments[0]);
    Child child(std::move(arguments), folder_);
    const int code = child.Wait();
    out_ = child.Out();
    err_ = child.Err();
    return code;
  }
  void Train() {
    ASSERT_EQ(Run({"worker", "--job", job_}), 0) << err_;
    run_ = folder_ + "/run";
  }
  json Eval(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "--json", "--weights"});
    EXPECT_EQ(Run(arguments), 0) << err_;
    return json::parse(out_, nullptr, false);
  }

  std::string folder_, job_, run_, out_, err_;
};

TEST_F(InferenceTest, EvaluatesWhatTheJobEvaluated) {
  Train();
  const ResumeChoice choice = FindNewestGood(run_, NextAttempt(run_), "");
  ASSERT_NE(choice.reader, nullptr);
  const std::map<std::string, double>& metrics = choice.reader->meta().metrics;
  // The run, its checkpoint and the exported file: the same numbers to the bit.
  const std::string file = folder_ + "/out.safetensors";
  ASSERT_EQ(Run({"export", run_, file}), 0) << err_;
  for (const std::string& weights : {run_, choice.reader->dir(), file}) {
    std::vector<std::string> arguments = {weights};
    if (weights == file) {
      arguments.insert(arguments.end(), {"--data", folder_ + "/data", "--batch", "16"});
    }
    const json result = Eval(arguments);
    EXPECT_EQ(result.at("pictures"), kPictures);
    EXPECT_EQ(result.at("loss"), metrics.at("eval_loss")) << weights;
    EXPECT_EQ(result.at("top1"), metrics.at("top1"));
    EXPECT_EQ(result.at("top5"), metrics.at("top5"));
    EXPECT_EQ(result.at("step"), 5);
    EXPECT_EQ(result.at("split"), "t10k");
    EXPECT_EQ(result.at("normalisation"), weights == file ? "file" : "checkpoint");
    EXPECT_EQ(result.at("model").at("embed_dim"), 8);
  }
  // In words; and without the normalisation it is another model.
  ASSERT_EQ(Run({"eval", "--weights", run_, "--split", "train"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("over 40 pictures of train"));
  EXPECT_NE(Eval({run_, "--mean", "0", "--std", "1"}).at("loss"), metrics.at("eval_loss"));
}

TEST_F(InferenceTest, OtherWindowsAreTransferred) {
  Train();
  const json result = Eval({run_, "--image-size", "32", "--window", "8"});
  EXPECT_EQ(result.at("model").at("img_size"), json({32, 32}));
  EXPECT_EQ(result.at("model").at("window_size"), 8);
  EXPECT_EQ(result.at("model").at("pretrained_window_sizes"), json({4, 4}));
  EXPECT_TRUE(std::isfinite(result.at("loss").get<double>()));
  EXPECT_EQ(Run({"eval", "--weights", run_, "--image-size", "15"}), 2);
  EXPECT_THAT(err_, HasSubstr("model.image_size"));
}

TEST_F(InferenceTest, PredictsAsEvaluationSees) {
  Train();
  std::vector<std::string> arguments = {"predict", "--json", "--top", "2", "--weights", run_};
  for (int i = 0; i < kPictures; ++i) {
    arguments.push_back(Write("p" + std::to_string(i) + ".png", Png(Pixels(i))));
  }
  ASSERT_EQ(Run(arguments), 0) << err_;
  const json predictions = json::parse(out_).at("predictions");
  ASSERT_EQ(predictions.size(), static_cast<size_t>(kPictures));
  int right = 0;
  for (int i = 0; i < kPictures; ++i) {
    const json& top = predictions[i].at("top");
    ASSERT_EQ(top.size(), 2u);
    EXPECT_EQ(predictions[i].at("picture"), folder_ + "/p" + std::to_string(i) + ".png");
    EXPECT_GE(top[0].at("probability"), top[1].at("probability"));
    right += top[0].at("class") == i % 4 ? 1 : 0;
  }
  EXPECT_EQ(Eval({run_}).at("top1"), static_cast<double>(right) / kPictures);
  // In words, with names and all classes.
  const std::string all = Write("all", "zero\none\ntwo\nthree\n");
  ASSERT_EQ(Run({"predict", "--weights", run_, "--classes", all, folder_ + "/p1.png"}), 0) << err_;
  for (const char* name : {"p1.png", "zero", "one", "two", "three"}) {
    EXPECT_THAT(out_, HasSubstr(name));
  }
  // Pictures of another size than those of the training are not quietly cut.
  const std::string tall = Write("tall.png", Png(Pixels(0) + Pixels(1)));
  EXPECT_EQ(Run({"predict", "--weights", run_, tall}), 1);
  EXPECT_THAT(err_, HasSubstr("has 16x32 pixels"));
  EXPECT_EQ(Run({"predict", "--weights", run_, tall, "--resample"}), 0) << err_;
}

TEST_F(InferenceTest, PicturesThatCannotBeHadAreNamed) {
  Train();
  EXPECT_EQ(Run({"predict", "--weights", run_, folder_ + "/none.png"}), 1);
  EXPECT_THAT(err_, HasSubstr(folder_ + "/none.png"));
  EXPECT_EQ(out_, "");
  const std::string broken = Write("broken.jpg", "not a picture");
  EXPECT_EQ(Run({"predict", "--weights", run_, broken, "--json"}), 1);
  EXPECT_THAT(err_, HasSubstr(broken));
  EXPECT_EQ(out_, "");
  const std::string names = Write("names", "a\nb\n");
  EXPECT_EQ(Run({"predict", "--weights", run_, broken, "--classes", names}), 1);
  EXPECT_THAT(err_, HasSubstr("2 lines; the model has 4 classes"));
}

TEST_F(InferenceTest, BadUsageAndBadWeightsSayWhatToDo) {
  EXPECT_EQ(Run({"eval"}), 2);
  EXPECT_EQ(Run({"eval", "--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("--json"));
  EXPECT_EQ(Run({"predict", "--help"}), 0);
  EXPECT_EQ(Run({"eval", "--weights", folder_ + "/none"}), 1);
  EXPECT_THAT(err_, HasSubstr("does not exist"));
  EXPECT_EQ(Run({"eval", "--weights", folder_ + "/data"}), 1);
  EXPECT_EQ(Run({"predict", "--weights", folder_ + "/none"}), 2);
  // Weights that do not say their model.
  const std::string path = folder_ + "/foreign.safetensors";
  SafetensorsWriter writer(path, {{"head.fc.weight", "F32", Shape{2, 2}}}, {});
  writer.Write("head.fc.weight", 0, std::vector<float>{1, 2, 3, 4});
  writer.Finish();
  EXPECT_EQ(Run({"eval", "--weights", path}), 2);
  EXPECT_THAT(err_, HasSubstr("--model"));
  EXPECT_EQ(Run({"eval", "--weights", path, "--model", "nothing"}), 2);
  EXPECT_THAT(err_, HasSubstr("swinv2_tiny_window8_256"));
  EXPECT_EQ(Run({"eval", "--weights", path, "--model", "swinv2_tiny_window8_256"}), 1);
  EXPECT_THAT(err_, HasSubstr("missing in the file"));
  EXPECT_EQ(out_, "");
}

}  // namespace
}  // namespace swinfleet
