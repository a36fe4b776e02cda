// Paths of jobs that lead elsewhere by symbolic links.
#include "worker/confinement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/checkpoint/file_ops.h"
#include "kernels/error.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class Confinement : public testing::Test {
 protected:
  Confinement() {
    std::string pattern = testing::TempDir() + "/swinfleet_test_XXXXXX";
    // The folder's own path may lead through links.
    folder_ = fs::canonical(mkdtemp(pattern.data())).string();
    for (const char* name : {"runs/a", "data/set", "scratch", "out/x"}) {
      fs::create_directories(Path(name));
    }
    roots_ = {{Path("runs"), Path("scratch")}, {Path("data")}};
    config_.run_dir = Path("runs/a");
    config_.data.path = Path("data/set");
  }
  ~Confinement() override { fs::remove_all(folder_); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Link(const std::string& name, const std::string& target) const {
    ASSERT_EQ(symlink(target.c_str(), Path(name).c_str()), 0);
  }
  // Empty: all of it may be used.
  std::string Fault(const std::string& resume_from = "") const {
    try {
      CheckConfined(config_, resume_from, roots_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::string folder_;
  PathRoots roots_;
  JobConfig config_;
};

TEST_F(Confinement, WhatLiesInTheRootsIsAllowed) {
  EXPECT_EQ(Fault(), "");
  config_.run_dir = Path("runs/new/deeper");
  config_.parallel.offload_dir = Path("scratch/x");
  config_.init_from = Path("runs/a/weights");
  EXPECT_EQ(Fault(Path("runs/a/checkpoints/attempt-001/step-00000001")), "");
  config_.init_from = Path("data/weights");
  EXPECT_EQ(Fault(), "");
}

TEST_F(Confinement, LinksWithinTheRootsAreAllowed) {
  Link("runs/link", Path("scratch"));
  config_.run_dir = Path("runs/link/x");
  EXPECT_EQ(Fault(), "");
  // A root that is a link itself.
  Link("other", Path("out"));
  roots_.run = {Path("other")};
  config_.run_dir = Path("other/x");
  EXPECT_EQ(Fault(), "");
  config_.run_dir = Path("out/x");
  EXPECT_EQ(Fault(), "");
}

TEST_F(Confinement, LinksThatLeadOutAreNot) {
  Link("runs/link", Path("out"));
  Link("data/link", "../out");
  for (const char* run_dir : {"runs/link", "runs/link/x", "runs/link/new/deeper"}) {
    config_.run_dir = Path(run_dir);
    EXPECT_THAT(Fault(), AllOf(HasSubstr("run_dir is " + Path("out")),
                               HasSubstr("leads there by a symbolic link")))
        << run_dir;
  }
  config_.run_dir = Path("runs/a");
  config_.data.path = Path("data/link/x");
  EXPECT_THAT(Fault(), HasSubstr("data.path is " + Path("out/x")));
  config_.data.path = Path("data/set");
  config_.init_from = Path("data/link/x");
  EXPECT_THAT(Fault(), HasSubstr("model.init_from"));
  config_.init_from.clear();
  config_.parallel.offload_dir = Path("runs/link");
  EXPECT_THAT(Fault(), HasSubstr("parallel.offload_dir"));
  config_.parallel.offload_dir.clear();
  EXPECT_THAT(Fault(Path("runs/link/c")), HasSubstr("the checkpoint is"));
  // A folder of the run's that was made a link.
  for (const char* name : {"checkpoints", "metrics", "tensorboard", "flight", "traces"}) {
    Link(std::string("runs/a/") + name, Path("out"));
    EXPECT_THAT(Fault(), HasSubstr(std::string("run_dir's ") + name)) << name;
    fs::remove(Path(std::string("runs/a/") + name));
  }
  EXPECT_EQ(Fault(), "");
}

TEST_F(Confinement, LinksThatLeadNowhereAreNotFollowed) {
  Link("runs/dangling", Path("out/new"));
  Link("runs/loop", Path("runs/loop"));
  for (const char* run_dir : {"runs/dangling", "runs/dangling/x", "runs/loop", "runs/loop/x"}) {
    config_.run_dir = Path(run_dir);
    EXPECT_THAT(Fault(), HasSubstr("leads nowhere")) << run_dir;
  }
}

TEST_F(Confinement, DotsAreTakenAfterLinks) {
  // By its text this is runs/a; what is opened is out/a.
  fs::create_directories(Path("out/a"));
  Link("runs/link", Path("out/x"));
  config_.run_dir = Path("runs/link/../a");
  EXPECT_THAT(Fault(), HasSubstr("run_dir is " + Path("out/a")));
}

TEST_F(Confinement, WhatCantBeToldIsAFileError) {
  config_.run_dir = Path("runs/" + std::string(300, 'x'));
  EXPECT_THROW(CheckConfined(config_, "", roots_), FileError);
}

}  // namespace
}  // namespace swinfleet
