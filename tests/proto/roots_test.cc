#include "proto/roots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace swinfleet {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const PathRoots kRoots{{"/runs", "/local/scratch"}, {"/data"}};

std::string RunDir(const std::string& path) {
  return OutsideRoots({"run_dir", path, true, false}, kRoots);
}

TEST(Roots, PathsAreNormalByTheirText) {
  EXPECT_EQ(NormalPath("/a/./b//c/"), "/a/b/c");
  EXPECT_EQ(NormalPath("/a/../../b"), "/b");
  EXPECT_EQ(NormalPath("//a"), "/a");
  EXPECT_EQ(NormalPath("/"), "/");
  EXPECT_EQ(NormalPath("/.."), "/");
  EXPECT_EQ(NormalPath("a/b"), "");
  EXPECT_EQ(NormalPath(""), "");
  EXPECT_EQ(NormalPath("~/a"), "");
}

TEST(Roots, WhatLiesInARootIsAllowed) {
  for (const char* path : {"/runs/a", "/runs", "/runs/a/../b", "/runs/..a", "/local/scratch/x",
                           "//runs/a", "/x/../runs/a"}) {
    EXPECT_THAT(RunDir(path), IsEmpty()) << path;
  }
}

TEST(Roots, WhatLeavesThemIsNot) {
  for (const char* path :
       {"/runs/../etc", "/runs/a/../../etc/x", "/runs2/a", "/run", "/", "/data/a", "runs/a",
        "../runs/a", "/local", "/local/scratch/../x", "/RUNS/a", "/runs/./../runsx"}) {
    EXPECT_THAT(RunDir(path), HasSubstr("it has to lie in /runs or /local/scratch")) << path;
  }
  EXPECT_THAT(RunDir("/etc/x"), HasSubstr("run_dir is /etc/x"));
  EXPECT_THAT(RunDir("/etc/x"), HasSubstr("--run-root"));
}

TEST(Roots, EachPathHasItsOwn) {
  const auto paths = PathsOfJob("/r", "/o", "/d", "/i");
  ASSERT_EQ(paths.size(), 4u);
  EXPECT_EQ(PathsOfJob("/r", "", "/d", "").size(), 2u);
  for (const ConfinedPath& path : paths) {
    ConfinedPath moved = path;
    moved.path = "/runs/x";
    EXPECT_EQ(OutsideRoots(moved, kRoots).empty(), path.key != "data.path") << path.key;
    moved.path = "/data/x";
    EXPECT_EQ(OutsideRoots(moved, kRoots).empty(),
              path.key == "data.path" || path.key == "model.init_from")
        << path.key;
    moved.path = "/etc/x";
    EXPECT_FALSE(OutsideRoots(moved, kRoots).empty()) << path.key;
    EXPECT_TRUE(OutsideRoots(moved, {}).empty()) << path.key;
  }
}

TEST(Roots, AnEmptyListConfinesNothing) {
  EXPECT_TRUE(OutsideRoots({"data.path", "/etc", false, true}, {{"/runs"}, {}}).empty());
  EXPECT_FALSE(OutsideRoots({"run_dir", "/etc", true, false}, {{"/runs"}, {}}).empty());
  // What may be in either is anywhere if one of them is.
  EXPECT_TRUE(OutsideRoots({"model.init_from", "/etc", true, true}, {{"/runs"}, {}}).empty());
}

}  // namespace
}  // namespace swinfleet
