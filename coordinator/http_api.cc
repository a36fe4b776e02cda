#include "coordinator/http_api.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "coordinator/clock.h"
#include "coordinator/metrics.h"
#include "coordinator/web_page.h"
#include "proto/connection.h"
#include "proto/job_yaml.h"
#include "proto/message_json.h"
#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

using Answer = HttpServer::Answer;

constexpr char kJson[] = "application/json";
constexpr char kYaml[] = "application/yaml";

int HttpStatus(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return 200;
    case grpc::StatusCode::INVALID_ARGUMENT:
      return 400;
    case grpc::StatusCode::UNAUTHENTICATED:
      return 401;
    case grpc::StatusCode::PERMISSION_DENIED:
      return 403;
    case grpc::StatusCode::NOT_FOUND:
      return 404;
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::ALREADY_EXISTS:
      return 409;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return 429;
    case grpc::StatusCode::UNAVAILABLE:
      return 503;
    default:
      return 500;
  }
}

// {"error": "there is no job j1"}
HttpResponse Error(int status, const std::string& message) {
  HttpResponse response{.status = status, .content_type = kJson};
  response.body = nlohmann::json{{"error", message}}.dump(
                      -1, ' ', false, nlohmann::json::error_handler_t::replace) +
                  "\n";
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse Error(const grpc::Status& status) {
  return Error(HttpStatus(status.error_code()), status.error_message());
}

void Refuse(const Answer& answer, int status, const std::string& message) {
  answer([status, message] { return Error(status, message); });
}

HttpResponse AsJson(const google::protobuf::Message& message) {
  HttpResponse response{.content_type = kJson};
  return AppendJson(message, &response.body).ok()
             ? response
             : Error(500, "the answer can't be written as JSON");
}

// What UserRequests calls. The text is made on the HTTP server's thread.
template <class Response>
UserRequests::Answer<Response> JsonAnswer(const Answer& answer) {
  return [answer](const grpc::Status& status, Response response) {
    if (!status.ok()) return answer([status] { return Error(status); });
    const auto kept = std::make_shared<Response>(std::move(response));
    answer([kept] { return AsJson(*kept); });
  };
}

std::vector<std::string> Split(const std::string& path) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin < path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    parts.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// "application/json" of "application/json; charset=utf-8".
std::string ContentType(const HttpRequest& request) {
  std::string type = LowerCase(request.Header("content-type"));
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.pop_back();
  return type;
}

// A whole number of the query; false: it is something else. Absent: `value` stays.
template <class Number>
bool QueryNumber(const HttpRequest& request, const std::string& name, Number* value) {
  const auto found = request.query.find(name);
  if (found == request.query.end()) return true;
  const char* end = found->second.data() + found->second.size();
  const auto [stop, error] = std::from_chars(found->second.data(), end, *value);
  return error == std::errc() && stop == end;
}

bool IsAddress(const std::string& host) {
  unsigned char bytes[sizeof(in6_addr)];
  if (inet_pton(AF_INET, host.c_str(), bytes) == 1) return true;
  if (host.size() < 2 || host.front() != '[' || host.back() != ']') return false;
  return inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), bytes) == 1;
}

// Takes the path's part; false: the method is not one of it, which was answered.
bool Takes(const HttpRequest& request, const char* method, const Answer& answer) {
  if (request.method == method) return true;
  answer([allowed = std::string(method)] {
    HttpResponse response = Error(405, "only " + allowed + " is taken here");
    response.headers.emplace_back("Allow", allowed);
    return response;
  });
  return false;
}

}  // namespace

void HttpApi::Handle(const HttpRequest& request, const Answer& answer) {
  if (const WebFile* file = FindWebFile(request.path); file != nullptr) {
    if (!Takes(request, "GET", answer)) return;
    return answer([file] {
      return HttpResponse{.content_type = file->content_type, .body = std::string(file->text)};
    });
  }
  if (request.path == "/healthz") {
    if (Takes(request, "GET", answer)) Health(answer);
    return;
  }
  const bool api = request.path.starts_with("/api/");
  if (!api && request.path != "/metrics") {
    return Refuse(answer, 404, "there is nothing here; the page is at /, metrics at /metrics");
  }
  if (const std::string fault = CrossSiteFault(request); !fault.empty()) {
    return Refuse(answer, 403, fault);
  }
  if (api) return Route(request, Split(request.path.substr(5)), answer);
  if (Takes(request, "GET", answer)) Metrics(request, answer);
}

bool HttpApi::KnownHost(const std::string& host) const {
  return IsAddress(host) || host == "localhost" ||
         std::any_of(names_.begin(), names_.end(),
                     [&](const std::string& name) { return LowerCase(name) == host; });
}

std::string HttpApi::CrossSiteFault(const HttpRequest& request) const {
  const std::string site = request.Header("sec-fetch-site");
  if (!site.empty() && site != "same-origin" && site != "none") {
    return "the browser says that another site asks (Sec-Fetch-Site: " + site + ")";
  }
  const std::string host = LowerCase(request.Header("host"));
  const std::string origin = LowerCase(request.Header("origin"));
  if (!origin.empty()) {
    const size_t scheme = origin.find("://");
    if (scheme == std::string::npos || origin.substr(scheme + 3) != host) {
      return "the browser says that another site asks (Origin: " + origin + ", Host: " + host + ")";
    }
  }
  // HostOf takes the port away, which is optional here.
  const bool port = !host.ends_with(']') && host.find(':') != std::string::npos;
  const std::string name = port ? HostOf(host) : host;
  if (gate_->open() && !KnownHost(name)) {
    return "nobody is asked for a token here, and Host is " + name +
           ": without a token use the address, or start the coordinator with --http-name " + name;
  }
  if (request.method != "POST") return "";
  const std::string type = ContentType(request);
  if (type == kJson || type == kYaml) return "";
  return "a POST needs Content-Type " + std::string(kJson) + " (or for a job " + kYaml +
         "), which no plain form can send";
}

void HttpApi::Health(const Answer& answer) {
  const auto good = [answer](const ControlView&) {
    answer([] { return HttpResponse{.body = "ok\n"}; });
  };
  if (!control_->Query(good)) Refuse(answer, 503, "the coordinator is overloaded or stopping");
}

void HttpApi::Metrics(const HttpRequest& request, const Answer& answer) {
  Caller caller;
  const grpc::Status status = gate_->Enter(request.peer, Action::kView, "metrics", &caller);
  if (!status.ok()) return answer([status] { return Error(status); });
  const auto query = [answer](const ControlView& view) {
    const auto snapshot = std::make_shared<MetricsSnapshot>(TakeMetrics(view, UnixTime()));
    answer([snapshot] {
      return HttpResponse{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .body = FormatMetrics(*snapshot)};
    });
  };
  if (!control_->Query(query)) Refuse(answer, 503, "the coordinator is overloaded or stopping");
}

void HttpApi::Route(const HttpRequest& request, const std::vector<std::string>& path,
                    const Answer& answer) {
  if (path == std::vector<std::string>{"jobs"}) {
    if (request.method == "POST") return Submit(request, answer);
    return List(request, answer);
  }
  if (path == std::vector<std::string>{"fleets"}) {
    if (!Takes(request, "GET", answer)) return;
    return requests_->ListFleets(request.peer, {}, JsonAnswer<ListFleetsResponse>(answer));
  }
  if (path.size() >= 2 && path[0] == "jobs") return RouteJob(request, path, answer);
  Refuse(answer, 404,
         "there is no " + request.path + "; docs/observability.md lists what there is");
}

void HttpApi::RouteJob(const HttpRequest& request, const std::vector<std::string>& path,
                       const Answer& answer) {
  const std::string what = path.size() == 2 ? "" : path.size() == 3 ? path[2] : "?";
  GetJobRequest job;
  job.set_job_id(path[1]);
  if (what.empty()) {
    if (!Takes(request, "GET", answer)) return;
    return requests_->GetJob(request.peer, job, JsonAnswer<JobStatus>(answer));
  }
  if (what == "history") {
    if (!Takes(request, "GET", answer)) return;
    return requests_->GetHistory(request.peer, job, JsonAnswer<JobHistory>(answer));
  }
  if (what == "logs") {
    if (Takes(request, "GET", answer)) Logs(request, path[1], answer);
    return;
  }
  if (what == "cancel") {
    if (!Takes(request, "POST", answer)) return;
    CancelJobRequest cancel;
    cancel.set_job_id(path[1]);
    return requests_->CancelJob(request.peer, cancel, JsonAnswer<JobStatus>(answer));
  }
  if (what == "trace") {
    if (Takes(request, "POST", answer)) Trace(request, path[1], answer);
    return;
  }
  Refuse(answer, 404,
         "there is no " + request.path + "; docs/observability.md lists what there is");
}

void HttpApi::List(const HttpRequest& request, const Answer& answer) {
  ListJobsRequest list;
  uint32_t limit = 0;
  if (!QueryNumber(request, "limit", &limit)) return Refuse(answer, 400, "limit is not a number");
  list.set_limit(limit);
  if (const auto state = request.query.find("state"); state != request.query.end()) {
    JobState parsed = JOB_STATE_UNSPECIFIED;
    if (!JobState_Parse(state->second, &parsed)) {
      return Refuse(answer, 400, "there is no job state " + state->second);
    }
    list.add_states(parsed);
  }
  requests_->ListJobs(request.peer, list, JsonAnswer<ListJobsResponse>(answer));
}

void HttpApi::Logs(const HttpRequest& request, const std::string& job_id, const Answer& answer) {
  GetLogsRequest logs;
  uint64_t after = 0;
  uint32_t limit = 0;
  if (!QueryNumber(request, "after", &after) || !QueryNumber(request, "limit", &limit)) {
    return Refuse(answer, 400, "after and limit are whole numbers");
  }
  logs.set_job_id(job_id);
  logs.set_after(after);
  logs.set_limit(limit);
  requests_->GetLogs(request.peer, logs, JsonAnswer<GetLogsResponse>(answer));
}

// The body is TraceJobRequest in JSON, of the job that the path names.
void HttpApi::Trace(const HttpRequest& request, const std::string& job_id, const Answer& answer) {
  // Once more than the request itself does, so that no stranger's text is even read.
  Caller caller;
  const grpc::Status entered = gate_->Enter(request.peer, Action::kTrace, job_id, &caller);
  if (!entered.ok()) return answer([entered] { return Error(entered); });
  TraceJobRequest trace;
  if (const auto status = google::protobuf::util::JsonStringToMessage(request.body, &trace);
      !status.ok()) {
    return Refuse(answer, 400, "the body is not a TraceJobRequest: " + status.ToString());
  }
  trace.set_job_id(job_id);
  requests_->TraceJob(request.peer, trace, JsonAnswer<JobStatus>(answer));
}

// The body is a job file, or SubmitJobRequest in JSON. The protocol version is this program's own:
// JSON names its fields.
void HttpApi::Submit(const HttpRequest& request, const Answer& answer) {
  // Once more than the request itself does, so that no stranger's text is even read.
  Caller caller;
  const grpc::Status entered = gate_->Enter(request.peer, Action::kSubmit, "a job", &caller);
  if (!entered.ok()) return answer([entered] { return Error(entered); });
  SubmitJobRequest submit;
  if (ContentType(request) == kYaml) {
    const JobFileErrors errors = ParseJobYaml(request.body, "job", submit.mutable_spec());
    if (!errors.ok()) {
      std::string faults = errors.ToString();
      while (faults.ends_with('\n')) faults.pop_back();
      return Refuse(answer, 400, faults);
    }
    const auto id = request.query.find("submission_id");
    if (id != request.query.end()) submit.set_submission_id(id->second);
  } else if (const auto status = google::protobuf::util::JsonStringToMessage(request.body, &submit);
             !status.ok()) {
    return Refuse(answer, 400, "the body is not a SubmitJobRequest: " + status.ToString());
  }
  submit.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  requests_->SubmitJob(request.peer, submit, JsonAnswer<SubmitJobResponse>(answer));
}

}  // namespace swinfleet::coordinator
