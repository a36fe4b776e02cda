// The real Prometheus, with the configuration and the rules of deploy/prometheus/, beside a real
// coordinator and fleet. Without Debian's package `prometheus` these tests are skipped, and say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/end_to_end/fleet_test.h"
#include "tests/proto/certificates.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const std::string kDeploy = std::string(SWINFLEET_SOURCE_DIR) + "/deploy/prometheus/";

// Empty: there is none in PATH.
std::string FindProgram(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

class PrometheusTest : public FleetTest {
 protected:
  void SetUp() override {
    prometheus_ = FindProgram("prometheus");
    promtool_ = FindProgram("promtool");
    if (prometheus_.empty() || promtool_.empty()) {
      GTEST_SKIP() << "skipped: there is no prometheus and promtool (Debian's package prometheus)";
    }
  }
  const Process& Promtool(const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {promtool_};
    command.insert(command.end(), arguments.begin(), arguments.end());
    const Process& process = Start(command);
    process.Wait();
    return process;
  }
  void StartCoordinatorWithHttp(std::vector<std::string> options = {}) {
    fs::remove(Path("http_port"));
    options.insert(options.end(), {"--http", "127.0.0.1:0", "--http-port-file", Path("http_port")});
    coordinator_ = &StartCoordinator(options);
    target_ = "127.0.0.1:" + std::to_string(std::stoi(ReadFile(Path("http_port"))));
  }
  // The example's configuration, for this coordinator and every second; and its rules without their
  // patience.
  std::string Configuration(bool secure) const {
    const std::string rules = ReadFile(kDeploy + "swinfleet.rules.yml");
    Write("swinfleet.rules.yml", std::regex_replace(rules, std::regex(" +for: \\w+\n"), ""));
    std::string text = ReadFile(kDeploy + "prometheus.yml");
    const auto replace = [&](const std::string& from, const std::string& to) {
      const size_t place = text.find(from);
      ASSERT_NE(place, std::string::npos) << from;
      text.replace(place, from.size(), to);
    };
    replace("10.0.0.1:7078\"]", target_ + "\"]");
    replace("scrape_interval: 15s", "scrape_interval: 1s");
    replace("evaluation_interval: 15s", "evaluation_interval: 1s");
    if (secure) {
      replace("/etc/prometheus/swinfleet-ca.pem", Path("ca.pem"));
      replace("/etc/prometheus/swinfleet.token", Path("prometheus.token"));
    } else {
      replace("scheme: https", "scheme: http");
      replace("    tls_config:\n      ca_file: /etc/prometheus/swinfleet-ca.pem\n", "");
      replace(
          "    authorization:\n      type: Bearer\n      credentials_file: "
          "/etc/prometheus/swinfleet.token\n",
          "");
    }
    return Write("prometheus.yml", text);
  }
  void StartPrometheus(bool secure) {
    const Process& server =
        Start({prometheus_, "--config.file=" + Configuration(secure),
               "--storage.tsdb.path=" + Path("tsdb"), "--web.listen-address=127.0.0.1:0"});
    const std::regex listens("Listening on\" address=(127\\.0\\.0\\.1:\\d+)");
    std::smatch found;
    std::string log;
    ASSERT_TRUE(WaitUntil([&] {
      log = server.Err();
      return server.Ended() || std::regex_search(log, found, listens);
    })) << log;
    ASSERT_FALSE(server.Ended()) << server.Err();
    url_ = "http://" + found[1].str();
  }
  // What Prometheus answers: "NAME{...} => VALUE" of each that there is now.
  std::string Query(const std::string& expression) {
    const Process& query = Promtool({"query", "instant", url_, expression});
    return query.Wait() == 0 ? query.Out() : "";
  }
  testing::AssertionResult Becomes(const std::string& expression) {
    if (WaitUntil([&] { return Query(expression).find("=>") != std::string::npos; }, 60, 0.5)) {
      return testing::AssertionSuccess();
    }
    return testing::AssertionFailure() << expression << " never had a value; there are\n"
                                       << Query("{__name__=~\"swinfleet_.*|up|ALERTS\"}");
  }
  static std::string Firing(const std::string& alert) {
    return "ALERTS{alertname=\"" + alert + "\", alertstate=\"firing\"}";
  }

  std::string prometheus_, promtool_, target_, url_;
  const Process* coordinator_ = nullptr;
};

TEST_F(PrometheusTest, RulesAndConfigurationAreGood) {
  const Process& rules = Promtool({"check", "rules", kDeploy + "swinfleet.rules.yml"});
  EXPECT_EQ(rules.Wait(), 0) << rules.Out() << rules.Err();
  const Process& config =
      Promtool({"check", "config", "--syntax-only", kDeploy + "prometheus.yml"});
  EXPECT_EQ(config.Wait(), 0) << config.Out() << config.Err();
  const Process& test = Promtool({"test", "rules", kDeploy + "swinfleet_rules_test.yml"});
  EXPECT_EQ(test.Wait(), 0) << test.Out() << test.Err();
}

TEST_F(PrometheusTest, ItScrapesACoordinatorAndRulesFire) {
  StartCoordinatorWithHttp();
  StartPrometheus(/*secure=*/false);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_TRUE(Becomes("up{job=\"swinfleet\"} == 1"));
  EXPECT_TRUE(Becomes("swinfleet_jobs{state=\"running\"} == 0"));
  StartFleet(2);
  job_.epochs = 2000;
  job_id_ = Submit(job_);
  ASSERT_TRUE(WaitForStep(job_, 1, 10));
  for (const char* metric : {"step > 0", "loss > 0", "images_per_second > 0",
                             "exposed_communication_ratio >= 0", "memory_peak_rank_bytes > 0",
                             "checkpoint_age_seconds >= 0", "ranks == 2", "silent_ranks == 0"}) {
    EXPECT_TRUE(Becomes(std::string("swinfleet_job_") + metric));
  }
  EXPECT_THAT(Query(Firing("SwinfleetRanksSilent")), Not(HasSubstr("=>")));
  const pid_t pid = PidOfRank(1);
  kill(pid, SIGSTOP);
  EXPECT_TRUE(Becomes(Firing("SwinfleetRanksSilent")));
  kill(pid, SIGCONT);
  EXPECT_EQ(Swinfleet({"cancel", job_id_}).Wait(), 0);
  EXPECT_THAT(Query(Firing("SwinfleetCoordinatorDown")), Not(HasSubstr("=>")));
  coordinator_->Signal(SIGKILL);
  EXPECT_TRUE(Becomes(Firing("SwinfleetCoordinatorDown")));
}

TEST_F(PrometheusTest, ItScrapesOverTlsWithAToken) {
  const Authority authority(folder_, "ca");
  authority.Sign("server");
  const Process& add =
      Start({Program("swinfleet-coordinator"), "token", "add", "prometheus", "--role", "viewer",
             "--out", Path("prometheus.token"), "--store", Path("store")});
  ASSERT_EQ(add.Wait(), 0) << add.Err();
  StartCoordinatorWithHttp({"--tls-cert", Path("server.pem"), "--tls-key", Path("server.key")});
  StartPrometheus(/*secure=*/true);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_TRUE(Becomes("up{job=\"swinfleet\"} == 1"));
  EXPECT_TRUE(Becomes("swinfleet_store_writable == 1"));
}

}  // namespace
}  // namespace swinfleet
