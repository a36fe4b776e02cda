// Tokens and the audit log on disk.
#include "coordinator/access_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "coordinator/gate.h"
#include "coordinator/job_store.h"
#include "coordinator/log_store.h"
#include "tests/coordinator/temporary_folder.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

AuditEntry Entry(double time, const std::string& action, const std::string& subject) {
  AuditEntry entry;
  entry.time = time;
  entry.who = "root";
  entry.role = "operator";
  entry.from = "this machine";
  entry.action = action;
  entry.subject = subject;
  entry.result = "ok";
  return entry;
}

Token MakeToken(const std::string& name, Role role, const std::string& text) {
  Token token;
  token.name = name;
  token.role = role;
  token.hash = HashToken(text);
  token.created_at = 5;
  return token;
}

class AccessStoreTest : public ::testing::Test {
 protected:
  AccessStoreTest() : store_(Open(true)) {}
  std::unique_ptr<AccessStore> Open(bool migrate) {
    std::unique_ptr<AccessStore> store;
    const grpc::Status status = AccessStore::Open(folder_.path(), migrate, &store);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return store;
  }
  grpc::Status Add(const Token& token, double time = 10) {
    return store_->AddToken(token, Entry(time, "token add", token.name));
  }
  std::vector<Token> Tokens() {
    std::vector<Token> tokens;
    EXPECT_TRUE(store_->LoadTokens(&tokens).ok());
    return tokens;
  }
  std::vector<AuditEntry> Audit(uint64_t last = 0) {
    std::vector<AuditEntry> entries;
    const auto take = [&](const AuditEntry& entry) { entries.push_back(entry); };
    EXPECT_TRUE(store_->ReadAudit(last, take).ok());
    return entries;
  }
  std::unique_ptr<Database> Raw() {
    std::unique_ptr<Database> database;
    EXPECT_TRUE(Database::Open(folder_.path() + "/jobs.sqlite", true, &database).ok());
    return database;
  }

  const TemporaryFolder folder_;
  std::unique_ptr<AccessStore> store_;
};

TEST_F(AccessStoreTest, TokensAreKeptWithoutTheirTexts) {
  Token sam = MakeToken("sam", Role::kSubmitter, "the-secret-text");
  sam.expires_at = 99.5;
  ASSERT_TRUE(Add(sam).ok());
  ASSERT_TRUE(Add(MakeToken("lab", Role::kFleet, "f")).ok());
  store_ = Open(false);
  const std::vector<Token> tokens = Tokens();
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_EQ(tokens[0].name, "sam");
  EXPECT_EQ(tokens[0].role, Role::kSubmitter);
  EXPECT_EQ(tokens[0].hash, HashToken("the-secret-text"));
  EXPECT_EQ(tokens[0].created_at, 5);
  EXPECT_EQ(tokens[0].expires_at, 99.5);
  EXPECT_EQ(tokens[0].revoked_at, 0);
  EXPECT_EQ(tokens[1].role, Role::kFleet);
  // Neither in the file nor in its log.
  store_ = nullptr;
  const std::string line = "grep -q the-secret-text '" + folder_.path() + "'/*";
  EXPECT_NE(std::system(line.c_str()), 0);
}

TEST_F(AccessStoreTest, ANameHasOneValidToken) {
  ASSERT_TRUE(Add(MakeToken("sam", Role::kSubmitter, "1")).ok());
  const grpc::Status again = Add(MakeToken("sam", Role::kAdmin, "2"));
  EXPECT_EQ(again.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(again.error_message(), HasSubstr("revoke it first"));
  EXPECT_EQ(Tokens().size(), 1u);
  ASSERT_TRUE(store_->RevokeToken("sam", Entry(20, "token revoke", "sam")).ok());
  EXPECT_EQ(Tokens()[0].revoked_at, 20);
  Token brief = MakeToken("sam", Role::kAdmin, "2");
  brief.expires_at = 30;
  ASSERT_TRUE(Add(brief, 21).ok());
  EXPECT_FALSE(Add(MakeToken("sam", Role::kViewer, "3"), 29.9).ok());
  // What has expired makes room.
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "3"), 30).ok());
  EXPECT_EQ(Tokens()[1].revoked_at, 30);
  EXPECT_EQ(Tokens()[2].revoked_at, 0);
  // Never the same secret twice.
  EXPECT_FALSE(Add(MakeToken("tom", Role::kViewer, "3"), 31).ok());
  EXPECT_EQ(Tokens().size(), 3u);
}

TEST_F(AccessStoreTest, OnlyWhatIsThereCanBeRevoked) {
  EXPECT_EQ(store_->RevokeToken("sam", Entry(1, "token revoke", "sam")).error_code(),
            grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "1")).ok());
  ASSERT_TRUE(store_->RevokeToken("sam", Entry(20, "token revoke", "sam")).ok());
  EXPECT_EQ(store_->RevokeToken("sam", Entry(30, "token revoke", "sam")).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Tokens()[0].revoked_at, 20);
}

TEST_F(AccessStoreTest, ChangesAreInTheAuditLogAndRefusedOnesChangeNothing) {
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "1"), 10).ok());
  EXPECT_FALSE(Add(MakeToken("sam", Role::kViewer, "2"), 11).ok());
  ASSERT_TRUE(store_->RevokeToken("sam", Entry(20, "token revoke", "sam")).ok());
  const std::vector<AuditEntry> entries = Audit();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].time, 10);
  EXPECT_EQ(entries[0].who, "root");
  EXPECT_EQ(entries[0].role, "operator");
  EXPECT_EQ(entries[0].from, "this machine");
  EXPECT_EQ(entries[0].action, "token add");
  EXPECT_EQ(entries[0].subject, "sam");
  EXPECT_EQ(entries[0].result, "ok");
  EXPECT_EQ(entries[0].times, 1u);
  EXPECT_EQ(entries[1].action, "token revoke");
  ASSERT_EQ(Audit(1).size(), 1u);
  EXPECT_EQ(Audit(1)[0].action, "token revoke");
  EXPECT_EQ(Audit(100).size(), 2u);
}

TEST_F(AccessStoreTest, TheAuditLogIsAppendOnly) {
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "1")).ok());
  const auto raw = Raw();
  EXPECT_THAT(raw->Run("UPDATE audit SET who='nobody'").error_message(),
              HasSubstr("never changed"));
  EXPECT_THAT(raw->Run("DELETE FROM audit").error_message(), HasSubstr("never deleted"));
  EXPECT_EQ(Audit().at(0).who, "root");
}

TEST_F(AccessStoreTest, JobsAndTheirAuditLinesAreOneTransaction) {
  std::unique_ptr<JobStore> jobs;
  ASSERT_TRUE(JobStore::Open(folder_.path(), &jobs).ok());
  const AuditEntry entry = Entry(7, "submit", "j1");
  Job job;
  job.id = "j1";
  job.number = 1;
  job.submission_id = "s1";
  job.run_dir = "/r";
  job.spec = std::make_shared<JobSpec>();
  JobStore::Batch batch;
  batch.jobs = {&job};
  batch.audit = {&entry};
  ASSERT_TRUE(jobs->Write(batch).ok());
  EXPECT_EQ(Audit().at(0).subject, "j1");
  // Another job in the same folder can't be stored; nor is it said that it was.
  Job other = job;
  other.id = "j2";
  batch.jobs = {&other};
  EXPECT_FALSE(jobs->Write(batch).ok());
  EXPECT_EQ(Audit().size(), 1u);
}

TEST_F(AccessStoreTest, DamageIsTold) {
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "1")).ok());
  std::vector<Token> tokens;
  ASSERT_TRUE(Raw()->Run("UPDATE tokens SET role=9").ok());
  EXPECT_EQ(store_->LoadTokens(&tokens).error_code(), grpc::StatusCode::DATA_LOSS);
  ASSERT_TRUE(Raw()->Run("UPDATE tokens SET role=1, hash=x'00'").ok());
  EXPECT_THAT(store_->LoadTokens(&tokens).error_message(), HasSubstr("the token of sam"));
}

TEST_F(AccessStoreTest, AStoreInUseByAnOlderProgramIsLeftAlone) {
  ASSERT_TRUE(Raw()->Run("PRAGMA user_version=3").ok());
  std::unique_ptr<AccessStore> store;
  const grpc::Status status = AccessStore::Open(folder_.path(), /*migrate=*/false, &store);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("in use by an older swinfleet (schema 3"));
}

TEST_F(AccessStoreTest, TheGateLearnsOfTokensWithinASecond) {
  std::unique_ptr<JobStore> jobs;
  std::unique_ptr<LogStore> logs;
  ASSERT_TRUE(JobStore::Open(folder_.path(), &jobs).ok());
  ASSERT_TRUE(LogStore::Open(folder_.path(), {}, &logs).ok());
  ControlLoop control(jobs.get(), logs.get(), {});
  ASSERT_TRUE(control.Start().ok());
  double now = 100;
  GateOptions options;
  options.clock = options.uptime = [&now] { return now; };
  options.requests_per_second = 1;
  options.open_without_tokens = true;
  std::unique_ptr<Gate> gate;
  ASSERT_TRUE(Gate::Open(options, Open(false), &control, &gate).ok());
  const auto enter = [&](const std::string& token, Action action = Action::kView) {
    Caller caller;
    return gate->Enter({"127.0.0.1:1", false, token}, action, "x", &caller);
  };
  EXPECT_TRUE(enter("").ok());
  ASSERT_TRUE(Add(MakeToken("sam", Role::kViewer, "s")).ok());
  EXPECT_TRUE(enter("").ok());
  now += 1;
  EXPECT_EQ(enter("").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(enter("s").ok());
  EXPECT_EQ(enter("s", Action::kFence).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  Caller caller;
  ASSERT_TRUE(gate->Enter({"127.0.0.1:1", false, "s"}, Action::kView, "x", &caller).ok());
  ASSERT_TRUE(store_->RevokeToken("sam", Entry(100, "token revoke", "sam")).ok());
  EXPECT_THAT(gate->Lapsed(caller.identity), IsEmpty());
  now += 1;
  EXPECT_THAT(gate->Lapsed(caller.identity), HasSubstr("revoked"));
  // One request a second on average, and four at once.
  ASSERT_TRUE(Add(MakeToken("tom", Role::kViewer, "t")).ok());
  now += 1;
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(enter("t").ok());
  const grpc::Status often = enter("t");
  EXPECT_EQ(often.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(often.error_message(), HasSubstr("more than 1 requests a second from tom"));
  EXPECT_THAT(often.error_message(), HasSubstr("--max-request-rate"));
  // Guesses are counted against their host, not against the user.
  for (int i = 0; i < 10; ++i) enter("guess");
  EXPECT_EQ(enter("guess").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  now += 1;
  EXPECT_TRUE(enter("t").ok());
  control.Stop();
  // The refusals were recorded, and alike ones as a number.
  std::vector<std::string> results;
  uint64_t times = 0;
  for (const AuditEntry& entry : Audit()) {
    if (entry.action == "view") times += entry.times;
    if (entry.action == "fence") results.push_back(entry.who + ": " + entry.result);
  }
  EXPECT_EQ(times, 1u + 1u + 11u);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_THAT(results[0], HasSubstr("sam: sam (viewer) may not fence fleets"));
}

}  // namespace
}  // namespace swinfleet::coordinator
