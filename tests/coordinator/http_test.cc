// The HTTP port over real connections: what it shows, who is let in, and attacks on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/access_store.h"
#include "coordinator/control_loop.h"
#include "coordinator/http_api.h"
#include "coordinator/http_server.h"
#include "coordinator/job_store.h"
#include "coordinator/log_store.h"
#include "coordinator/server.h"
#include "tests/coordinator/fake_worker.h"
#include "tests/coordinator/guarded_server.h"
#include "tests/coordinator/http_client.h"

namespace swinfleet::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSpecOfA[] =
    "name: test\nrun_dir: /runs/a\ndata: {path: /data}\ntrain: {global_batch: 512}\n";

class Http : public GuardedServerTest {
 protected:
  void SetUp() override {
    GuardedServerTest::SetUp();
    options_.http = {"127.0.0.1", 0};
    options_.requests_per_second = 0;
  }
  int port() const { return server_->http_address()->port; }
  HttpHeaders With(const std::string& name, HttpHeaders headers = {}) const {
    if (!name.empty()) headers["Authorization"] = "Bearer " + texts_.at(name);
    return headers;
  }
  HttpAnswer Get(const std::string& path, const HttpHeaders& headers = {}) const {
    return AskHttp(port(), "GET", path, headers);
  }
  HttpAnswer Post(const std::string& path, HttpHeaders headers = {},
                  const std::string& body = "{}") const {
    headers.try_emplace("Content-Type", "application/json");
    return AskHttp(port(), "POST", path, headers, body);
  }
  HttpAnswer SubmitYaml(const std::string& yaml, const std::string& submission,
                        HttpHeaders headers = {}) const {
    headers["Content-Type"] = "application/yaml";
    return Post("/api/jobs?submission_id=" + submission, headers, yaml);
  }
  // Waits until what a rank said has arrived.
  HttpAnswer Await(const std::string& path, const std::string& text) const {
    HttpAnswer answer;
    for (int i = 0; i < 400; ++i) {
      answer = Get(path);
      if (answer.body.find(text) != std::string::npos) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(25));
    }
    return answer;
  }
};

// ---- What it shows ----

TEST_F(Http, ThePageIsThereForEverybodyWithItsPolicy) {
  AddTokens();
  Start();
  const std::pair<const char*, const char*> files[] = {
      {"/", "text/html"}, {"/page.js", "text/javascript"}, {"/page.css", "text/css"}};
  for (const auto& [path, type] : files) {
    HttpAnswer answer = Get(path);
    EXPECT_EQ(answer.status, 200) << path;
    EXPECT_THAT(answer.headers["content-type"], HasSubstr(type));
    EXPECT_THAT(answer.headers["content-security-policy"],
                AllOf(HasSubstr("default-src 'none'"), HasSubstr("frame-ancestors 'none'"),
                      Not(HasSubstr("unsafe"))));
    EXPECT_EQ(answer.headers["x-content-type-options"], "nosniff");
    EXPECT_GT(answer.body.size(), 1000u);
    // Nothing from elsewhere, nothing inline, and no text that becomes HTML.
    EXPECT_THAT(answer.body, Not(HasSubstr("https://")));
    EXPECT_THAT(answer.body, Not(HasSubstr("innerHTML")));
    EXPECT_THAT(answer.body, Not(HasSubstr("style=")));
    answer = AskHttp(port(), "HEAD", path);
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, "");
  }
  EXPECT_EQ(Get("/healthz").body, "ok\n");
}

TEST_F(Http, AJobIsShown) {
  Start();
  FakeUser user(address());
  const std::string id = user.Submit("/runs/a");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.hello.set_host("node7");
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  rank.Beat(id, 1, 3);
  rank.ReportProgress(id, 1, 3, 1.5);
  rank.ReportCheckpoint(id, 1, "/runs/a/checkpoints/attempt-001/step-00000003", 3);
  rank.Log(id, 1, "hello <script>alert(1)</script>");

  nlohmann::json job = Await("/api/jobs/" + id, "step-00000003").Json();
  EXPECT_EQ(job["job_id"], id);
  EXPECT_EQ(job["state"], "RUNNING");
  EXPECT_EQ(job["spec"]["run_dir"], "/runs/a");
  EXPECT_EQ(job["progress"]["step"], "3");
  EXPECT_EQ(job["progress"]["loss"], 1.5);
  ASSERT_EQ(job["ranks"].size(), 1u);
  EXPECT_EQ(job["ranks"][0]["host"], "node7");
  EXPECT_EQ(job["ranks"][0]["phase"], "train");

  const nlohmann::json history = Get("/api/jobs/" + id + "/history").Json();
  ASSERT_EQ(history["points"].size(), 1u);
  EXPECT_EQ(history["points"][0]["loss"], 1.5);
  ASSERT_EQ(history["checkpoints"].size(), 1u);
  EXPECT_EQ(history["checkpoints"][0]["step"], "3");

  HttpAnswer logs = Await("/api/jobs/" + id + "/logs", "hello");
  EXPECT_EQ(logs.headers["content-type"], "application/json");
  EXPECT_EQ(logs.Json()["lines"].back()["text"], "hello <script>alert(1)</script>");
  const std::string last = logs.Json()["lines"].back()["sequence"];
  EXPECT_EQ(Get("/api/jobs/" + id + "/logs?after=" + last).Json()["lines"].size(), 0u);

  const nlohmann::json jobs = Get("/api/jobs").Json()["jobs"];
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0]["job_id"], id);
  EXPECT_EQ(Get("/api/jobs?state=FAILED").Json()["jobs"].size(), 0u);
  const nlohmann::json fleets = Get("/api/fleets").Json()["fleets"];
  ASSERT_EQ(fleets.size(), 1u);
  EXPECT_EQ(fleets[0]["state"], "busy");
}

TEST_F(Http, RepeatedReportsOfACheckpointAreOneRecord) {
  Start();
  FakeUser user(address());
  const std::string id = user.Submit("/runs/a");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  for (int i = 0; i < 3; ++i) rank.ReportCheckpoint(id, 1, "/runs/a/c/step-1", 1);
  rank.ReportCheckpoint(id, 1, "/runs/a/c/step-2", 2);
  // Of an attempt that there is not.
  rank.ReportCheckpoint(id, 9, "/runs/a/c/step-9", 9);
  rank.ReportProgress(id, 1, 5, 1);
  const nlohmann::json history = Await("/api/jobs/" + id + "/history", "\"step\":\"5\"").Json();
  ASSERT_EQ(history["checkpoints"].size(), 2u);
  EXPECT_EQ(history["checkpoints"][1]["step"], "2");
}

TEST_F(Http, MetricsTellOfJobsQueueAndRanks) {
  Start();
  FakeUser user(address());
  SubmitJobRequest request = FakeUser::Request("/runs/a");
  request.mutable_spec()->set_name("a \"quoted\\ name\nin two lines");
  request.set_user("ann");
  SubmitJobResponse response;
  // Names have no control characters, but may have what the format itself uses.
  EXPECT_FALSE(user.Submit(request, &response).ok());
  request.mutable_spec()->set_name("a \"quoted\\ name");
  ASSERT_TRUE(user.Submit(request, &response).ok());
  const std::string id = response.job_id();
  user.Submit("/runs/b");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  rank.ReportProgress(id, 1, 42, 0.25);
  HttpAnswer answer = Await("/metrics", "swinfleet_job_step{");
  EXPECT_THAT(answer.headers["content-type"], HasSubstr("text/plain; version=0.0.4"));
  const std::string labels =
      "{job_id=\"" + id + "\",job_name=\"a \\\"quoted\\\\ name\",user=\"ann\"} ";
  for (const std::string& line :
       {"swinfleet_job_step" + labels + "42\n", "swinfleet_job_loss" + labels + "0.25\n",
        "swinfleet_job_silent_ranks" + labels + "0\n", "swinfleet_job_ranks" + labels + "1\n",
        std::string("swinfleet_jobs{state=\"running\"} 1\n"),
        std::string("swinfleet_jobs{state=\"queued\"} 1\n"),
        std::string("swinfleet_jobs{state=\"failed\"} 0\n"),
        std::string("swinfleet_queue_length 1\n"), std::string("swinfleet_store_writable 1\n"),
        std::string("swinfleet_fleet_connected_ranks{fleet=\"f\"} 1\n"),
        std::string("# TYPE swinfleet_job_restarts_total counter\n")}) {
    EXPECT_THAT(answer.body, HasSubstr(line));
  }
}

TEST_F(Http, SilentRanksAreCounted) {
  options_.settings.lost_after = 0.2;
  options_.settings.heartbeat = 0.1;
  Start();
  FakeUser user(address());
  const std::string id = user.Submit("/runs/a");
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  EXPECT_THAT(Await("/metrics", "user=\"\"} 1\n# HELP swinfleet_job_stragglers").body,
              HasSubstr("swinfleet_job_silent_ranks{job_id=\"" + id));
}

// ---- Changes ----

TEST_F(Http, JobsAreSubmittedAndCancelled) {
  Start();
  HttpAnswer answer = SubmitYaml(kSpecOfA, "s1");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const std::string id = answer.Json()["job_id"];
  EXPECT_EQ(answer.Json()["status"]["state"], "QUEUED");
  // Sent twice it is one job.
  EXPECT_EQ(SubmitYaml(kSpecOfA, "s1").Json()["job_id"], id);
  answer =
      Post("/api/jobs", {},
           R"({"submission_id": "s2", "spec": {"run_dir": "/runs/b", "data": {"path": "/d"}}})");
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(Get("/api/jobs").Json()["jobs"].size(), 2u);
  EXPECT_EQ(Post("/api/jobs/" + id + "/cancel").Json()["state"], "CANCELLED");
}

TEST_F(Http, ATraceIsAskedForAndShown) {
  Start();
  const std::string id = FakeUser(address()).Submit("/runs/a");
  const std::string path = "/api/jobs/" + id + "/trace";
  EXPECT_EQ(Post(path, {}, R"({"request_id": "t"})").status, 409);
  FakeRank rank(address(), "f", "l1", 0, 1);
  rank.Connect();
  ASSERT_TRUE(rank.Await(WorkerCommand::kAssignment).has_assignment());
  EXPECT_EQ(Post(path, {}, "{}").status, 400);
  EXPECT_EQ(Post(path, {}, R"({"request_id": "t", "steps": 21})").status, 400);
  EXPECT_EQ(Post(path, {}, R"({"request_id": "t", "ranks": [1]})").status, 400);
  EXPECT_EQ(Post(path, {}, "nonsense").status, 400);
  EXPECT_EQ(Get(path).status, 405);
  // The path alone says which job.
  HttpAnswer answer =
      Post(path, {}, R"({"request_id": "t", "ranks": [0], "steps": 2, "job_id": "j9"})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.Json()["trace"]["complete"], false);
  const TraceAttempt asked = rank.Await(WorkerCommand::kTrace).trace();
  EXPECT_EQ(asked.job_id(), id);
  EXPECT_EQ(asked.steps(), 2u);
  WorkerMessage report;
  report.mutable_trace()->set_job_id(id);
  report.mutable_trace()->set_attempt(1);
  report.mutable_trace()->set_request_id("t");
  report.mutable_trace()->mutable_trace()->set_path("/runs/a/traces/x");
  rank.Say(report);
  const nlohmann::json job = Await("/api/jobs/" + id, "/runs/a/traces/x").Json();
  EXPECT_EQ(job["trace"]["complete"], true);
}

TEST_F(Http, FaultsOfAJobAreTold) {
  Start();
  HttpAnswer answer = SubmitYaml("run_dir: /runs/a\nnmae: x\n", "s1");
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.Error(), AllOf(HasSubstr("job:2"), HasSubstr("name")));
  answer = SubmitYaml("run_dir: a\n", "s1");
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.Error(), HasSubstr("run_dir is a"));
  EXPECT_THAT(SubmitYaml(kSpecOfA, "").Error(), HasSubstr("submission id"));
  EXPECT_THAT(Post("/api/jobs", {}, "{\"spce\": {}}").Error(), HasSubstr("spce"));
  EXPECT_EQ(Post("/api/jobs", {}, std::string(100000, '[')).status, 400);
  EXPECT_EQ(Get("/api/jobs/j1-none").status, 404);
  EXPECT_EQ(Get("/api/jobs/a%2fb/logs").status, 404);
  EXPECT_EQ(Get("/api/jobs/a%20b").status, 400);
  EXPECT_EQ(Get("/api/jobs/j1?limit=x").status, 404);
  EXPECT_EQ(Get("/api/jobs?limit=x").status, 400);
  EXPECT_EQ(Get("/api/jobs?limit=-1").status, 400);
  EXPECT_EQ(Get("/api/jobs?state=BUSY").status, 400);
  EXPECT_EQ(Get("/api/jobs/j1/logs?after=99999999999999999999").status, 400);
}

// ---- Who is let in ----

TEST_F(Http, EverythingButThePageAsksForAToken) {
  AddTokens();
  Start();
  for (const char* path : {"/metrics", "/api/jobs", "/api/jobs/j1", "/api/jobs/j1/history",
                           "/api/jobs/j1/logs", "/api/fleets"}) {
    HttpAnswer answer = Get(path);
    EXPECT_EQ(answer.status, 401) << path;
    EXPECT_EQ(answer.headers["www-authenticate"], "Bearer");
    EXPECT_EQ(Get(path, {{"Authorization", "Bearer swinfleet_wrong"}}).status, 401) << path;
    // A token counts in its own header alone.
    EXPECT_EQ(Get(path, {{"Cookie", "token=" + texts_["ada"]}}).status, 401) << path;
    EXPECT_EQ(Get(path + std::string("?token=") + texts_["ada"]).status, 401) << path;
    EXPECT_EQ(Get(path, {{"Authorization", "Basic " + texts_["ada"]}}).status, 401) << path;
    EXPECT_EQ(Get(path, With("lab")).status, 403) << path;
    EXPECT_THAT(Get(path, With("vera")).status, AnyOf(200, 404)) << path;
  }
  for (const char* path : {"/api/jobs", "/api/jobs/j1/cancel", "/api/jobs/j1/trace"}) {
    EXPECT_EQ(Post(path).status, 401) << path;
    EXPECT_EQ(Post(path, With("lab")).status, 403) << path;
    EXPECT_EQ(Post(path, With("vera")).status, 403) << path;
  }
  // Not even read.
  EXPECT_EQ(Post("/api/jobs", {}, "nonsense").status, 401);
}

TEST_F(Http, RolesAndOwnersAreHeldAndAudited) {
  AddTokens();
  Start();
  EXPECT_EQ(SubmitYaml(kSpecOfA, "s1", With("vera")).status, 403);
  HttpAnswer answer = SubmitYaml(kSpecOfA, "s1", With("sam"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.Json()["status"]["user"], "sam");
  const std::string id = answer.Json()["job_id"];
  answer = Post("/api/jobs/" + id + "/cancel", With("tom"));
  EXPECT_EQ(answer.status, 403);
  EXPECT_THAT(answer.Error(), HasSubstr("tom (submitter) may not cancel job " + id + " of sam"));
  EXPECT_EQ(Post("/api/jobs/" + id + "/cancel", With("sam")).status, 200);
  server_ = nullptr;
  std::string lines;
  const auto take = [&](const AuditEntry& entry) {
    if (entry.action.empty()) return;
    EXPECT_THAT(entry.from, HasSubstr("127.0.0.1:"));
    lines += entry.who + " " + entry.role + " " + entry.action + " " + entry.subject + " " +
             entry.result + "\n";
  };
  ASSERT_TRUE(tokens_->ReadAudit(0, take).ok());
  EXPECT_THAT(lines, AllOf(HasSubstr("sam submitter submit " + id + " ok\n"),
                           HasSubstr("tom submitter cancel " + id + " tom (submitter) may not"),
                           HasSubstr("sam submitter cancel " + id + " ok\n"),
                           HasSubstr("vera viewer submit a job vera (viewer) may not")));
  for (const auto& [name, text] : texts_) EXPECT_EQ(lines.find(text), std::string::npos);
}

TEST_F(Http, TheRateIsOneForBothPorts) {
  options_.requests_per_second = 0.001;
  Start();
  FakeUser user(address());
  JobStatus job;
  EXPECT_EQ(user.TryGet("j1-none", &job).error_code(), grpc::StatusCode::NOT_FOUND);
  HttpAnswer answer = Get("/api/jobs");
  EXPECT_EQ(answer.status, 429);
  EXPECT_THAT(answer.Error(), HasSubstr("--max-request-rate"));
}

// ---- Other sites ----

TEST_F(Http, RequestsOfOtherSitesAreRefused) {
  Start();
  const std::string id = FakeUser(address()).Submit("/runs/a");
  const std::string cancel = "/api/jobs/" + id + "/cancel";
  const std::string own = "127.0.0.1:" + std::to_string(port());
  const std::vector<HttpHeaders> forged{
      {{"Sec-Fetch-Site", "cross-site"}},
      {{"Sec-Fetch-Site", "same-site"}},
      {{"Origin", "http://evil.example"}},
      {{"Origin", "null"}},
      {{"Origin", "http://127.0.0.1:1"}},
      {{"Origin", "http://" + own + ".evil.example"}},
      // What a form of another site can send.
      {{"Content-Type", "text/plain"}},
      {{"Content-Type", "application/x-www-form-urlencoded"}},
      {{"Content-Type", "multipart/form-data; boundary=x"}},
      {{"Content-Type", ""}},
      // A name of another site that leads here.
      {{"Host", "evil.example"}},
      {{"Host", "evil.example:" + std::to_string(port())}},
      {{"Host", "localhost.evil.example"}},
      {{"Host", "127.0.0.1.evil.example"}},
  };
  for (const HttpHeaders& headers : forged) {
    const HttpAnswer answer = Post(cancel, headers);
    EXPECT_EQ(answer.status, 403) << headers.begin()->first << ": " << headers.begin()->second;
    if (headers.contains("Content-Type")) continue;
    EXPECT_EQ(Get("/api/jobs", headers).status, 403) << headers.begin()->second;
    EXPECT_EQ(Get("/metrics", headers).status, 403) << headers.begin()->second;
  }
  EXPECT_EQ(FakeUser(address()).Get(id).state(), QUEUED);
  // No answer that lets a browser send more.
  HttpAnswer preflight = AskHttp(port(), "OPTIONS", cancel,
                                 {{"Origin", "http://evil.example"},
                                  {"Access-Control-Request-Method", "POST"},
                                  {"Access-Control-Request-Headers", "authorization"}});
  EXPECT_EQ(preflight.status, 405);
  EXPECT_EQ(preflight.headers.count("access-control-allow-origin"), 0u);
  EXPECT_EQ(Get("/", {{"Sec-Fetch-Site", "cross-site"}}).status, 200);
  EXPECT_EQ(Get("/api/jobs", {{"Host", "localhost"}}).status, 200);
  EXPECT_EQ(Get("/api/jobs", {{"Host", "[::1]:80"}}).status, 200);
  EXPECT_EQ(Post(cancel, {{"Origin", "http://" + own}, {"Sec-Fetch-Site", "same-origin"}}).status,
            200);
}

TEST_F(Http, NamesCountOnlyWhileThereAreNoTokens) {
  options_.http_names = {"Head.cluster"};
  Start();
  EXPECT_EQ(Get("/api/jobs", {{"Host", "head.cluster:8080"}}).status, 200);
  HttpAnswer answer = Get("/api/jobs", {{"Host", "other"}});
  EXPECT_EQ(answer.status, 403);
  EXPECT_THAT(answer.Error(), HasSubstr("--http-name other"));
  server_ = nullptr;
  AddTokens();
  Start();
  EXPECT_EQ(Get("/api/jobs", With("vera", {{"Host", "other"}})).status, 200);
}

// ---- Too much, too slow, malformed ----

TEST_F(Http, MethodsAndPathsThatThereAreNot) {
  Start();
  for (const char* method : {"PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "NONSENSE"}) {
    EXPECT_THAT(AskHttp(port(), method, "/api/jobs").status, AnyOf(405, 400)) << method;
  }
  EXPECT_EQ(Post("/api/fleets").status, 405);
  EXPECT_EQ(Post("/").status, 405);
  EXPECT_EQ(Get("/api/jobs/j1/cancel").status, 405);
  for (const char* path :
       {"/../../etc/passwd", "/page.js/..", "/%2e%2e/%2e%2e/etc/passwd", "/page.js%00.html", "/api",
        "/api/jobs/j1/other", "/api/jobs/j1/logs/x", "/web/index.html", "//", "/favicon.ico"}) {
    const HttpAnswer answer = Get(path);
    EXPECT_THAT(answer.status, AnyOf(404, 400, 200)) << path;
    EXPECT_THAT(answer.body, Not(HasSubstr("root:"))) << path;
  }
}

TEST_F(Http, MalformedRequestsDoNoHarm) {
  Start();
  for (const std::string& bytes :
       {std::string("\x16\x03\x01\x02\x00\x01\x00", 7), std::string("GET\r\n\r\n"),
        std::string("GET / HTTP/9.9\r\nHost: x\r\n\r\n"), std::string(200000, 'A'),
        "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + std::string(100000, 'x') + "\r\n\r\n",
        std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string("POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                    "application/json\r\nContent-Length: -5\r\n\r\n"),
        std::string("POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                    "application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        std::string(1000, '\0'), std::string(5000, '\n')}) {
    HttpConnection connection(port());
    connection.Send(bytes);
    // What is refused at once; the rest waits for its time to be over.
    EXPECT_THAT(Get("/healthz").status, 200) << bytes.substr(0, 40);
  }
}

TEST_F(Http, BodiesHaveALimit) {
  Start();
  const std::string large(2 << 20, ' ');
  EXPECT_THAT(SubmitYaml(large, "s1").status, AnyOf(413, 0));
  // Without a length told beforehand.
  HttpConnection connection(port());
  connection.Send(
      "POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/yaml\r\n"
      "Transfer-Encoding: chunked\r\n\r\n200000\r\n");
  connection.Send(large);
  connection.Send("\r\n0\r\n\r\n");
  EXPECT_EQ(ParseHttp(connection.ReadToEnd()).status, 0);
  EXPECT_EQ(Get("/healthz").status, 200);
}

// Kubernetes starts a coordinator again by this answer.
TEST(HealthOverHttp, ComesFromTheThreadThatOwnsTheJobs) {
  const TemporaryFolder folder;
  std::unique_ptr<JobStore> jobs;
  std::unique_ptr<LogStore> logs;
  ASSERT_TRUE(JobStore::Open(folder.path(), &jobs).ok());
  ASSERT_TRUE(LogStore::Open(folder.path(), {}, &logs).ok());
  ControlLoop loop(jobs.get(), logs.get(), Settings());
  ASSERT_TRUE(loop.Start().ok());
  HttpApi api(nullptr, &loop, nullptr, {});
  HttpRequest request;
  request.method = "GET";
  request.path = "/healthz";
  std::promise<HttpResponse> answered;
  std::promise<void> held;
  ASSERT_TRUE(loop.Query([&](const ControlView&) { held.get_future().wait(); }));
  api.Handle(request, [&](const HttpServer::Render& make) { answered.set_value(make()); });
  std::future<HttpResponse> answer = answered.get_future();
  EXPECT_EQ(answer.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  held.set_value();
  EXPECT_EQ(answer.get().status, 200);
  loop.Stop();
  int status = 0;
  api.Handle(request, [&](const HttpServer::Render& make) { status = make().status; });
  EXPECT_EQ(status, 503);
}

// A server of its own, whose limits are small; /large is more than any buffer on the way takes.
class Limits : public ::testing::Test {
 protected:
  void Start(const HttpOptions& options) {
    const auto handle = [](const HttpRequest& request, const HttpServer::Answer& answer) {
      const size_t size = request.path == "/large" ? 64 << 20 : 2;
      answer([size] { return HttpResponse{.body = std::string(size, 'x')}; });
    };
    const grpc::Status status = HttpServer::Start(options, handle, &server_);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  int port() const { return server_->address().port; }
  bool Served() const { return AskHttp(port(), "GET", "/").status == 200; }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(Limits, ConnectionsEndWhateverTheySend) {
  HttpOptions options{.listen = {"127.0.0.1", 0}};
  options.connection_seconds = 1;
  Start(options);
  HttpConnection silent(port()), slow(port());
  // A byte now and then keeps a connection from being idle.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  slow.Send("GET / HTTP/1.1\r\n");
  while (slow.Send("X: y\r\n") && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_LT(std::chrono::steady_clock::now(), until);
  EXPECT_TRUE(silent.AwaitEnd());
  EXPECT_TRUE(Served());
}

TEST_F(Limits, WhoReadsNothingKeepsNobodyOut) {
  HttpOptions options{.listen = {"127.0.0.1", 0}};
  options.connection_seconds = 2;
  Start(options);
  HttpConnection slow(port(), {}, 4096);
  slow.Send("GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Served());
  // Its connection ends before it has all.
  std::this_thread::sleep_for(std::chrono::seconds(4));
  EXPECT_LT(slow.ReadToEnd().size(), size_t{64} << 20);
}

TEST_F(Limits, ConnectionsHaveANumber) {
  HttpOptions options{.listen = {"127.0.0.1", 0}};
  options.max_connections = 8;
  options.connection_seconds = 2;
  Start(options);
  std::vector<std::unique_ptr<HttpConnection>> flood;
  for (int i = 0; i < 100; ++i) flood.push_back(std::make_unique<HttpConnection>(port()));
  // A host has half of them; the rest is closed at once.
  int open = 0;
  for (const auto& connection : flood) open += connection->AwaitEnd(0.05) ? 0 : 1;
  EXPECT_LE(open, 4);
  // The flood's time ends, and others get in.
  bool served = false;
  for (int i = 0; i < 40 && !served; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    served = Served();
  }
  EXPECT_TRUE(served);
}

TEST_F(Limits, AnAddressInUseIsTold) {
  Start(HttpOptions{.listen = {"127.0.0.1", 0}});
  std::unique_ptr<HttpServer> second;
  const grpc::Status status =
      HttpServer::Start(HttpOptions{.listen = server_->address()}, nullptr, &second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("Address already in use"), HasSubstr("--http")));
}

TEST(HttpServer, StopWaitsForAnswersThatAreOwed) {
  HttpServer::Answer owed;
  std::mutex mutex;
  std::unique_ptr<HttpServer> server;
  const auto handle = [&](const HttpRequest&, const HttpServer::Answer& answer) {
    const std::lock_guard lock(mutex);
    owed = answer;
  };
  ASSERT_TRUE(HttpServer::Start(HttpOptions{.listen = {"127.0.0.1", 0}}, handle, &server).ok());
  HttpConnection connection(server->address().port);
  connection.Send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  const auto taken = [&] {
    const std::lock_guard lock(mutex);
    return static_cast<bool>(owed);
  };
  while (!taken()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::atomic<bool> stopped{false};
  std::thread stop([&] {
    server->Stop();
    stopped = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(stopped);
  owed([] { return HttpResponse{.body = "late"}; });
  stop.join();
  EXPECT_TRUE(stopped);
}

// ---- TLS ----

class HttpsTest : public WithCertificates<Http> {
 protected:
  HttpAnswer Try(const HttpTls& tls, const std::string& name = "vera") const {
    return AskHttp(port(), "GET", "/api/jobs", With(name), "", tls);
  }
  HttpTls Client(const std::string& name) const {
    return {authority_.pem(), Path(name + ".pem"), Path(name + ".key")};
  }
};

TEST_F(HttpsTest, ClientsThatTrustTheAuthorityGetIn) {
  StartTls(/*mutual=*/false);
  EXPECT_EQ(Try({authority_.pem()}).status, 200);
  EXPECT_EQ(Try({authority_.pem()}, "").status, 401);
  // A coordinator that somebody else plays, and plain text.
  EXPECT_EQ(Try({other_.pem()}).status, 0);
  EXPECT_EQ(Try({}).status, 0);
}

TEST_F(HttpsTest, MutualTlsAsksForACertificate) {
  StartTls(/*mutual=*/true);
  EXPECT_EQ(Try(Client("client")).status, 200);
  // A certificate is no token, and a token no certificate.
  EXPECT_EQ(Try(Client("client"), "").status, 401);
  EXPECT_NE(Try({authority_.pem()}).status, 200);
  EXPECT_NE(Try(Client("stranger")).status, 200);
  EXPECT_NE(AskHttp(port(), "GET", "/", {}, "", {authority_.pem()}).status, 200);
}

}  // namespace
}  // namespace swinfleet::coordinator
