// swinfleet-eval and swinfleet-predict as their users meet them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/checkpoint/manifest.h"
#include "core/checkpoint/run_checkpoints.h"
#include "core/checkpoint/safetensors.h"
#include "proto/job_yaml.h"
#include "tests/worker/child.h"
#include "tests/worker/png_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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
  // Folders of classes with 10 pictures each.
  void WriteFolder(const std::string& folder, const std::vector<std::string>& classes) {
    for (const std::string& name : classes) {
      fs::create_directories(folder_ + "/" + folder + "/" + name);
      for (int i = 0; i < 10; ++i) {
        Write(folder + "/" + name + "/" + std::to_string(i) + ".png", Png(Pixels(i), kSide));
      }
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

// Of a job that trained before such a setting was refused.
TEST_F(InferenceTest, ASettingWithoutEffectIsNoReasonToForgetAJob) {
  Train();
  const ResumeChoice choice = FindNewestGood(run_, NextAttempt(run_), "");
  ASSERT_NE(choice.reader, nullptr);
  const std::string path = choice.reader->dir() + "/manifest.json";
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  Manifest manifest = Manifest::FromText(text.str(), path);
  JobSpec spec;
  ASSERT_TRUE(ParseJobYaml(manifest.meta.job_spec, path, &spec).ok());
  spec.mutable_train()->mutable_optimizer()->set_momentum(0.9);
  manifest.meta.job_spec = JobToYaml(spec);
  std::ofstream(path) << manifest.ToText();
  EXPECT_EQ(Eval({run_}).at("normalisation"), "checkpoint");
  const std::string file = folder_ + "/out.safetensors";
  ASSERT_EQ(Run({"export", run_, file}), 0) << err_;
  EXPECT_EQ(Eval({file, "--data", folder_ + "/data"}).at("normalisation"), "file");
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

TEST_F(InferenceTest, TakesListsOfNumbers) {
  Train();
  const json result = Eval({run_, "--image-size", "16,32"});
  EXPECT_EQ(result.at("model").at("img_size"), json({16, 32}));
  EXPECT_EQ(Run({"eval", "--weights", run_, "--image-size", "16,32,48"}), 2);
  EXPECT_THAT(err_, HasSubstr("more than height and width"));
  EXPECT_EQ(Run({"eval", "--weights", run_, "--mean", "0.3,0.2,0.1", "--std", "1,1,1"}), 1);
  EXPECT_THAT(err_, HasSubstr("data.mean has 3 values"));
  // The picture that follows a list is not part of it.
  const std::string picture = Write("picture.png", Png(Pixels(0), kSide));
  EXPECT_EQ(Run({"predict", "--weights", run_, "--mean", "0.3", "--std", "0.4", picture}), 0);
  EXPECT_THAT(out_, HasSubstr(picture)) << err_;
}

TEST_F(InferenceTest, SaysWhereClassesAreOthersAndPicturesAreBroken) {
  WriteFolder("pictures/train", {"ant", "bee", "cat", "dog"});
  std::string text = ReadAll(job_);
  text.replace(text.find("  path: " + folder_ + "/data"), 8 + folder_.size() + 5,
               "  format: imagefolder\n  eval_split: train\n  path: " + folder_ + "/pictures");
  Write("job.yaml", text);
  Train();
  EXPECT_EQ(Eval({run_}).at("warnings"), json::array());
  EXPECT_EQ(err_, "");

  WriteFolder("pictures/fewer", {"ant", "cat", "dog"});
  const std::string warning = Eval({run_, "--split", "fewer"}).at("warnings").at(0);
  EXPECT_THAT(warning, HasSubstr("split fewer has 3 class folders, the model has 4 classes"));
  EXPECT_THAT(warning, HasSubstr("label 1 is \"cat\" in split fewer and was \"bee\" in"));
  EXPECT_THAT(err_, HasSubstr("warning: " + warning));
  WriteFolder("pictures/others", {"ant", "bee", "cow", "dog"});
  ASSERT_EQ(Run({"eval", "--weights", run_, "--split", "others"}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("warning: label 2 is \"cow\" in split others and was \"cat\" in"));
  WriteFolder("pictures/more", {"ant", "bee", "cat", "dog", "elk"});
  EXPECT_EQ(Run({"eval", "--weights", run_, "--split", "more"}), 1);
  EXPECT_THAT(err_, HasSubstr("the model has 4 classes"));

  Write("pictures/train/bee/0.png", "no picture");
  EXPECT_EQ(Run({"eval", "--weights", run_}), 1);
  EXPECT_THAT(err_, AllOf(HasSubstr(folder_ + "/pictures/train/bee/0.png"),
                          HasSubstr("replaced by others with --broken-pictures replace"),
                          Not(HasSubstr("data.broken_pictures"))));
  EXPECT_EQ(Run({"predict", "--weights", run_, folder_ + "/pictures/train/bee/0.png"}), 1);
  EXPECT_THAT(err_, AllOf(HasSubstr("/train/bee/0.png"), HasSubstr("repair or remove it"),
                          Not(HasSubstr("replace"))));
  const json result = Eval({run_, "--broken-pictures", "replace"});
  EXPECT_EQ(result.at("replaced_pictures"), 1);
  EXPECT_THAT(err_, HasSubstr(folder_ + "/pictures/train/bee/0.png"));
  ASSERT_EQ(Run({"eval", "--weights", run_, "--broken-pictures", "replace"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("pictures of train, 1 of them broken, others stood for them"));
}

TEST_F(InferenceTest, PredictsAsEvaluationSees) {
  Train();
  std::vector<std::string> arguments = {"predict", "--json", "--top", "2", "--weights", run_};
  for (int i = 0; i < kPictures; ++i) {
    arguments.push_back(Write("p" + std::to_string(i) + ".png", Png(Pixels(i), kSide)));
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
  const std::string tall = Write("tall.png", Png(Pixels(0) + Pixels(1), kSide));
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

// ---- Clips ----

class ClipInferenceTest : public InferenceTest {
 protected:
  static constexpr int kClips = 4;

  // Clips of 9 frames in two classes; the first of each has but 3.
  ClipInferenceTest() {
    for (const std::string split : {"train", "val"}) {
      for (int clip = 0; clip < 2 * kClips; ++clip) {
        WriteClip("clips/" + split + "/" + (clip < kClips ? "a" : "b") + "/c" +
                      std::to_string(clip % kClips),
                  clip % kClips == 0 ? 3 : 9, 50 * clip + (split == "val" ? 25 : 0));
      }
    }
    job_ = Write("clips.yaml",
                 "name: clips\nrun_dir: " + folder_ + "/run\ndata:\n  path: " + folder_ +
                     "/clips\n  format: frames\n"
                     "  mean: [0.3, 0.3, 0.3]\n  std: [0.4, 0.4, 0.4]\n"
                     "model:\n  arch: video_swin\n  image_size: 16\n  num_classes: 2\n"
                     "  patch_size: 4\n  embed_dim: 8\n  depths: [1, 1]\n  num_heads: [2, 4]\n"
                     "  window_size: 2\n  frames: 4\n  patch_frames: 2\n  window_frames: 2\n"
                     "train:\n  epochs: 1\n  global_batch: 4\n  micro_batch: 4\n"
                     "  eval_batch: 3\n");
  }

  // Frames 8, 9, 10, ..., so that names do not sort as numbers do.
  void WriteClip(const std::string& clip, int frames, int first) {
    fs::create_directories(folder_ + "/" + clip);
    for (int i = 0; i < frames; ++i) {
      Write(clip + "/img_" + std::to_string(8 + i) + ".png", Png(Pixels(first + 3 * i), kSide));
    }
  }
  std::string Clip(const std::string& name) { return folder_ + "/clips/val/" + name; }
  // In the order of the data set.
  std::vector<std::string> Clips() {
    std::vector<std::string> clips;
    for (const std::string label : {"a/c", "b/c"}) {
      for (int i = 0; i < kClips; ++i) clips.push_back(Clip(label + std::to_string(i)));
    }
    return clips;
  }
  // The mean cross entropy of what is predicted for the clips.
  double PredictedLoss(std::vector<std::string> options) {
    std::vector<std::string> arguments = {"predict", "--json", "--top", "2", "--weights", run_};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const std::vector<std::string> clips = Clips();
    arguments.insert(arguments.end(), clips.begin(), clips.end());
    EXPECT_EQ(Run(arguments), 0) << err_;
    const json predictions = json::parse(out_, nullptr, false).at("predictions");
    EXPECT_EQ(predictions.size(), clips.size());
    double loss = 0;
    for (size_t i = 0; i < clips.size(); ++i) {
      EXPECT_EQ(predictions[i].at("picture"), clips[i]);
      for (const json& guess : predictions[i].at("top")) {
        const int label = i < kClips ? 0 : 1;
        if (guess.at("class") == label) loss -= std::log(guess.at("probability").get<double>());
      }
    }
    return loss / static_cast<double>(clips.size());
  }
};

TEST_F(ClipInferenceTest, ClipsArePredictedAsEvaluationSeesThem) {
  Train();
  const double loss = Eval({run_}).at("loss");
  EXPECT_NEAR(PredictedLoss({}), loss, 1e-5);
  // Other frames of the same clips.
  const double dense = Eval({run_, "--frame-interval", "1"}).at("loss");
  EXPECT_GT(std::abs(dense - loss), 1e-4);
  EXPECT_NEAR(PredictedLoss({"--frame-interval", "1"}), dense, 1e-5);
  // In words, with names; a file says how its clips are prepared.
  const std::string file = folder_ + "/out.safetensors";
  ASSERT_EQ(Run({"export", run_, file}), 0) << err_;
  const std::string names = Write("names", "running\nwalking\n");
  ASSERT_EQ(Run({"predict", "--weights", file, "--classes", names, Clip("a/c1/")}), 0) << err_;
  for (const std::string& text : {Clip("a/c1/"), std::string("running"), std::string("walking")}) {
    EXPECT_THAT(out_, HasSubstr(text));
  }
}

TEST_F(ClipInferenceTest, ResamplingIsNoChoiceForClips) {
  Train();
  EXPECT_EQ(Run({"predict", "--weights", run_, "--resample", Clip("a/c1")}), 2);
  EXPECT_THAT(err_, HasSubstr("--resample is for pictures"));
}

TEST_F(ClipInferenceTest, TablesOfClipsAreTransferredToOtherWindows) {
  Train();
  ASSERT_EQ(Run({"eval", "--weights", run_, "--window", "4"}), 0) << err_;
  EXPECT_THAT(err_, HasSubstr("bicubic, 3x3 to 7x7 at each of 3 offsets in time"));
  EXPECT_THAT(err_, HasSubstr("those of stage 1 may not mean"));
}

TEST_F(ClipInferenceTest, ClipsThatCannotBeHadAreNamed) {
  Train();
  const auto predict = [&](const std::string& clip) {
    const int code = Run({"predict", "--weights", run_, Clip("a/c1"), clip});
    EXPECT_EQ(out_, "");
    return code;
  };
  EXPECT_EQ(predict(Clip("a/c1/img_8.png")), 2);
  EXPECT_THAT(err_, HasSubstr(Clip("a/c1/img_8.png") + " is no folder"));
  EXPECT_THAT(err_, HasSubstr("name the folder of a clip's frames"));
  EXPECT_EQ(predict(folder_ + "/none"), 1);
  EXPECT_THAT(err_, HasSubstr(folder_ + "/none"));
  // A folder of clips.
  EXPECT_EQ(predict(Clip("a")), 1);
  EXPECT_THAT(err_, HasSubstr(Clip("a") + " has no frames"));
  EXPECT_THAT(err_, HasSubstr("holds c0, c1"));
  fs::remove(Clip("a/c2/img_10.png"));
  EXPECT_EQ(predict(Clip("a/c2")), 1);
  EXPECT_THAT(err_, HasSubstr("no frame between: img_9.png and img_11.png"));
  Write("clips/val/a/c3/img_11.png", "not a picture");
  EXPECT_EQ(predict(Clip("a/c3")), 1);
  EXPECT_THAT(err_, HasSubstr(Clip("a/c3/img_11.png")));
}

TEST_F(InferenceTest, PicturesModelsTakeNoClips) {
  Train();
  EXPECT_EQ(Run({"predict", "--weights", run_, folder_ + "/data"}), 2);
  EXPECT_THAT(err_, HasSubstr(folder_ + "/data is a folder"));
  const std::string picture = Write("p.png", Png(Pixels(0), kSide));
  EXPECT_EQ(Run({"predict", "--weights", run_, "--frame-interval", "2", picture}), 2);
  EXPECT_THAT(err_, HasSubstr("--frame-interval is for clips"));
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
  EXPECT_EQ(
      Run({"predict", "--weights", path, "--model", R"({"arch":"swin_v2","depth":[2]})", "a"}), 2);
  EXPECT_THAT(err_, AllOf(HasSubstr("--model describes no model"), HasSubstr("unknown are depth;"),
                          HasSubstr("missing are img_size, ")));
  EXPECT_EQ(Run({"eval", "--weights", path, "--model", "swinv2_tiny_window8_256"}), 1);
  EXPECT_THAT(err_, HasSubstr("missing in the file"));
  EXPECT_EQ(out_, "");
}

}  // namespace
}  // namespace swinfleet
