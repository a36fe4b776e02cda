// A fleet, and a job without a coordinator, as batch jobs of a real Slurm (Debian's) whose three
// nodes are daemons on this machine: before their time is over they save a checkpoint, go back into
// Slurm's queue, and end with the weights of an undisturbed run.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr int kNodes = 3;
constexpr char kDataset[] = "/usr/share/datasets/fashion-mnist";
constexpr char kScript[] = SWINFLEET_SOURCE_DIR "/deploy/slurm/swinfleet.sbatch";

// Debian keeps daemons out of the path of users.
std::string FindDaemon(const std::string& name) {
  for (const char* folder : {"/usr/sbin/", "/usr/bin/", "/usr/local/sbin/", "/usr/local/bin/"}) {
    if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
  }
  return "";
}

// Ports that nobody listens on at the moment.
std::vector<int> FreePorts(int count) {
  std::vector<int> sockets, ports;
  for (int i = 0; i < count; ++i) {
    const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no free port");
    }
    sockets.push_back(descriptor);
    ports.push_back(ntohs(address.sin_port));
  }
  for (const int descriptor : sockets) close(descriptor);
  return ports;
}

class SlurmTest : public EndToEndTest {
 protected:
  // Skips the test where there is no Slurm. All that is started here ends with the test, however it
  // ends (ProcessTree).
  void SetUp() override {
    for (const char* name : {"slurmctld", "slurmd", "munged"}) {
      if (FindDaemon(name).empty()) {
        GTEST_SKIP() << "there is no " << name
                     << "; Debian's packages are slurmctld, slurmd, slurm-client and munge";
      }
    }
    ASSERT_TRUE(fs::exists(kDataset)) << "install dataset-fashion-mnist";
    StartDaemons();
    // The batch script finds the programs there. Nodes are one machine, behind no other interface.
    const std::string path = std::string(SWINFLEET_BIN_DIR) + ":" + getenv("PATH");
    setenv("PATH", path.c_str(), 1);
    setenv("OMPI_MCA_btl_tcp_if_include", "lo", 1);
    setenv("OMPI_MCA_oob_tcp_if_include", "lo", 1);
    setenv("SWINFLEET_STATE_DIR", Path("fleets").c_str(), 1);
  }

  void StartDaemons() {
    const std::vector<int> ports = FreePorts(kNodes + 1);
    const std::string key = Write("munge.key", std::string(128, 'k'));
    chmod(key.c_str(), 0400);
    Start({FindDaemon("munged"), "--foreground", "--force", "--key-file=" + key,
           "--socket=" + Path("munge.socket"), "--pid-file=" + Path("munge.pid"),
           "--log-file=" + Path("munge.log"), "--seed-file=" + Path("munge.seed")});
    ASSERT_TRUE(WaitUntil([this] { return fs::exists(Path("munge.socket")); }));
    fs::create_directory(Path("state"));
    setenv("SLURM_CONF", Write("slurm.conf", Configuration(ports)).c_str(), 1);
    Start({FindDaemon("slurmctld"), "-D"});
    for (int node = 1; node <= kNodes; ++node) {
      fs::create_directories(Path("spool/n" + std::to_string(node)));
      Start({FindDaemon("slurmd"), "-D", "-N", "n" + std::to_string(node)});
    }
    ASSERT_TRUE(WaitUntil([this] {
      const Process& info = Start({"sinfo", "--noheader", "--format=%D %t"});
      return info.Wait() == 0 && info.Out() == std::to_string(kNodes) + " idle\n";
    })) << "Slurm does not come up; its logs are above";
  }

  std::string Configuration(const std::vector<int>& ports) const {
    std::ostringstream text;
    const std::string user = std::to_string(getuid());
    // A batch job that is put back waits until its credential has expired: 5 s instead of two
    // minutes.
    text << "ClusterName=test\nSlurmctldHost=localhost\nSlurmctldPort=" << ports[0]
         << "\nSlurmUser=" << user << "\nSlurmdUser=" << user
         << "\nAuthType=auth/munge\nCredType=cred/munge\nAuthInfo=cred_expire=5,socket="
         << Path("munge.socket") << "\nStateSaveLocation=" << Path("state")
         << "\nSlurmdSpoolDir=" << Path("spool/%n") << "\nSlurmctldPidFile=" << Path("ctld.pid")
         << "\nSlurmdPidFile=" << Path("%n.pid")
         << "\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\n"
            "MpiDefault=none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n"
            "SchedulerType=sched/backfill\nSchedulerParameters=bf_interval=1,sched_interval=2\n"
            "KillWait=5\nReturnToService=2\n";
    for (int node = 1; node <= kNodes; ++node) {
      text << "NodeName=n" << node << " NodeHostname=localhost Port=" << ports[node] << " CPUs=1\n";
    }
    text << "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE\n";
    return text.str();
  }

  // A small model on Fashion-MNIST.
  std::string Yaml(const TestJob& job) const override {
    std::ostringstream yaml;
    yaml << "name: " << job.name << "\nrun_dir: " << RunDir(job)
         << "\nmodel:\n  image_size: 32\n  in_chans: 1\n  num_classes: 10\n  patch_size: 4\n"
            "  embed_dim: 16\n  depths: [1, 1]\n  num_heads: [1, 2]\n  window_size: 4\n"
            "  mlp_ratio: 2\n  drop_path_rate: 0.1\ndata:\n  path: "
         << kDataset
         << "\n  pad: 2\n  flip: 0.5\n  mean: [0.286]\n  std: [0.353]\n"
            "train:\n  epochs: "
         << job.epochs
         << "\n  global_batch: 512\n  micro_batch: 64\n  seed: 3\n  log_every_steps: 5\n"
            "  optimizer:\n    learning_rate: 2.0e-3\n"
            "parallel:\n  threads_per_rank: 1\n  zero_stage: 1\n"
            "checkpoint:\n  every_steps: "
         << job.checkpoint_every << "\n";
    return yaml.str();
  }

  // The id of a batch job on two nodes, whose output goes to BATCH.
  std::string Batch(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {"sbatch",   "--parsable",      "--signal=B:USR1@110",
                                        "--output", Path("batch.out"), kScript};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const Process& submitted = Start(command);
    EXPECT_EQ(submitted.Wait(), 0) << submitted.Err();
    return std::to_string(std::stoi(submitted.Out()));
  }
  std::string BatchOutput() const { return ReadFile(Path("batch.out")); }
  // A field of the batch job, as "RunTime".
  std::string Field(const std::string& batch, const std::string& name) {
    const Process& shown = Start({"scontrol", "--oneliner", "show", "job", batch});
    EXPECT_EQ(shown.Wait(), 0) << shown.Err();
    const std::string text = " " + shown.Out();
    const size_t begin = text.find(" " + name + "=");
    if (begin == std::string::npos) return "";
    const size_t value = begin + name.size() + 2;
    return text.substr(value, text.find_first_of(" \n", value) - value);
  }
  // The batch job's time is over so many whole minutes after now.
  void SetTimeLeft(const std::string& batch, int minutes) {
    // HH:MM:SS
    const std::string run = Field(batch, "RunTime");
    const int past = 60 * std::stoi(run.substr(0, 2)) + std::stoi(run.substr(3, 2));
    const Process& updated = Start(
        {"scontrol", "update", "JobId=" + batch, "TimeLimit=" + std::to_string(past + minutes)});
    ASSERT_EQ(updated.Wait(), 0) << updated.Err();
  }
};

TEST_F(SlurmTest, AFleetIsPutBackBeforeItsTimeIsOverAndItsJobGoesOn) {
  StartCoordinator();
  const std::string batch = Batch({});
  TestJob job;
  job.epochs = 3;
  const std::string id = Submit(job);
  ASSERT_TRUE(WaitForStep(job, 1, 25)) << Status(id).dump(1) << BatchOutput();
  // Stopped until Slurm's signal comes, however fast this machine is. Nobody minds: they are
  // stopped together.
  std::vector<pid_t> ranks;
  const json training = Status(id);
  for (const json& rank : training.at("ranks")) ranks.push_back(rank.at("pid").get<pid_t>());
  ASSERT_EQ(ranks.size(), 2u);
  for (const pid_t pid : ranks) kill(pid, SIGSTOP);
  // Less than two minutes, and it wants to know 110 s before: Slurm tells it when it looks next,
  // which it does every half minute.
  SetTimeLeft(batch, 2);
  const std::string undisturbed = UndisturbedWeights(job);
  ASSERT_TRUE(WaitUntil([&] {
    return BatchOutput().find("asked to leave: the batch job is put back") != std::string::npos;
  })) << BatchOutput();
  EXPECT_EQ(Status(id).at("attempt"), 1);
  // Once is enough.
  SetTimeLeft(batch, 60);
  for (const pid_t pid : ranks) kill(pid, SIGCONT);

  const json done = WaitForEnd(id);
  EXPECT_EQ(done.at("state"), "SUCCEEDED") << done.dump(1);
  EXPECT_EQ(done.at("attempt"), 2);
  EXPECT_EQ(done.at("fleet"), "slurm-" + batch);
  EXPECT_EQ(Field(batch, "Restarts"), "1");
  EXPECT_THAT(Logs(id), HasSubstr("its fleet slurm-" + batch + " is given back"));
  EXPECT_THAT(BatchOutput(), HasSubstr("batch job " + batch + ", start 2, nodes n["));
  // Saved at the step at which it was asked, and no step is done twice.
  EXPECT_EQ(Metrics(job, 2).front().at("step"), LastStep(job, 1) + 1);
  EXPECT_TRUE(Weights(job) == undisturbed);

  // For good.
  ASSERT_EQ(Start({"scancel", "--batch", "--signal=USR2", batch}).Wait(), 0);
  EXPECT_TRUE(WaitUntil([&] { return Field(batch, "JobState") == "COMPLETED"; })) << BatchOutput();
  EXPECT_THAT(Fleet().at("last_exit").get<std::string>(), "exit code 0");
}

TEST_F(SlurmTest, AJobWithoutACoordinatorIsPutBackAndGoesOn) {
  TestJob job;
  job.epochs = 3;
  const std::string batch = Batch({WriteJob(job)});
  ASSERT_TRUE(WaitForStep(job, 1, 25)) << BatchOutput();
  ASSERT_EQ(Start({"scancel", "--batch", "--signal=USR1", batch}).Wait(), 0);
  ASSERT_TRUE(WaitUntil([&] { return Field(batch, "JobState") == "COMPLETED"; })) << BatchOutput();
  EXPECT_EQ(Field(batch, "Restarts"), "1");
  EXPECT_EQ(Metrics(job, 2).front().at("step"), LastStep(job, 1) + 1);
  EXPECT_TRUE(Weights(job) == UndisturbedWeights(job));
}

}  // namespace
}  // namespace swinfleet
