// The web page in a headless Chromium, beside a real coordinator and fleet. Without Debian's
// package `chromium` or `chromium-headless-shell` these tests are skipped, and say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/end_to_end/fleet_test.h"

namespace swinfleet {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class PageTest : public FleetTest {
 protected:
  void SetUp() override {
    for (const char* name : {"/usr/bin/chromium-headless-shell", "/usr/bin/chromium"}) {
      if (access(name, X_OK) == 0) browser_ = name;
    }
    if (browser_.empty()) {
      GTEST_SKIP() << "skipped: there is no chromium (Debian's package chromium-headless-shell)";
    }
  }
  void StartWithHttp(std::vector<std::string> options = {}) {
    options.insert(options.end(), {"--http", "127.0.0.1:0", "--http-port-file", Path("http_port")});
    StartCoordinator(options);
    url_ = "http://127.0.0.1:" + std::to_string(std::stoi(ReadFile(Path("http_port")))) + "/";
  }
  // The document as it is once the page's first answers have come.
  std::string Document(const std::string& place) {
    const Process& browser = Start({browser_, "--headless", "--no-sandbox", "--disable-gpu",
                                    "--disable-dev-shm-usage", "--user-data-dir=" + Path("browser"),
                                    "--virtual-time-budget=1500", "--dump-dom", url_ + place});
    EXPECT_EQ(browser.Wait(), 0) << browser.Err();
    return browser.Out();
  }

  std::string browser_, url_;
};

TEST_F(PageTest, ShowsJobsFleetsAndOneJob) {
  StartWithHttp();
  EXPECT_THAT(Document(""), HasSubstr("There are no jobs."));
  StartFleet(2);
  job_.name = "b<img src=x onerror=alert(1)>";
  job_.run_dir = Path("run");
  job_.epochs = 2000;
  job_id_ = Submit(job_);
  ASSERT_TRUE(WaitUntil([&] { return Status(job_id_).value("last_checkpoint", "") != ""; }));
  EXPECT_THAT(Document("#jobs"),
              AllOf(HasSubstr("href=\"#job/" + job_id_ + "\""), HasSubstr(">running</span>"),
                    // What somebody wrote is text.
                    HasSubstr("b&lt;img src=x onerror"), Not(HasSubstr("<img"))));
  EXPECT_THAT(Document("#fleets"), AllOf(HasSubstr(">test</span>"), HasSubstr("2 of 2")));
  EXPECT_EQ(Swinfleet({"trace", job_id_}).Wait(), 0);
  EXPECT_THAT(
      Document("#job/" + job_id_),
      AllOf(HasSubstr("/traces/attempt-001/step-"), HasSubstr("Complete: attempt 1"),
            HasSubstr("<button id=\"trace\" type=\"button\">"), HasSubstr("<path class=\"curve\""),
            HasSubstr("Pictures a second"), HasSubstr("<ul class=\"chips\">"),
            HasSubstr("attempt-001/step-"), HasSubstr("[1.0] "), Not(HasSubstr("<img"))));
}

TEST_F(PageTest, AsksForATokenWhereThereAreTokens) {
  const Process& add = Start({Program("swinfleet-coordinator"), "token", "add", "vera", "--role",
                              "viewer", "--out", Path("token"), "--store", Path("store")});
  ASSERT_EQ(add.Wait(), 0) << add.Err();
  StartWithHttp();
  EXPECT_THAT(Document(""), AllOf(HasSubstr("<form id=\"login\">"),
                                  HasSubstr("<section id=\"jobs\" hidden=\"\">")));
}

}  // namespace
}  // namespace swinfleet
