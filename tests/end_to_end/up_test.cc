// `swinfleet up`: a coordinator and a fleet in one command, which leaves nothing behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/end_to_end/harness.h"

namespace swinfleet {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

class UpTest : public EndToEndTest {
 protected:
  const Process& Up(const std::string& folder, const std::vector<std::string>& options = {}) {
    std::vector<std::string> command = {Program("swinfleet"), "up", "--dir", Path(folder)};
    command.insert(command.end(), options.begin(), options.end());
    return Start(command);
  }
  // Both run, and clients find the coordinator.
  void AwaitUp(const std::string& folder, const Process& up) {
    ASSERT_TRUE(WaitUntil([&] { return up.Ended() || !Address(folder).empty(); }));
    ASSERT_FALSE(up.Ended()) << up.Err();
    setenv("SWINFLEET_COORDINATOR", Address(folder).c_str(), 1);
  }
  std::string Address(const std::string& folder) const {
    const std::string line = ReadFile(Path(folder + "/address"));
    return line.substr(0, line.find('\n'));
  }
  bool NothingRuns() {
    return WaitUntil([this] { return processes_.Find("").empty(); });
  }
};

TEST_F(UpTest, TrainsAndStopsOnCtrlCAndGoesOn) {
  const Process& up = Up("here", {"--ranks", "2", "--port", "0", "--name", "mine"});
  AwaitUp("here", up);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_THAT(up.Out(), AllOf(HasSubstr(Path("here/store")), HasSubstr(Path("here/fleet.log")),
                              HasSubstr(Path("here/coordinator.log")),
                              HasSubstr("swinfleet submit JOB.yaml --coordinator 127.0.0.1:")));
  TestJob job;
  const std::string id = Submit(job);
  EXPECT_EQ(WaitForEnd(id).at("state"), "SUCCEEDED");
  EXPECT_EQ(Fleet().at("name"), "mine");
  EXPECT_EQ(Fleet().at("world_size"), 2);

  // Neither in the same folder nor at the same port.
  const Process& same_folder = Up("here", {"--port", "0"});
  EXPECT_EQ(same_folder.Wait(), 5);
  EXPECT_THAT(same_folder.Err(), HasSubstr("already runs in " + Path("here") + " (process " +
                                           std::to_string(up.pid()) + ")"));
  const std::string port = Address("here").substr(Address("here").find(':') + 1);
  const Process& same_port = Up("there", {"--port", port});
  EXPECT_EQ(same_port.Wait(), 5);
  EXPECT_THAT(same_port.Err(), HasSubstr("can't listen on 127.0.0.1:" + port));
  EXPECT_FALSE(up.Ended());

  up.Signal(SIGINT);
  EXPECT_EQ(up.Wait(), 130) << up.Err();
  EXPECT_TRUE(NothingRuns());
  EXPECT_EQ(Address("here"), "");

  const Process& again = Up("here", {"--port", "0"});
  AwaitUp("here", again);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(Status(id).at("state"), "SUCCEEDED");
  again.Signal(SIGTERM);
  EXPECT_EQ(again.Wait(), 0) << again.Err();
  EXPECT_TRUE(NothingRuns());
}

TEST_F(UpTest, NothingIsLeftWhenItIsKilled) {
  const Process& up = Up("here", {"--port", "0"});
  AwaitUp("here", up);
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(WaitUntil([this] { return !processes_.Find("swinfleet-worker").empty(); }));
  up.Signal(SIGKILL);
  EXPECT_EQ(up.Wait(), 128 + SIGKILL);
  EXPECT_TRUE(NothingRuns());
}

TEST_F(UpTest, EndsWithTheCoordinator) {
  const Process& up = Up("here", {"--port", "0"});
  AwaitUp("here", up);
  ASSERT_FALSE(HasFatalFailure());
  const std::vector<pid_t> coordinators = processes_.Find("swinfleet-coordinator");
  ASSERT_EQ(coordinators.size(), 1u);
  kill(coordinators[0], SIGKILL);
  EXPECT_EQ(up.Wait(), 5);
  EXPECT_THAT(up.Err(), HasSubstr("the coordinator has ended (killed by signal 9"));
  EXPECT_TRUE(NothingRuns());
}

}  // namespace
}  // namespace swinfleet
