// Whatever a user gets wrong is answered with words that help, an exit code, and nothing half-done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/end_to_end/harness.h"
#include "tests/worker/png_file.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// The number of the line that has `text`.
int LineOf(const std::string& text, const std::string& part) {
  const std::string before = text.substr(0, text.find(part));
  return 1 + static_cast<int>(std::count(before.begin(), before.end(), '\n'));
}

class BadInputTest : public EndToEndTest {
 protected:
  // `swinfleet submit`, `swinfleet plan --check` and the worker all refuse the file.
  void ExpectRefused(const std::string& yaml, const testing::Matcher<std::string>& message) {
    const std::string file = Write("bad.yaml", yaml);
    const std::vector<std::vector<std::string>> commands = {
        {Program("swinfleet"), "submit", file},
        {Program("swinfleet"), "plan", "--check", file},
        {Program("swinfleet-worker"), "--job", file}};
    for (const std::vector<std::string>& command : commands) {
      const Process& process = Start(command);
      EXPECT_EQ(process.Wait(), 2) << process.Err();
      EXPECT_THAT(process.Err(), message);
      EXPECT_EQ(process.Out(), "");
    }
    EXPECT_FALSE(fs::exists(RunDir(TestJob())));
  }
  // What is wrong with a job that only its ranks can see.
  struct Fault {
    std::string name;
    TestJob job;
    std::string message;
    // The words in the job file that make it so, and what they stand for.
    std::string from, to;
  };
  std::string YamlOf(const Fault& fault) const {
    const std::string yaml = Yaml(fault.job);
    return fault.from.empty() ? yaml : Replaced(yaml, fault.from, fault.to);
  }
  std::vector<Fault> Faults() const;

  // The data set "pictures": four classes of 32 pictures to train on and 8 to evaluate.
  void WritePictures() const {
    for (const auto& [split, count] : {std::pair("train", 32), std::pair("val", 8)}) {
      for (const char* name : {"a", "b", "c", "d"}) {
        const std::string folder = std::string("pictures/") + split + "/" + name;
        fs::create_directories(Path(folder));
        for (int i = 0; i < count; ++i) {
          Write(folder + "/" + std::to_string(i) + ".png",
                Png(std::string(12 * 12, static_cast<char>(i * 7)), 12));
        }
      }
    }
  }
  // A job of three epochs of two steps on them, with `extra` lines under data.
  std::string PicturesYaml(const std::string& name, const std::string& extra) const {
    TestJob job;
    job.name = name;
    job.epochs = 3;
    job.data_path = Path("pictures");
    return Replaced(Yaml(job), "data:\n", "data:\n  format: imagefolder\n" + extra);
  }
};

std::vector<BadInputTest::Fault> BadInputTest::Faults() const {
  std::vector<Fault> faults;
  const auto add = [&](const std::string& name, const std::string& message) -> Fault& {
    faults.push_back({name, {}, message, "", ""});
    faults.back().job.name = name;
    return faults.back();
  };
  add("no-data", "data.path " + Path("nowhere") + " does not exist").job.data_path =
      Path("nowhere");

  WriteData("short");
  const std::string images = Path("short/train-images-idx3-ubyte");
  fs::resize_file(images, fs::file_size(images) - 1);
  add("truncated-data", images + " is truncated").job.data_path = Path("short");

  WriteData("seven", /*classes=*/7);
  add("too-many-classes", "the model has 4 classes").job.data_path = Path("seven");

  Fault& batch = add("large-batch", "train.global_batch 512 is larger than the training data, 256");
  batch.from = "global_batch: 64";
  batch.to = "global_batch: 512";

  Write("a-file", "");
  add("no-folder", Path("a-file/run")).job.run_dir = Path("a-file/run");
  return faults;
}

TEST_F(BadInputTest, AnUnknownKeyIsNamedWithItsLine) {
  const std::string yaml = Replaced(Yaml(TestJob()), "  micro_batch: 8", "  mikro_batch: 8");
  ExpectRefused(yaml, AllOf(HasSubstr("bad.yaml:" + std::to_string(LineOf(yaml, "mikro"))),
                            HasSubstr("mikro_batch")));
}

TEST_F(BadInputTest, AValueOfTheWrongTypeIsNamedWithItsLine) {
  const std::string yaml = Replaced(Yaml(TestJob()), "epochs: 4", "epochs: four");
  ExpectRefused(yaml, AllOf(HasSubstr("bad.yaml:" + std::to_string(LineOf(yaml, "four"))),
                            HasSubstr("epochs"), HasSubstr("four")));
}

TEST_F(BadInputTest, HeadsThatDoNotDivideAreRefusedWithOnesThatDo) {
  ExpectRefused(Replaced(Yaml(TestJob()), "num_heads: [1, 2]", "num_heads: [3, 2]"),
                AllOf(HasSubstr("model.num_heads of stage 0 is 3"), HasSubstr("near it 1, 2, 4")));
}

TEST_F(BadInputTest, AMaskRatioOfAllIsRefused) {
  ExpectRefused(Yaml(TestJob()) + "pretrain: {method: simmim, mask_ratio: 1, mask_unit: 4}\n",
                HasSubstr("pretrain.mask_ratio"));
}

TEST_F(BadInputTest, ABudgetBelowTheLeastIsRefusedWithWhatItTakes) {
  const std::string job = Write("job.yaml", Yaml(TestJob()) + "memory: {budget: 1MiB}\n");
  const Process& submit = Swinfleet({"submit", job});
  EXPECT_EQ(submit.Wait(), 2);
  EXPECT_THAT(submit.Err(), AllOf(HasSubstr("memory.budget"), HasSubstr("What would work")));
  const Process& worker = Start(LocalCommand(job, 2));
  EXPECT_EQ(worker.Wait(), 1);
  EXPECT_THAT(worker.Err(), AllOf(HasSubstr("memory.budget"), HasSubstr("What would work")));
  EXPECT_FALSE(fs::exists(RunDir(TestJob())));
}

TEST_F(BadInputTest, AJobFileThatIsNotThere) {
  const Process& submit = Swinfleet({"submit", Path("none.yaml")});
  EXPECT_EQ(submit.Wait(), 2);
  EXPECT_THAT(submit.Err(), HasSubstr(Path("none.yaml")));
}

TEST_F(BadInputTest, RanksFindFaultsWithoutWritingAnything) {
  for (const Fault& fault : Faults()) {
    const std::string file = Write(fault.name + ".yaml", YamlOf(fault));
    for (const int ranks : {1, 2}) {
      const Process& training = Start(LocalCommand(file, ranks));
      EXPECT_EQ(training.Wait(), 1) << fault.name << training.Err();
      EXPECT_THAT(training.Err(), HasSubstr(fault.message)) << fault.name;
    }
    EXPECT_FALSE(fs::exists(RunDir(fault.job))) << fault.name << " left a run folder";
  }
}

TEST_F(BadInputTest, AFleetOutlivesJobsThatCannotRun) {
  StartCoordinator();
  StartFleet(2);
  std::vector<Fault> faults = Faults();
  for (const Fault& fault : faults) {
    const std::string file = Write(fault.name + ".yaml", YamlOf(fault));
    const Process& submit = Swinfleet({"submit", file, "--watch", "--json"});
    EXPECT_EQ(submit.Wait(), 1) << fault.name << submit.Err();
    EXPECT_THAT(submit.Out(), HasSubstr("\"FAILED\"")) << fault.name;
    EXPECT_THAT(submit.Out(), HasSubstr(fault.message)) << fault.name;
  }
  // A folder that a run without coordinator has made.
  TestJob taken;
  taken.name = "taken";
  TrainLocally(taken, 1);
  const std::string weights = Weights(taken);
  const json refused = WaitForEnd(Submit(taken));
  EXPECT_EQ(refused.at("state"), "FAILED");
  EXPECT_THAT(refused.at("reason").get<std::string>(), HasSubstr("belongs to job \"local\""));
  EXPECT_TRUE(Weights(taken) == weights);

  TestJob good;
  good.name = "good";
  const json done = WaitForEnd(Submit(good));
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_EQ(done.at("restarts"), 0);
  // The folder of another job, and more ranks than there are.
  TestJob same = good;
  same.name = "same-folder";
  same.run_dir = RunDir(good);
  const Process& second = Swinfleet({"submit", WriteJob(same)});
  EXPECT_EQ(second.Wait(), 5);
  EXPECT_THAT(second.Err(), HasSubstr("run_dir " + RunDir(good) + " belongs to job"));
  TestJob large;
  large.name = "large";
  large.ranks = 3;
  const Process& third = Swinfleet({"submit", WriteJob(large)});
  EXPECT_EQ(third.Wait(), 5);
  EXPECT_THAT(third.Err(), HasSubstr("the largest fleet that is registered has 2 ranks"));
}

// One rank alone meets it, in the midst of a step.
TEST_F(BadInputTest, ABrokenPictureFailsTheJobByNameOrIsReplacedAndCounted) {
  WritePictures();
  const std::string broken = Write("pictures/train/c/7.png", "no picture");
  StartCoordinator();
  StartFleet(2);
  const std::string file = Write("broken.yaml", PicturesYaml("broken", ""));
  const Process& submit = Swinfleet({"submit", file, "--watch"});
  EXPECT_EQ(submit.Wait(), 1) << submit.Err();
  const json failed = Status(submit.Out().substr(0, submit.Out().find('\n')));
  EXPECT_EQ(failed.at("state"), "FAILED");
  EXPECT_EQ(failed.at("attempt"), 1);
  EXPECT_THAT(failed.at("reason").get<std::string>(),
              AllOf(HasSubstr(broken), HasSubstr("repair or remove it"),
                    HasSubstr("data.broken_pictures: replace")));
  EXPECT_TRUE(WaitUntil([this] { return Fleet().at("state") == "idle"; })) << "the launch lives on";

  Write("pictures/val/a/3.png", "");
  const std::string replace = "  broken_pictures: replace\n";
  const Process& watched =
      Swinfleet({"submit", Write("replaced.yaml", PicturesYaml("replaced", replace)), "--watch"});
  EXPECT_EQ(watched.Wait(), 0) << watched.Err();
  const std::string id = watched.Out().substr(0, watched.Out().find('\n'));
  const json progress = Status(id).at("progress");
  // Once in each of three epochs.
  EXPECT_EQ(progress.at("replaced_pictures"), "3");
  EXPECT_EQ(progress.at("eval_replaced_pictures"), "1");
  EXPECT_THAT(Swinfleet({"status", id}).Out(), AllOf(HasSubstr("3 pictures replaced (broken)"),
                                                     HasSubstr("(1 broken picture replaced)")));
  EXPECT_THAT(Logs(id), AllOf(HasSubstr(broken), HasSubstr("another sample stands for it")));
  TestJob job;
  job.name = "replaced";
  int64_t counted = 0;
  for (const json& line : Metrics(job, 1)) {
    counted += line.contains("grad_norm") ? line.at("replaced_pictures").get<int64_t>() : 0;
  }
  EXPECT_EQ(counted, 3);
}

TEST_F(BadInputTest, TheRunFolderOfAnotherJobFile) {
  TestJob job;
  TrainLocally(job, 1);
  ASSERT_FALSE(HasFatalFailure());
  const std::string weights = Weights(job);
  TestJob other = job;
  other.learning_rate = 1e-3;
  const Process& training = Start(LocalCommand(WriteJob(other), 1));
  EXPECT_EQ(training.Wait(), 1);
  EXPECT_THAT(training.Err(), HasSubstr("was made for another job specification"));
  EXPECT_FALSE(fs::exists(RunDir(job) + "/checkpoints/attempt-002"));
  EXPECT_TRUE(Weights(job) == weights);
}

TEST_F(BadInputTest, TwoRunsInOneFolderAtATime) {
  TestJob job;
  job.epochs = 100000;
  job.eval_every_epochs = 0;
  const std::string file = WriteJob(job);
  const Process& first = Start(LocalCommand(file, 1));
  ASSERT_TRUE(WaitForStep(job, 1, 3));
  const Process& second = Start(LocalCommand(file, 2));
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.Err(), HasSubstr("another process is training in the run folder"));
  const int64_t step = LastStep(job, 1);
  EXPECT_TRUE(WaitForStep(job, 1, step + 10)) << first.Err();
}

TEST_F(BadInputTest, NoCoordinatorIsThere) {
  // Nothing can listen on this port without being root, and nothing does.
  const std::string nowhere = "127.0.0.1:1";
  const std::string file = WriteJob(TestJob());
  const std::vector<std::vector<std::string>> commands = {
      {"submit", file}, {"status", "j1-x"}, {"watch", "j1-x"}, {"list"},
      {"logs", "j1-x"}, {"cancel", "j1-x"}, {"fleets"},        {"fence", "f"}};
  for (std::vector<std::string> command : commands) {
    command.insert(command.end(), {"--coordinator", nowhere});
    const Process& process = Swinfleet(command);
    EXPECT_EQ(process.Wait(), 3) << command[0] << process.Err();
    EXPECT_THAT(process.Err(), HasSubstr("no coordinator answers at " + nowhere)) << command[0];
  }
}

TEST_F(BadInputTest, ASecondCoordinator) {
  const Process& first = StartCoordinator();
  const Process& same_store = Start(
      {Program("swinfleet-coordinator"), "--store", Path("store"), "--listen", "127.0.0.1:0"});
  EXPECT_EQ(same_store.Wait(), 3);
  EXPECT_THAT(same_store.Err(), HasSubstr("another coordinator uses the store " + Path("store")));
  const std::string port = ReadFile(Path("port"));
  const Process& same_port =
      Start({Program("swinfleet-coordinator"), "--store", Path("other-store"), "--listen",
             "127.0.0.1:" + std::to_string(std::stoi(port))});
  EXPECT_EQ(same_port.Wait(), 1);
  EXPECT_NE(same_port.Err(), "");
  EXPECT_FALSE(first.Ended());
  EXPECT_EQ(Swinfleet({"list"}).Wait(), 0);
}

TEST_F(BadInputTest, JobsAndFleetsThatDoNotExist) {
  StartCoordinator();
  for (const char* command : {"status", "watch", "logs", "cancel"}) {
    const Process& process = Swinfleet({command, "j9-none"});
    EXPECT_EQ(process.Wait(), 4) << command << process.Err();
  }
  EXPECT_EQ(Swinfleet({"fence", "none"}).Wait(), 4);
}

}  // namespace
}  // namespace swinfleet
