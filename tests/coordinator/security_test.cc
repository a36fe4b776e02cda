// Attacks on the services over real connections: without tokens, with those of others, over TLS and
// without, too much and too often.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/access_store.h"
#include "coordinator/server.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/guarded_server.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using Code = grpc::StatusCode;

class Security : public GuardedServerTest {
 protected:
  // What a client has that was given this token (or other text); empty: none.
  Credentials With(const std::string& token, const ConnectionOptions& tls = {}) {
    ConnectionOptions options = tls;
    if (!token.empty()) {
      options.token_file = folder_.path() + "/token";
      std::ofstream(options.token_file) << (texts_.contains(token) ? texts_[token] : token);
      chmod(options.token_file.c_str(), 0600);
    }
    Credentials credentials;
    EXPECT_EQ(Credentials::Read(options, address(), &credentials), "");
    // It reads its file for every request, and the next client has another.
    if (!token.empty()) {
      const std::string own = options.token_file + std::to_string(++files_);
      rename(options.token_file.c_str(), own.c_str());
      options.token_file = own;
      EXPECT_EQ(Credentials::Read(options, address(), &credentials), "");
    }
    return credentials;
  }
  std::unique_ptr<FakeUser> User(const std::string& token) {
    return std::make_unique<FakeUser>(address(), With(token));
  }
  static grpc::Status TrySubmit(FakeUser* user, const std::string& run_dir,
                                const std::string& claimed = "") {
    SubmitJobRequest request = FakeUser::Request(run_dir);
    request.set_user(claimed);
    SubmitJobResponse response;
    return user->Submit(request, &response);
  }
  std::vector<AuditEntry> Audit() {
    std::vector<AuditEntry> entries;
    const auto take = [&](const AuditEntry& entry) {
      if (!entry.action.empty()) entries.push_back(entry);
    };
    EXPECT_TRUE(tokens_->ReadAudit(0, take).ok());
    return entries;
  }

  int files_ = 0;
};

grpc::Status Trace(FakeUser* user, const std::string& job_id) {
  TraceJobRequest request;
  request.set_job_id(job_id);
  request.set_request_id("t");
  grpc::ClientContext context;
  JobStatus job;
  return user->coordinator->TraceJob(&context, request, &job);
}

// Calls a method by its name with an empty message, so that none can be forgotten here.
grpc::Status CallByName(const std::shared_ptr<grpc::Channel>& channel, const std::string& method) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, method, &queue);
  void* tag = nullptr;
  bool good = false;
  call->StartCall(reinterpret_cast<void*>(1));
  queue.Next(&tag, &good);
  grpc::ByteBuffer request(nullptr, 0), response;
  if (good) {
    call->WriteLast(request, grpc::WriteOptions(), reinterpret_cast<void*>(2));
    queue.Next(&tag, &good);
  }
  grpc::Status status;
  call->Read(&response, reinterpret_cast<void*>(3));
  queue.Next(&tag, &good);
  call->Finish(&status, reinterpret_cast<void*>(4));
  queue.Next(&tag, &good);
  queue.Shutdown();
  while (queue.Next(&tag, &good)) {
  }
  return status;
}

TEST_F(Security, EveryMethodAsksForAToken) {
  AddTokens();
  Start();
  int methods = 0;
  for (const auto* service : {google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
                                  "swinfleet.Coordinator"),
                              google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
                                  "swinfleet.FleetService")}) {
    ASSERT_NE(service, nullptr);
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string name = "/" + service->full_name() + "/" + service->method(i)->name();
      for (const char* token : {"", "swinfleet_wrong", "old"}) {
        const auto channel = With(token).Connect(address(), grpc::ChannelArguments());
        const grpc::Status status = CallByName(channel, name);
        EXPECT_EQ(status.error_code(), Code::UNAUTHENTICATED)
            << name << " '" << token << "' " << status.error_message();
        ++methods;
      }
      // The one role that may do nothing there.
      const bool for_fleets = service->name() == "FleetService";
      const auto channel =
          With(for_fleets ? "ada" : "lab").Connect(address(), grpc::ChannelArguments());
      EXPECT_EQ(CallByName(channel, name).error_code(), Code::PERMISSION_DENIED) << name;
    }
  }
  EXPECT_GE(methods, 3 * 10);
}

TEST_F(Security, WithoutTokensALoopbackCoordinatorIsOpen) {
  Start();
  FakeUser user(address());
  EXPECT_TRUE(TrySubmit(&user, "/r", "ann").ok());
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  EXPECT_TRUE(rank.Next().has_welcome());
  EXPECT_TRUE(rank.Next().has_assignment());
  const std::vector<AuditEntry> entries = Audit();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].who, "ann");
  EXPECT_EQ(entries[0].role, "open");
}

TEST_F(Security, WithoutTokensOneThatOthersReachIsClosed) {
  options_.open_without_tokens = false;
  Start();
  FakeUser user(address());
  const grpc::Status status = TrySubmit(&user, "/r");
  EXPECT_EQ(status.error_code(), Code::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("swinfleet-coordinator token add"));
}

TEST_F(Security, RolesAreHeld) {
  AddTokens();
  Start();
  const auto vera = User("vera"), sam = User("sam"), ada = User("ada"), lab = User("lab");
  const grpc::Status status = TrySubmit(vera.get(), "/v");
  EXPECT_EQ(status.error_code(), Code::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(),
              HasSubstr("vera (viewer) may not submit jobs; that takes a token with the role "
                        "submitter"));
  const std::string id = sam->Submit("/s");
  EXPECT_EQ(vera->Get(id).state(), QUEUED);
  EXPECT_EQ(vera->Cancel(id).error_code(), Code::PERMISSION_DENIED);
  EXPECT_THAT(Trace(vera.get(), id).error_message(),
              HasSubstr("vera (viewer) may not record traces of jobs"));
  EXPECT_EQ(lab->Cancel(id).error_code(), Code::PERMISSION_DENIED);
  JobStatus job;
  EXPECT_EQ(lab->TryGet(id, &job).error_code(), Code::PERMISSION_DENIED);
  for (FakeUser* user : {vera.get(), sam.get(), lab.get()}) {
    EXPECT_EQ(user->Fence("f").error_code(), Code::PERMISSION_DENIED);
    LaunchDirective directive;
    EXPECT_EQ(user->Report("f", "l1", LAUNCH_RUNNING, &directive).error_code(),
              user == lab.get() ? Code::OK : Code::PERMISSION_DENIED);
  }
  EXPECT_EQ(ada->Fence("none").error_code(), Code::NOT_FOUND);
  // Nobody but a fleet gets work.
  FakeRank spy(address(), "spy", "l1", 0, 1, With("sam"));
  spy.Connect();
  EXPECT_TRUE(spy.AwaitEnd());
  EXPECT_EQ(spy.Finish().error_code(), Code::PERMISSION_DENIED);
  EXPECT_EQ(spy.Next(0).command_case(), 0);
  FakeRank rank(address(), "lab", "l1", 0, 1, With("lab"));
  rank.Connect();
  EXPECT_TRUE(rank.Next().has_welcome());
  EXPECT_EQ(rank.Next().assignment().job_id(), id);
}

TEST_F(Security, JobsBelongToWhoSubmitsThem) {
  AddTokens();
  Start();
  const auto sam = User("sam"), tom = User("tom"), ada = User("ada");
  // Whatever the client says.
  SubmitJobRequest request = FakeUser::Request("/s");
  request.set_user("tom");
  SubmitJobResponse response;
  ASSERT_TRUE(sam->Submit(request, &response).ok());
  const std::string id = response.job_id();
  EXPECT_EQ(response.status().user(), "sam");
  const grpc::Status status = tom->Cancel(id);
  EXPECT_EQ(status.error_code(), Code::PERMISSION_DENIED);
  EXPECT_THAT(status.error_message(),
              HasSubstr("tom (submitter) may not cancel job " + id + " of sam"));
  EXPECT_EQ(sam->Get(id).state(), QUEUED);
  EXPECT_THAT(Trace(tom.get(), id).error_message(),
              HasSubstr("tom (submitter) may not trace job " + id + " of sam"));
  // Which they may, but it does not run.
  for (FakeUser* user : {sam.get(), ada.get()}) {
    EXPECT_EQ(Trace(user, id).error_code(), Code::FAILED_PRECONDITION);
  }
  EXPECT_TRUE(sam->Cancel(id).ok());
  EXPECT_EQ(sam->Get(id).state(), CANCELLED);
  const std::string other = tom->Submit("/t");
  EXPECT_TRUE(ada->Cancel(other).ok());
  EXPECT_EQ(tom->Cancel("j99-none").error_code(), Code::NOT_FOUND);
}

TEST_F(Security, QuotasCountByToken) {
  options_.settings.max_user_jobs = 1;
  AddTokens();
  Start();
  const auto sam = User("sam");
  EXPECT_TRUE(TrySubmit(sam.get(), "/1", "a").ok());
  EXPECT_EQ(TrySubmit(sam.get(), "/2", "b").error_code(), Code::RESOURCE_EXHAUSTED);
}

TEST_F(Security, RevokedTokensEndStreams) {
  AddTokens();
  Start();
  FakeRank rank(address(), "lab", "l1", 0, 1, With("lab"));
  rank.Connect();
  ASSERT_TRUE(rank.Next().has_welcome());
  const auto vera = User("vera");
  const std::string id = User("sam")->Submit("/s");
  ASSERT_TRUE(rank.Next().has_assignment());
  grpc::ClientContext context;
  GetJobRequest watch;
  watch.set_job_id(id);
  const auto watcher = vera->coordinator->WatchJob(&context, watch);
  JobStatus status;
  ASSERT_TRUE(watcher->Read(&status));
  AuditEntry entry;
  entry.time = 1000;
  ASSERT_TRUE(tokens_->RevokeToken("lab", entry).ok());
  ASSERT_TRUE(tokens_->RevokeToken("vera", entry).ok());
  // Known within a second, and told with what comes next.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!rank.AwaitEnd(0.1) && std::chrono::steady_clock::now() < deadline) rank.Beat(id, 1, 1);
  ASSERT_TRUE(rank.AwaitEnd(0));
  grpc::Status end = rank.Finish();
  EXPECT_EQ(end.error_code(), Code::UNAUTHENTICATED);
  EXPECT_THAT(end.error_message(), HasSubstr("the token of lab was revoked"));
  ASSERT_TRUE(User("ada")->Cancel(id).ok());
  while (watcher->Read(&status)) {
  }
  EXPECT_EQ(watcher->Finish().error_code(), Code::UNAUTHENTICATED);
  rank.Connect();
  EXPECT_TRUE(rank.AwaitEnd());
  EXPECT_EQ(rank.Finish().error_code(), Code::UNAUTHENTICATED);
}

TEST_F(Security, ATokenThatIsReplacedInItsFileIsUsedAtOnce) {
  AddTokens();
  Start();
  ConnectionOptions options;
  options.token_file = folder_.path() + "/own";
  std::ofstream(options.token_file) << texts_["old"];
  chmod(options.token_file.c_str(), 0600);
  Credentials credentials;
  ASSERT_EQ(Credentials::Read(options, address(), &credentials), "");
  FakeUser user(address(), credentials);
  EXPECT_EQ(TrySubmit(&user, "/r").error_code(), Code::UNAUTHENTICATED);
  std::ofstream(options.token_file) << texts_["sam"];
  EXPECT_TRUE(TrySubmit(&user, "/r").ok());
  // While it can't be read, the one before is used.
  std::filesystem::remove(options.token_file);
  EXPECT_TRUE(TrySubmit(&user, "/r2").ok());
}

TEST_F(Security, ChangesAndRefusalsAreAudited) {
  AddTokens();
  Start();
  const std::string id = User("sam")->Submit("/s");
  EXPECT_EQ(User("tom")->Cancel(id).error_code(), Code::PERMISSION_DENIED);
  EXPECT_EQ(Trace(User("sam").get(), id).error_code(), Code::FAILED_PRECONDITION);
  EXPECT_TRUE(User("ada")->Cancel(id).ok());
  EXPECT_EQ(User("old")->Fence("f").error_code(), Code::UNAUTHENTICATED);
  const auto nobody = User("");
  EXPECT_EQ(nobody->Fence("f").error_code(), Code::UNAUTHENTICATED);
  EXPECT_EQ(nobody->Fence("g").error_code(), Code::UNAUTHENTICATED);
  EXPECT_EQ(User("ada")->Fence("f").error_code(), Code::NOT_FOUND);
  server_ = nullptr;
  std::string lines;
  for (const AuditEntry& entry : Audit()) {
    lines += entry.who + " " + entry.role + " " + entry.action + " " + entry.subject + " x" +
             std::to_string(entry.times) + " " + entry.result + "\n";
    EXPECT_THAT(entry.from, HasSubstr("127.0.0.1:"));
    EXPECT_GT(entry.time, 1e9);
  }
  EXPECT_THAT(lines, HasSubstr("sam submitter submit " + id + " x1 ok\n"));
  EXPECT_THAT(lines, HasSubstr("tom submitter cancel " + id + " x1 tom (submitter) may not"));
  EXPECT_THAT(lines, HasSubstr("ada admin cancel " + id + " x1 ok\n"));
  EXPECT_THAT(lines, HasSubstr("sam submitter trace " + id + " x1 job " + id + " is QUEUED"));
  EXPECT_THAT(lines, HasSubstr("old admin fence f x1 the token of old has expired"));
  EXPECT_THAT(lines, HasSubstr(" unknown fence f x1 no token was sent"));
  EXPECT_THAT(lines, HasSubstr(" unknown fence g x1 no token was sent"));
  EXPECT_THAT(lines, HasSubstr("ada admin fence f x1 there is no fleet"));
  for (const auto& [name, text] : texts_) EXPECT_EQ(lines.find(text), std::string::npos);
}

TEST_F(Security, PathsStayInTheirRoots) {
  options_.settings.roots = {{"/runs"}, {"/data"}};
  Start();
  FakeUser user(address());
  const auto expect = [&](const std::function<void(JobSpec*)>& change, const std::string& fault) {
    SubmitJobRequest request = FakeUser::Request("/runs/x" + fault);
    request.mutable_spec()->mutable_data()->set_path("/data/x");
    change(request.mutable_spec());
    SubmitJobResponse response;
    const grpc::Status status = user.Submit(request, &response);
    EXPECT_EQ(status.error_code(), fault.empty() ? Code::OK : Code::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(fault));
  };
  expect([](JobSpec*) {}, "");
  expect([](JobSpec* s) { s->set_run_dir("/runs/../etc/cron.d"); }, "run_dir is /etc/cron.d");
  expect([](JobSpec* s) { s->set_run_dir("/runs2/a"); }, "run_dir is /runs2/a");
  expect([](JobSpec* s) { s->mutable_data()->set_path("/data/../root"); }, "data.path is");
  expect([](JobSpec* s) { s->mutable_data()->set_path("data"); }, "data.path is data");
  expect([](JobSpec* s) { s->mutable_parallel()->set_offload_dir("/home/sam"); },
         "parallel.offload_dir is /home/sam");
  expect([](JobSpec* s) { s->mutable_model()->set_init_from("/etc/shadow"); },
         "model.init_from is /etc/shadow");
}

TEST_F(Security, WorkersAreToldOfTheRoots) {
  options_.settings.roots = {{"/runs", "/scratch"}, {"/data"}};
  Start();
  FakeUser user(address());
  SubmitJobRequest request = FakeUser::Request("/runs/x");
  SubmitJobResponse response;
  ASSERT_TRUE(user.Submit(request, &response).ok());
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  const Assignment assignment = rank.Await(WorkerCommand::kAssignment).assignment();
  EXPECT_THAT(assignment.run_roots(), ::testing::ElementsAre("/runs", "/scratch"));
  EXPECT_THAT(assignment.data_roots(), ::testing::ElementsAre("/data"));
}

TEST_F(Security, MessagesHaveALimit) {
  options_.max_message_bytes = 1 << 16;
  Start();
  FakeUser user(address());
  SubmitJobRequest request = FakeUser::Request("/r");
  request.mutable_spec()->set_name(std::string(1 << 16, 'n'));
  SubmitJobResponse response;
  const grpc::Status status = user.Submit(request, &response);
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("larger than max"));
  EXPECT_TRUE(TrySubmit(&user, "/r").ok());
}

TEST_F(Security, MalformedMessagesAreRefused) {
  Start();
  const auto channel = Credentials().Connect(address(), grpc::ChannelArguments());
  grpc::GenericStub stub(channel);
  for (const std::string& bytes : {std::string("\xff\xff\xff\xff"), std::string(1000, '\x0a'),
                                   std::string("\x0a\xff\x7f"), std::string("\x0a\x02\x0a\x7f")}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    grpc::CompletionQueue queue;
    const grpc::Slice slice(bytes);
    const auto call = stub.PrepareUnaryCall(&context, "/swinfleet.Coordinator/SubmitJob",
                                            grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool good = false;
    queue.Next(&tag, &good);
    // Versions of gRPC say it differently: 1.51 takes the method for one that is not there.
    EXPECT_THAT(status.error_code(),
                AnyOf(Code::INTERNAL, Code::INVALID_ARGUMENT, Code::UNIMPLEMENTED));
  }
  FakeUser user(address());
  EXPECT_TRUE(TrySubmit(&user, "/r").ok());
}

TEST_F(Security, RequestsHaveARate) {
  // The second one would have to wait for a thousand seconds.
  options_.requests_per_second = 0.001;
  Start();
  FakeUser user(address());
  EXPECT_TRUE(TrySubmit(&user, "/r").ok());
  const grpc::Status status = TrySubmit(&user, "/r");
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("requests a second from 127.0.0.1"),
                                            HasSubstr("--max-request-rate")));
}

TEST_F(Security, TheQueueHasALength) {
  options_.settings.max_open_jobs = 2;
  Start();
  FakeUser user(address());
  EXPECT_TRUE(TrySubmit(&user, "/1").ok());
  const std::string id = user.Submit("/2");
  const grpc::Status status = TrySubmit(&user, "/3");
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-open-jobs"));
  EXPECT_TRUE(user.Cancel(id).ok());
  EXPECT_TRUE(TrySubmit(&user, "/3").ok());
}

TEST_F(Security, WorkersAndWatchersHaveANumber) {
  options_.settings.max_workers = 1;
  options_.settings.max_watchers = 1;
  Start();
  FakeRank first(address(), "f", "l1", 0, 2), second(address(), "f", "l1", 1, 2);
  first.Connect();
  ASSERT_TRUE(first.Next().has_welcome());
  second.Connect();
  EXPECT_TRUE(second.AwaitEnd());
  grpc::Status status = second.Finish();
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-workers"));

  FakeUser user(address());
  GetJobRequest request;
  request.set_job_id(user.Submit("/r"));
  grpc::ClientContext one, two;
  const auto watcher = user.coordinator->WatchJob(&one, request);
  JobStatus job;
  ASSERT_TRUE(watcher->Read(&job));
  const auto other = user.coordinator->WatchJob(&two, request);
  EXPECT_FALSE(other->Read(&job));
  status = other->Finish();
  EXPECT_EQ(status.error_code(), Code::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-watchers"));
  one.TryCancel();
  watcher->Finish();
}

class Tls : public WithCertificates<Security> {
 protected:
  ConnectionOptions Client(const std::string& authority, const std::string& name = "") const {
    ConnectionOptions options;
    options.ca_file = authority;
    if (!name.empty()) {
      options.certificate_file = Path(name + ".pem");
      options.key_file = Path(name + ".key");
    }
    return options;
  }
  grpc::Status Try(const ConnectionOptions& tls, const std::string& token = "sam") {
    FakeUser user(address(), With(token, tls));
    JobStatus job;
    return user.TryGet("j1-none", &job);
  }
};

TEST_F(Tls, ClientsThatTrustTheAuthorityGetIn) {
  StartTls(/*mutual=*/false);
  EXPECT_EQ(Try(Client(authority_.pem())).error_code(), Code::NOT_FOUND);
  EXPECT_EQ(Try(Client(authority_.pem()), "").error_code(), Code::UNAUTHENTICATED);
  // A coordinator that somebody else plays.
  EXPECT_EQ(Try(Client(other_.pem())).error_code(), Code::UNAVAILABLE);
  // In plain text.
  EXPECT_EQ(Try({}).error_code(), Code::UNAVAILABLE);
}

TEST_F(Tls, MutualTlsAsksForACertificate) {
  StartTls(/*mutual=*/true);
  EXPECT_EQ(Try(Client(authority_.pem(), "client")).error_code(), Code::NOT_FOUND);
  // A certificate is no token.
  EXPECT_EQ(Try(Client(authority_.pem(), "client"), "").error_code(), Code::UNAUTHENTICATED);
  EXPECT_EQ(Try(Client(authority_.pem())).error_code(), Code::UNAVAILABLE);
  EXPECT_EQ(Try(Client(authority_.pem(), "stranger")).error_code(), Code::UNAVAILABLE);
}

TEST_F(Tls, WorkersServeOverIt) {
  StartTls(/*mutual=*/true);
  FakeRank rank(address(), "lab", "l1", 0, 1, With("lab", Client(authority_.pem(), "client")));
  rank.Connect();
  EXPECT_TRUE(rank.Next().has_welcome());
}

TEST_F(Tls, FilesThatDoNotWorkAreErrors) {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  const auto fault = [&](const std::string& certificate, const std::string& key,
                         const std::string& client_ca = "") {
    return MakeServerCredentials({certificate, key, client_ca}, &credentials);
  };
  EXPECT_EQ(fault(Path("server.pem"), Path("server.key"), authority_.pem()), "");
  EXPECT_THAT(fault(Path("server.pem"), ""), HasSubstr("belong together"));
  EXPECT_THAT(fault("", "", authority_.pem()), HasSubstr("--tls-client-ca is of no use"));
  EXPECT_THAT(fault(Path("server.pem"), Path("client.key")), HasSubstr("is not the key of"));
  EXPECT_THAT(fault(Path("server.pem"), Path("none")), HasSubstr("No such file"));
  EXPECT_THAT(fault(Path("server.pem"), Path("server.key"), Path("server.key")),
              HasSubstr("has no certificate"));
  chmod(Path("server.key").c_str(), 0644);
  EXPECT_THAT(fault(Path("server.pem"), Path("server.key")), HasSubstr("chmod 600"));
}

}  // namespace
}  // namespace swinfleet::coordinator
