// The real programs over mutual TLS, with tokens: who may not, doesn't, and jobs stay where they
// belong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/end_to_end/harness.h"
#include "tests/proto/certificates.h"

namespace swinfleet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

class SecurityTest : public EndToEndTest {
 protected:
  SecurityTest() : authority_(folder_, "ca"), stranger_(folder_, "stranger-ca") {
    authority_.Sign("server");
    authority_.Sign("client");
    stranger_.Sign("stranger");
    for (const auto& [name, role] :
         {std::pair("vera", "viewer"), std::pair("sam", "submitter"), std::pair("tom", "submitter"),
          std::pair("ada", "admin"), std::pair("lab", "fleet")}) {
      const Process& add =
          Coordinator({"token", "add", name, "--role", role, "--out", Token(name)});
      EXPECT_EQ(add.Wait(), 0) << add.Err();
    }
    for (const auto& [variable, value] : {std::pair("SWINFLEET_TLS_CA", authority_.pem()),
                                          std::pair("SWINFLEET_TLS_CERT", Path("client.pem")),
                                          std::pair("SWINFLEET_TLS_KEY", Path("client.key"))}) {
      setenv(variable, value.c_str(), 1);
    }
    Be("sam");
  }
  ~SecurityTest() override {
    for (const char* variable :
         {"SWINFLEET_TLS_CA", "SWINFLEET_TLS_CERT", "SWINFLEET_TLS_KEY", "SWINFLEET_TOKEN_FILE"}) {
      unsetenv(variable);
    }
  }
  std::string Token(const std::string& name) const { return Path(name + ".token"); }
  // Whose token the command line sends from now on.
  void Be(const std::string& name) const { setenv("SWINFLEET_TOKEN_FILE", Token(name).c_str(), 1); }
  // `swinfleet-coordinator` on the store of this test.
  const Process& Coordinator(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), Program("swinfleet-coordinator"));
    arguments.insert(arguments.end(), {"--store", Path("store")});
    return Start(arguments);
  }
  void StartSecurely(std::vector<std::string> options = {}) {
    options.insert(options.end(), {"--tls-cert", Path("server.pem"), "--tls-key",
                                   Path("server.key"), "--tls-client-ca", authority_.pem()});
    StartCoordinator(options);
  }
  // The supervisor has the fleet's token, and hands it and its certificate on to the workers.
  void StartSecureFleet(int ranks) {
    std::vector<std::string> command = FleetCommand(ranks);
    command.insert(command.begin() + 2, {"--token-file", Token("lab")});
    Start(command);
  }
  std::string AuditLog() {
    const Process& audit = Coordinator({"audit"});
    EXPECT_EQ(audit.Wait(), 0) << audit.Err();
    return audit.Out();
  }

  const Authority authority_, stranger_;
};

TEST_F(SecurityTest, AFleetTrainsOverMutualTlsAndRolesAreHeld) {
  StartSecurely();
  StartSecureFleet(2);
  TestJob job;
  job.epochs = 2;
  const std::string id = Submit(job);
  Be("tom");
  const Process& cancel = Swinfleet({"cancel", id});
  EXPECT_EQ(cancel.Wait(), 5);
  EXPECT_THAT(cancel.Err(), HasSubstr("tom (submitter) may not cancel job " + id + " of sam"));
  Be("vera");
  const Process& submit = Swinfleet({"submit", WriteJob(job)});
  EXPECT_EQ(submit.Wait(), 5);
  EXPECT_THAT(submit.Err(), HasSubstr("vera (viewer) may not submit jobs"));
  const json status = WaitForEnd(id);
  EXPECT_EQ(status.at("state"), "SUCCEEDED") << status.dump(1);
  EXPECT_EQ(status.at("user"), "sam");
  EXPECT_TRUE(
      WaitUntil([&] { return Logs(id).find("checkpoint of step 8") != std::string::npos; }));
  EXPECT_EQ(Swinfleet({"fence", "test"}).Wait(), 5);
  EXPECT_THAT(AuditLog(), AllOf(HasSubstr("sam (submitter) from 127.0.0.1:"),
                                HasSubstr("submit " + id + ": ok"),
                                HasSubstr("cancel " + id + ": tom (submitter) may not"),
                                HasSubstr("fence test: vera (viewer) may not fence fleets"),
                                HasSubstr("(operator) from this machine: token add lab: ok")));
}

TEST_F(SecurityTest, StrangersGetNowhere) {
  StartSecurely();
  const auto expect = [this](int code, const std::string& words) {
    const Process& list = Swinfleet({"list"});
    EXPECT_EQ(list.Wait(), code) << list.Err();
    EXPECT_THAT(list.Err(), HasSubstr(words));
  };
  EXPECT_EQ(Swinfleet({"list"}).Wait(), 0);
  // No token, a wrong one, and one that was revoked.
  unsetenv("SWINFLEET_TOKEN_FILE");
  expect(5, "no token was sent");
  setenv("SWINFLEET_TOKEN", "swinfleet_guess", 1);
  expect(5, "the token is not known");
  unsetenv("SWINFLEET_TOKEN");
  Be("tom");
  EXPECT_EQ(Coordinator({"token", "revoke", "tom"}).Wait(), 0);
  EXPECT_TRUE(WaitUntil([&] { return Swinfleet({"list"}).Wait() == 5; }));
  expect(5, "the token of tom was revoked");
  // Certificates of another authority, on either side, and none.
  Be("sam");
  setenv("SWINFLEET_TLS_CA", stranger_.pem().c_str(), 1);
  expect(3, "is not signed by an authority of --tls-ca");
  setenv("SWINFLEET_TLS_CA", authority_.pem().c_str(), 1);
  setenv("SWINFLEET_TLS_CERT", Path("stranger.pem").c_str(), 1);
  setenv("SWINFLEET_TLS_KEY", Path("stranger.key").c_str(), 1);
  expect(3, "no coordinator answers");
  unsetenv("SWINFLEET_TLS_CERT");
  unsetenv("SWINFLEET_TLS_KEY");
  expect(3, "no coordinator answers");
  // Plain text.
  unsetenv("SWINFLEET_TLS_CA");
  expect(3, "give --tls-ca FILE");
}

TEST_F(SecurityTest, SecretsThatOthersCanReadAreNotUsed) {
  StartSecurely();
  fs::permissions(Path("client.key"), fs::perms(0644));
  EXPECT_THAT(Swinfleet({"list"}).Err(), HasSubstr("chmod 600 " + Path("client.key")));
  fs::permissions(Path("client.key"), fs::perms(0600));
  fs::permissions(Token("sam"), fs::perms(0604));
  EXPECT_THAT(Swinfleet({"list"}).Err(), HasSubstr("chmod 600 " + Token("sam")));
  fs::permissions(Token("sam"), fs::perms(0600));
  fs::permissions(Path("server.key"), fs::perms(0640));
  fs::permissions(Path("server.key"), fs::perms(0644));
  const Process& second =
      Start({Program("swinfleet-coordinator"), "--store", Path("store2"), "--listen", "127.0.0.1:0",
             "--tls-cert", Path("server.pem"), "--tls-key", Path("server.key")});
  EXPECT_EQ(second.Wait(), 2);
  EXPECT_THAT(second.Err(), HasSubstr("chmod 600 " + Path("server.key")));
  EXPECT_FALSE(fs::exists(Path("store2")));
}

TEST_F(SecurityTest, AWorkerThatIsNotLetInSaysSo) {
  StartSecurely();
  const char* const address = getenv("SWINFLEET_COORDINATOR");
  const Process& worker =
      Start({Program("swinfleet-worker"), "--coordinator", address, "--token-file", Token("ada")});
  EXPECT_EQ(worker.Wait(), 3);
  EXPECT_THAT(worker.Err(), HasSubstr("ada (admin) may not serve as a worker"));
  const Process& elsewhere =
      Start({Program("swinfleet-worker"), "--coordinator", "10.0.0.7:1", "--tls-ca", Path("none")});
  EXPECT_EQ(elsewhere.Wait(), 2);
  EXPECT_THAT(elsewhere.Err(), HasSubstr("No such file"));
  for (const char* variable : {"SWINFLEET_TLS_CA", "SWINFLEET_TLS_CERT", "SWINFLEET_TLS_KEY"}) {
    unsetenv(variable);
  }
  const Process& plain = Start({Program("swinfleet-worker"), "--coordinator", "10.0.0.7:1"});
  EXPECT_EQ(plain.Wait(), 2);
  EXPECT_THAT(plain.Err(), HasSubstr("plain text"));
}

TEST_F(SecurityTest, JobsStayInTheirRoots) {
  fs::create_directories(Path("runs"));
  fs::create_directories(Path("elsewhere"));
  fs::create_directory_symlink(Path("elsewhere"), Path("runs/link"));
  fs::create_directory_symlink(Path("new-folder"), Path("runs/dangling"));
  fs::create_directories(Path("good-data"));
  fs::create_directory_symlink(Path("data"), Path("good-data/link"));
  StartSecurely(
      {"--run-root", Path("runs"), "--data-root", Path("good-data"), "--data-root", Path("data")});
  // By the text of a path, at the submission.
  TestJob job;
  job.run_dir = Path("runs/../elsewhere/x");
  const Process& outside = Swinfleet({"submit", WriteJob(job)});
  EXPECT_EQ(outside.Wait(), 5);
  EXPECT_THAT(outside.Err(), AllOf(HasSubstr("run_dir is " + Path("elsewhere/x")),
                                   HasSubstr("it has to lie in " + Path("runs"))));
  job.run_dir.clear();
  job.data_path = "/etc";
  EXPECT_THAT(Swinfleet({"submit", WriteJob(job)}).Err(), HasSubstr("data.path is /etc"));
  // By where it leads, when a worker resolves it.
  StartSecureFleet(2);
  const auto expect = [&](const TestJob& bad, const std::string& words) {
    const json status = WaitForEnd(Submit(bad));
    EXPECT_EQ(status.at("state"), "FAILED");
    EXPECT_THAT(status.at("reason").get<std::string>(), HasSubstr(words));
  };
  job = TestJob();
  job.epochs = 1;
  job.eval_every_epochs = 1;
  job.run_dir = Path("runs/link/x");
  expect(job, "leads there by a symbolic link");
  job.run_dir = Path("runs/dangling");
  expect(job, "is a symbolic link that leads nowhere");
  EXPECT_TRUE(fs::is_empty(Path("elsewhere")));
  EXPECT_FALSE(fs::exists(Path("new-folder")));
  // A link from one root into another one is fine.
  job.run_dir.clear();
  job.data_path = Path("good-data/link");
  EXPECT_EQ(WaitForEnd(Submit(job)).at("state"), "SUCCEEDED");
}

TEST_F(SecurityTest, NothingOfAJobReachesAShell) {
  fs::remove("canary");
  StartSecurely();
  StartSecureFleet(1);
  TestJob job;
  job.epochs = 1;
  job.eval_every_epochs = 1;
  // Each would make the file, in one way of quoting or another.
  const std::string evil =
      "$(touch canary)`touch canary`';touch canary;'\\\";touch canary;&&||\\\"";
  job.run_dir = Path("runs/x;touch canary;$(touch canary)`touch canary`");
  const std::string file =
      Write("evil.yaml", "name: \"" + evil + "\"\n" + Yaml(job).substr(Yaml(job).find('\n') + 1));
  const Process& submit = Swinfleet({"submit", file, "--json"});
  ASSERT_EQ(submit.Wait(), 0) << submit.Err();
  const json status = WaitForEnd(json::parse(submit.Out()).at("job_id").get<std::string>());
  EXPECT_EQ(status.at("state"), "SUCCEEDED") << status.dump(1);
  EXPECT_FALSE(fs::exists("canary"));
}

}  // namespace
}  // namespace swinfleet
