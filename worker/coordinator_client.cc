#include "worker/coordinator_client.h"

#include <glog/logging.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "proto/coordinator.grpc.pb.h"
#include "worker/host_name.h"
#include "worker/outbox.h"
#include "worker/print_reporter.h"
#include "worker/utf8.h"

namespace swinfleet {
namespace {

using Clock = std::chrono::steady_clock;
using Stream = grpc::ClientReaderWriter<WorkerMessage, WorkerCommand>;

// A connection that lived shorter than this counts as one more failure.
constexpr auto kSettled = std::chrono::seconds(2);
// What an orderly end of the connection may take.
constexpr auto kCloseGrace = std::chrono::seconds(1);
constexpr double kFatalFlushSeconds = 2;
constexpr size_t kMaxSeen = 1024;
constexpr size_t kMessageBytes = 16384;
constexpr size_t kNameBytes = 256;
constexpr size_t kPathBytes = 4096;
// Of a trace.
constexpr int64_t kMostTracedSteps = 20;

Clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

Hello MakeIdentity(const WorkerIdentity& identity) {
  Hello hello;
  hello.set_protocol_version(PROTOCOL_VERSION_CURRENT);
  hello.set_fleet(identity.fleet);
  hello.set_launch_id(identity.launch_id);
  hello.set_rank(identity.rank);
  hello.set_world_size(identity.world_size);
  hello.set_host(ToUtf8(HostName(), 256));
  hello.set_pid(static_cast<uint32_t>(getpid()));
  hello.set_supervised(identity.supervised);
  hello.set_software_version(SWINFLEET_VERSION);
  return hello;
}

Progress ToProto(const TrainingProgress& from) {
  Progress to;
  to.set_step(from.step);
  to.set_total_steps(from.total_steps);
  to.set_epoch(from.epoch);
  to.set_epochs(from.epochs);
  to.set_loss(from.loss);
  to.set_learning_rate(from.learning_rate);
  to.set_grad_norm(from.grad_norm);
  to.set_images_per_second(from.images_per_second);
  if (from.has_accuracy) {
    to.set_top1(from.top1);
    to.set_top5(from.top5);
  }
  to.set_eval_loss(from.eval_loss);
  to.set_evaluated_step(from.evaluated_step);
  to.set_eta_seconds(from.eta_seconds);
  to.set_peak_memory_rank_bytes(from.peak_memory_rank_bytes);
  to.set_peak_memory_total_bytes(from.peak_memory_total_bytes);
  to.set_skipped_steps(from.skipped_steps);
  to.set_replaced_pictures(from.replaced_pictures);
  to.set_eval_replaced_pictures(from.eval_replaced_pictures);
  to.set_exposed_communication(from.exposed_communication);
  to.set_exposed_communication_seconds(from.exposed_communication_seconds);
  to.set_input_wait(from.input_wait);
  to.set_disk_wait_seconds(from.disk_wait_seconds);
  return to;
}

AttemptOutcome ToProto(Outcome outcome) {
  switch (outcome) {
    case Outcome::kSucceeded:
      return ATTEMPT_SUCCEEDED;
    case Outcome::kFailed:
      return ATTEMPT_FAILED;
    case Outcome::kCancelled:
      return ATTEMPT_CANCELLED;
    case Outcome::kStopped:
      break;
  }
  LOG(FATAL) << "outcome " << static_cast<int>(outcome) << " has no end to report";
  return ATTEMPT_OUTCOME_UNSPECIFIED;
}

// Wakes one thread up. Nothing is logged or checked under its lock, so that the logging library may
// use it.
class WakeSignal {
 public:
  void Wake() {
    {
      const std::lock_guard lock(mutex_);
      pending_ = true;
    }
    wake_.notify_one();
  }
  // Returns at a Wake since the last return, or at the deadline.
  void WaitUntil(Clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    wake_.wait_until(lock, deadline, [this] { return pending_; });
    pending_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool pending_ = false;
};

// Pauses between tries: doubled each time, each between half and all of the present length.
class Backoff {
 public:
  Backoff(double shortest, double longest)
      : shortest_(shortest), longest_(longest), next_(shortest), random_(std::random_device()()) {}
  Clock::duration Next() {
    const double pause = next_ * std::uniform_real_distribution<double>(0.5, 1)(random_);
    next_ = std::min(longest_, 2 * next_);
    return Seconds(pause);
  }
  void Reset() { next_ = shortest_; }

 private:
  const double shortest_;
  const double longest_;
  double next_;
  std::mt19937_64 random_;
};

// A channel of its own for each connection, so that gRPC's own back-off does not add to ours.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target,
                                           const Credentials& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A cluster's web proxy does not lead to the coordinator.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // The least time that a connection may take to be made.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  // A coordinator whose machine is gone answers no pings; without them TCP would notice only after
  // a quarter of an hour.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  return credentials.Connect(target, arguments);
}

// The coordinator refuses this worker, and would again.
bool IsRefusal(const grpc::Status& status, bool was_connected) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::FAILED_PRECONDITION:
      return true;
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return !was_connected;
    default:
      return false;
  }
}

}  // namespace

struct CoordinatorClient::Impl {
  Impl(const ClientOptions& client_options, std::function<void(const std::string&)> rejected)
      : options(client_options),
        on_rejected(std::move(rejected)),
        outbox(MakeIdentity(client_options.identity), Seconds(client_options.resend_seconds)),
        backoff(client_options.min_backoff_seconds, client_options.max_backoff_seconds),
        sink(this) {
    google::AddLogSink(&sink);
    thread = std::thread([this] { Run(); });
  }

  // ---- Connections (on `thread`). ----
  void Run();
  void RunConnection();
  void Converse(Stream* stream);
  void Read(Stream* stream);
  void NoteAway(const std::string& why);
  void Reject(const std::string& reason);

  // ---- Commands (on the reading thread). ----
  void Handle(const WorkerCommand& command);
  void HandleAssignment(const Assignment& assignment);
  void HandleTrace(const TraceAttempt& asked);
  void Push(WorkerEvent event);

  bool Flush(double seconds);
  void Close();

  // Forwards glog's lines.
  class Sink : public google::LogSink {
   public:
    explicit Sink(Impl* impl) : impl_(impl) {}
    void send(google::LogSeverity severity, const char*, const char* file, int line,
              const google::LogMessageTime&, const char* message, size_t size) override {
      if (severity == google::GLOG_FATAL) fatal_ = true;
      const double now =
          std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
              .count();
      const std::string text =
          std::string(file) + ':' + std::to_string(line) + "] " + std::string(message, size);
      if (impl_->outbox.logs().Append(google::GetLogSeverityName(severity), text, now)) {
        impl_->wake.Wake();
      }
    }
    // The process is about to abort: its last words should be in the job's log.
    void WaitTillSent() override {
      if (fatal_) impl_->Flush(kFatalFlushSeconds);
    }

   private:
    Impl* const impl_;
    std::atomic<bool> fatal_ = false;
  };

  const ClientOptions options;
  const std::function<void(const std::string&)> on_rejected;
  Outbox outbox;
  WakeSignal wake;
  Backoff backoff;

  // The state of the connection.
  std::atomic<bool> closing = false;
  std::atomic<bool> finished = false;
  std::atomic<bool> welcomed = false;
  std::atomic<bool> reader_done = false;
  std::atomic<bool> rejected = false;
  std::mutex context_mutex;
  grpc::ClientContext* context = nullptr;
  Clock::time_point away_logged = Clock::time_point::min();
  bool was_connected = false;

  // What came.
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<WorkerEvent> events;
  bool stop = false;
  // The newest assignments, so that one that comes again is known; oldest first.
  std::deque<std::pair<std::string, uint32_t>> seen;
  // The newest attempt of a job that was cancelled.
  std::map<std::string, uint32_t> cancelled;
  // The trace that was asked for last, and whether the training has been told.
  std::optional<TraceAttempt> trace;
  bool trace_taken = false;

  Sink sink;
  std::thread thread;
};

// ---- Connections ----

void CoordinatorClient::Impl::Run() {
  while (!closing) {
    const Clock::time_point started = Clock::now();
    RunConnection();
    if (closing || rejected) break;
    if (welcomed && Clock::now() - started >= kSettled) backoff.Reset();
    welcomed = false;
    const Clock::time_point again = Clock::now() + backoff.Next();
    while (!closing && Clock::now() < again) wake.WaitUntil(again);
  }
  finished = true;
}

void CoordinatorClient::Impl::RunConnection() {
  Credentials credentials;
  const std::string fault =
      Credentials::Read(options.connection, options.coordinator, &credentials);
  if (!fault.empty()) return NoteAway(fault);
  grpc::ClientContext own_context;
  {
    const std::lock_guard lock(context_mutex);
    context = &own_context;
  }
  const std::unique_ptr<FleetService::Stub> stub =
      FleetService::NewStub(MakeChannel(options.coordinator, credentials));
  const std::unique_ptr<Stream> stream = stub->ConnectWorker(&own_context);
  welcomed = reader_done = false;
  std::thread reader([this, &stream] { Read(stream.get()); });
  Converse(stream.get());
  if (!reader_done) own_context.TryCancel();
  reader.join();
  const grpc::Status status = stream->Finish();
  outbox.OnDisconnected();
  {
    const std::lock_guard lock(context_mutex);
    context = nullptr;
  }
  if (closing || rejected) return;
  if (!welcomed && IsRefusal(status, was_connected)) return Reject(status.error_message());
  if (status.ok()) {
    NoteAway("it closed the connection");
  } else if (status.error_code() == grpc::StatusCode::CANCELLED && !welcomed) {
    NoteAway("it accepts connections but does not answer");
  } else {
    NoteAway(status.error_message() + ConnectionHint(credentials, status.error_message()));
  }
}

void CoordinatorClient::Impl::Converse(Stream* stream) {
  WorkerMessage message;
  *message.mutable_hello() = outbox.MakeHello();
  if (!stream->Write(message)) return;
  const Clock::time_point hello_deadline = Clock::now() + Seconds(options.hello_timeout_seconds);
  while (!welcomed) {
    if (closing || reader_done || Clock::now() >= hello_deadline) return;
    wake.WaitUntil(hello_deadline);
  }
  if (!was_connected || away_logged != Clock::time_point::min()) {
    LOG(INFO) << "connected to the coordinator at " << options.coordinator << " as rank "
              << options.identity.rank << " of " << options.identity.world_size << " of fleet "
              << options.identity.fleet << ", launch " << options.identity.launch_id;
  }
  was_connected = true;
  away_logged = Clock::time_point::min();
  while (!closing && !reader_done) {
    if (!outbox.Next(Clock::now(), &message)) {
      wake.WaitUntil(outbox.NextDue());
    } else if (!stream->Write(message)) {
      return;
    }
  }
  if (reader_done || !stream->WritesDone()) return;
  // The coordinator ends the stream in turn once it has read everything.
  const Clock::time_point deadline = Clock::now() + kCloseGrace;
  while (!reader_done && Clock::now() < deadline) wake.WaitUntil(deadline);
}

void CoordinatorClient::Impl::Read(Stream* stream) {
  WorkerCommand command;
  while (stream->Read(&command)) Handle(command);
  reader_done = true;
  wake.Wake();
}

void CoordinatorClient::Impl::NoteAway(const std::string& why) {
  const Clock::time_point now = Clock::now();
  // One rank's word is enough for a coordinator that is away from all of them.
  const double period = options.absent_log_seconds * (options.identity.rank == 0 ? 1 : 6);
  const bool first = away_logged == Clock::time_point::min();
  if (!first && now - away_logged < Seconds(period)) return;
  away_logged = now;
  if (!was_connected) {
    LOG(WARNING) << "waiting for the coordinator at " << options.coordinator << ": " << why;
  } else {
    const bool busy = !outbox.job_id().empty();
    LOG(WARNING) << (first ? "lost" : "still without") << " the coordinator at "
                 << options.coordinator << ": " << why << (busy ? "; training goes on, and" : ";")
                 << " this rank tries to reach it again";
  }
}

void CoordinatorClient::Impl::Reject(const std::string& reason) {
  rejected = true;
  LOG(ERROR) << "the coordinator at " << options.coordinator << " refuses this worker: " << reason;
  on_rejected(reason);
}

// ---- Commands ----

void CoordinatorClient::Impl::Handle(const WorkerCommand& command) {
  switch (command.command_case()) {
    case WorkerCommand::kWelcome:
      outbox.OnWelcome(command.welcome().heartbeat_seconds());
      welcomed = true;
      break;
    case WorkerCommand::kRejected:
      Reject(command.rejected().reason());
      break;
    case WorkerCommand::kAssignment:
      HandleAssignment(command.assignment());
      break;
    case WorkerCommand::kCancel: {
      const std::lock_guard lock(mutex);
      uint32_t& newest = cancelled[command.cancel().job_id()];
      newest = std::max(newest, command.cancel().attempt());
      break;
    }
    case WorkerCommand::kTrace:
      HandleTrace(command.trace());
      break;
    case WorkerCommand::kEndAcknowledged:
      outbox.Acknowledge(command.end_acknowledged().job_id(), command.end_acknowledged().attempt());
      break;
    case WorkerCommand::kShutdown: {
      WorkerEvent event;
      event.kind = WorkerEvent::Kind::kShutdown;
      event.reason = command.shutdown().reason();
      Push(std::move(event));
      break;
    }
    case WorkerCommand::COMMAND_NOT_SET:
      LOG(WARNING) << "the coordinator sent a command that this version does not know";
      break;
  }
  wake.Wake();
}

void CoordinatorClient::Impl::HandleAssignment(const Assignment& assignment) {
  {
    const std::lock_guard lock(mutex);
    for (const auto& [job_id, attempt] : seen) {
      if (job_id == assignment.job_id() && attempt >= assignment.attempt()) return;
    }
    if (seen.size() >= kMaxSeen) seen.pop_front();
    seen.emplace_back(assignment.job_id(), assignment.attempt());
  }
  WorkerEvent event;
  event.kind = WorkerEvent::Kind::kAssignment;
  event.assignment = assignment;
  Push(std::move(event));
}

void CoordinatorClient::Impl::HandleTrace(const TraceAttempt& asked) {
  const std::lock_guard lock(mutex);
  // The one that came last is all that the coordinator tells again.
  if (trace && trace->request_id() == asked.request_id()) return;
  trace = asked;
  trace_taken = false;
}

void CoordinatorClient::Impl::Push(WorkerEvent event) {
  {
    const std::lock_guard lock(mutex);
    events.push_back(std::move(event));
  }
  changed.notify_all();
}

// ---- Ending ----

bool CoordinatorClient::Impl::Flush(double seconds) {
  const Clock::time_point deadline = Clock::now() + Seconds(seconds);
  wake.Wake();
  while (!outbox.AllOut()) {
    if (!welcomed || finished || Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

void CoordinatorClient::Impl::Close() {
  if (!thread.joinable()) return;
  closing = true;
  wake.Wake();
  const Clock::time_point deadline = Clock::now() + 2 * kCloseGrace;
  while (!finished && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (welcomed) continue;
    // Nothing can be under way that is worth waiting for.
    const std::lock_guard lock(context_mutex);
    if (context != nullptr) context->TryCancel();
  }
  {
    const std::lock_guard lock(context_mutex);
    if (context != nullptr) context->TryCancel();
  }
  thread.join();
  google::RemoveLogSink(&sink);
}

// ---- The interface ----

CoordinatorClient::CoordinatorClient(const ClientOptions& options,
                                     std::function<void(const std::string& reason)> on_rejected)
    : impl_(std::make_unique<Impl>(options, std::move(on_rejected))) {}

CoordinatorClient::~CoordinatorClient() { Close(); }

WorkerEvent CoordinatorClient::WaitForEvent() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [this] { return impl_->stop || !impl_->events.empty(); });
  if (impl_->stop) return WorkerEvent{};
  WorkerEvent event = std::move(impl_->events.front());
  impl_->events.pop_front();
  return event;
}

void CoordinatorClient::Stop() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
}

void CoordinatorClient::BeginAttempt(const std::string& job_id, uint32_t attempt) {
  if (!impl_->outbox.BeginAttempt(job_id, attempt)) {
    LOG(WARNING) << "a new assignment came before the end of the attempt before was acknowledged";
  }
  impl_->wake.Wake();
}

void CoordinatorClient::SetCommunicator(Communicator* communicator) {
  impl_->outbox.SetCommunicator(communicator);
}

void CoordinatorClient::EndAttempt(const AttemptResult* result) {
  std::optional<AttemptEnded> ended;
  if (result != nullptr) {
    ended.emplace();
    ended->set_job_id(impl_->outbox.job_id());
    ended->set_attempt(impl_->outbox.attempt());
    ended->set_outcome(ToProto(result->outcome));
    ended->set_message(ToUtf8(result->message, kMessageBytes));
    *ended->mutable_progress() = ToProto(result->progress);
  }
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->cancelled.erase(impl_->outbox.job_id());
  }
  impl_->outbox.EndAttempt(ended);
  impl_->wake.Wake();
}

void CoordinatorClient::ReportStuck(const StuckNews& news) {
  StuckReport report;
  report.set_collective_sequence(news.position.sequence);
  report.set_collective(ToUtf8(news.position.name, kNameBytes));
  report.set_phase(PhaseName(news.phase));
  report.set_step(static_cast<uint64_t>(news.step));
  report.set_waited_seconds(news.waited_seconds);
  report.set_deadline_seconds(news.deadline_seconds);
  report.set_flight_recorder(ToUtf8(news.flight_recorder, kMessageBytes));
  impl_->outbox.SetStuck(report);
  impl_->wake.Wake();
}

bool CoordinatorClient::Flush(double seconds) { return impl_->Flush(seconds); }

void CoordinatorClient::Close() { impl_->Close(); }

void CoordinatorClient::SetPhase(Phase phase) {
  impl_->outbox.SetPhase(phase);
  impl_->wake.Wake();
}

void CoordinatorClient::SetStep(int64_t step) { impl_->outbox.SetStep(step); }

void CoordinatorClient::SetOwnWork(double seconds, int64_t steps) {
  impl_->outbox.SetOwnWork(seconds, steps);
}

void CoordinatorClient::ReportProgress(const TrainingProgress& progress) {
  LOG(INFO) << ProgressLine(progress);
  impl_->outbox.SetProgress(ToProto(progress));
  impl_->wake.Wake();
}

void CoordinatorClient::ReportCheckpoint(const std::string& path, int64_t step) {
  LOG(INFO) << "checkpoint of step " << step << ": " << path;
  impl_->outbox.SetCheckpoint(path, static_cast<uint64_t>(step));
  impl_->wake.Wake();
}

bool CoordinatorClient::CancelRequested() {
  const std::string job_id = impl_->outbox.job_id();
  const uint32_t attempt = impl_->outbox.attempt();
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->cancelled.find(job_id);
  return found != impl_->cancelled.end() && found->second >= attempt;
}

std::optional<TraceRequest> CoordinatorClient::TakeTraceRequest() {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->trace || impl_->trace_taken) return std::nullopt;
  const TraceAttempt& asked = *impl_->trace;
  if (asked.job_id() != impl_->outbox.job_id() || asked.attempt() != impl_->outbox.attempt()) {
    return std::nullopt;
  }
  impl_->trace_taken = true;
  // Whatever it was asked for, it stays within bounds.
  return TraceRequest{.id = asked.request_id(),
                      .steps = std::clamp<int64_t>(asked.steps(), 1, kMostTracedSteps),
                      .ranks = asked.ranks(),
                      .origin = asked.origin()};
}

void CoordinatorClient::ReportTrace(const TraceResult& result) {
  TraceReport report;
  report.set_request_id(result.request_id);
  report.mutable_trace()->set_path(ToUtf8(result.path, kPathBytes));
  report.mutable_trace()->set_error(ToUtf8(result.error, kMessageBytes));
  report.mutable_trace()->set_first_step(static_cast<uint64_t>(result.first_step));
  report.mutable_trace()->set_steps(static_cast<uint32_t>(result.steps));
  impl_->outbox.SetTrace(report);
  impl_->wake.Wake();
}

bool CoordinatorClient::StopRequested() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stop;
}

}  // namespace swinfleet
