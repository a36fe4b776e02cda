// A small cluster on this machine for one test: a data set, job files, a coordinator, a fleet.
#ifndef SWINFLEET_TESTS_END_TO_END_HARNESS_H_
#define SWINFLEET_TESTS_END_TO_END_HARNESS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/end_to_end/processes.h"

namespace swinfleet {

// 4 steps an epoch, each the sum of 8 micro-batches, of a few milliseconds each.
inline constexpr int kStepsPerEpoch = 4;

// What tests change of the job that they train.
struct TestJob {
  // Name and run folder, below the test's folder.
  std::string name = "job";
  int epochs = 4;
  int eval_every_epochs = 2;
  int zero_stage = 1;
  int embed_dim = 16;
  // 0: all of the fleet.
  int ranks = 0;
  int checkpoint_every = 10;
  int keep_last = 3;
  double learning_rate = 2e-3;
  double clip_grad_norm = 0.05;
  // parallel.offload disk, into a folder of the test's, with moments of this dtype; empty: none.
  std::string offloaded_moments;
  // The section `schedule`, as "{priority: 1}"; empty: none.
  std::string schedule;
  // Instead of the test's own folders.
  std::string run_dir;
  std::string data_path;
};

class EndToEndTest : public testing::Test {
 protected:
  EndToEndTest();
  ~EndToEndTest() override;

  // ---- Files ----
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& bytes) const;
  // 256 pictures to train on and 96 to evaluate, 12 x 12 pixels of a brightness that tells which
  // of `classes` they are of.
  std::string WriteData(const std::string& name, int classes = 4) const;
  std::string RunDir(const TestJob& job) const;
  virtual std::string Yaml(const TestJob& job) const;
  // Writes NAME.yaml and returns its path.
  std::string WriteJob(const TestJob& job) const;

  // ---- Programs ----
  static std::string Program(const std::string& name);
  const Process& Start(const std::vector<std::string>& arguments);
  // The command that trains a job file without a coordinator; one rank needs no mpirun.
  static std::vector<std::string> LocalCommand(const std::string& job_file, int ranks);
  static std::vector<std::string> Mpirun(int ranks);
  // The same for a fleet; here its ranks are on this machine.
  virtual std::vector<std::string> FleetMpirun(int ranks) const { return Mpirun(ranks); }
  // Trains the job to its end, which has to be a success.
  void TrainLocally(const TestJob& job, int ranks);
  // The exported weights of a run, all bytes of the file.
  std::string Weights(const TestJob& job);
  // Those of the same job, trained in one go by one process.
  std::string UndisturbedWeights(TestJob job);

  // ---- Metrics: <run>/metrics/attempt-NNN.jsonl ----
  // But for the times in it.
  std::string MetricsText(const TestJob& job, int attempt) const;
  std::vector<nlohmann::json> Metrics(const TestJob& job, int attempt) const;
  // The last step that the attempt has done, 0 when there is none.
  int64_t LastStep(const TestJob& job, int attempt) const;
  bool WaitForStep(const TestJob& job, int attempt, int64_t step) const;
  // Waits until the attempt is in the middle of an epoch, beyond its first checkpoint.
  bool WaitForMidEpoch(const TestJob& job, int attempt) const;
  std::string CheckpointDir(const TestJob& job, int attempt, int64_t step) const;

  // ---- A coordinator and its clients ----
  // The first time it takes a free port, afterwards the same again.
  const Process& StartCoordinator(const std::vector<std::string>& options = {});
  std::vector<std::string> FleetCommand(int ranks, const std::string& name = "test") const;
  const Process& StartFleet(int ranks, const std::string& name = "test");
  // `swinfleet` with these arguments, run to its end.
  const Process& Swinfleet(const std::vector<std::string>& arguments);
  // The id of the job, which has to be accepted.
  std::string Submit(const TestJob& job);
  nlohmann::json Status(const std::string& job_id);
  nlohmann::json WaitForState(const std::string& job_id, const std::string& state);
  // Waits until the job has ended, whatever its end.
  nlohmann::json WaitForEnd(const std::string& job_id);
  std::string Logs(const std::string& job_id);
  nlohmann::json Fleet();

  ProcessTree processes_;
  std::string folder_;
  // Where coordinators listen.
  std::string listen_host_ = "127.0.0.1";

 private:
  void Show() const;

  std::optional<std::string> outer_tmpdir_;

  std::vector<std::unique_ptr<Process>> started_;
  std::string address_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_END_TO_END_HARNESS_H_
