#include "coordinator/supervisor/reporter.h"

#include <glog/logging.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "coordinator/supervisor/escape.h"

namespace swinfleet {
namespace {

constexpr auto kRunningPeriod = std::chrono::seconds(2);
// Of an end, and of what could not be delivered.
constexpr auto kRetryPeriod = std::chrono::seconds(1);
constexpr auto kDeadline = std::chrono::seconds(5);

}  // namespace

LaunchReporter::LaunchReporter(std::shared_ptr<grpc::Channel> channel, std::string fleet,
                               std::string host)
    : channel_(std::move(channel)),
      stub_(FleetService::NewStub(channel_)),
      fleet_(std::move(fleet)),
      host_(std::move(host)),
      event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK_GE(event_, 0);
  thread_ = std::thread([this] { Work(); });
}

LaunchReporter::~LaunchReporter() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  changed_.notify_all();
  thread_.join();
  close(event_);
}

void LaunchReporter::Running(const std::string& launch_id) {
  LaunchReport report;
  report.set_launch_id(launch_id);
  report.set_state(LAUNCH_RUNNING);
  Set(report);
}

void LaunchReporter::Ended(const std::string& launch_id, const std::string& exit, bool fault) {
  LaunchReport report;
  report.set_launch_id(launch_id);
  report.set_state(LAUNCH_ENDED);
  // The command line's own text could hold any bytes; the wire takes UTF-8 only.
  report.set_exit(EscapeForTerminal(exit));
  report.set_no_fault(!fault);
  Set(report);
}

void LaunchReporter::Set(const LaunchReport& report) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    report_ = report;
    report_.set_protocol_version(PROTOCOL_VERSION_CURRENT);
    report_.set_fleet(fleet_);
    report_.set_host(host_);
    acknowledged_ = false;
    fenced_ = false;
    ending_ = false;
    leaving_.reset();
    idle_seconds_ = 0;
    ++generation_;
  }
  changed_.notify_all();
}

void LaunchReporter::GiveBack() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    CHECK_EQ(report_.state(), LAUNCH_RUNNING);
    report_.set_give_back(true);
    ++generation_;
  }
  changed_.notify_all();
}

std::optional<bool> LaunchReporter::IsLeaving() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return leaving_;
}

double LaunchReporter::idle_seconds() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return idle_seconds_;
}

bool LaunchReporter::IsAcknowledged() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return acknowledged_;
}

bool LaunchReporter::IsFenced() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fenced_;
}

bool LaunchReporter::IsEnding() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ending_;
}

std::vector<std::string> LaunchReporter::excluded_hosts() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return excluded_hosts_;
}

void LaunchReporter::Work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (generation_ == 0 || acknowledged_) {
      changed_.wait(lock);
      continue;
    }
    const uint64_t generation = generation_;
    const LaunchReport report = report_;
    LaunchDirective directive;
    grpc::Status status;
    {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + kDeadline);
      call_ = &context;
      lock.unlock();
      // The reports have a pace of their own, so each of them tries the connection anew.
      grpc::experimental::ChannelResetConnectionBackoff(channel_.get());
      status = stub_->ReportLaunch(&context, report, &directive);
      lock.lock();
      call_ = nullptr;
    }
    if (stopping_) return;
    LogChange(status);
    Apply(generation, status, directive);
    const auto period =
        report.state() == LAUNCH_RUNNING && status.ok() ? kRunningPeriod : kRetryPeriod;
    changed_.wait_for(lock, period, [&] { return stopping_ || generation_ != generation; });
  }
}

void LaunchReporter::Apply(uint64_t generation, const grpc::Status& status,
                           const LaunchDirective& directive) {
  if (!status.ok()) return;
  excluded_hosts_.assign(directive.exclude_hosts().begin(), directive.exclude_hosts().end());
  if (generation != generation_) return;
  if (report_.state() == LAUNCH_ENDED) acknowledged_ = true;
  if (report_.state() == LAUNCH_RUNNING && directive.fenced()) fenced_ = true;
  if (report_.state() == LAUNCH_RUNNING && directive.ending()) ending_ = true;
  if (report_.give_back()) leaving_ = directive.leaving();
  idle_seconds_ = directive.idle_seconds();
  const uint64_t one = 1;
  // Full only when the owner hasn't read for 2^64 changes.
  CHECK_EQ(write(event_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
}

void LaunchReporter::LogChange(const grpc::Status& status) {
  const std::string failure = status.ok() ? ""
                                          : EscapeForTerminal(status.error_message()) + " (" +
                                                std::to_string(status.error_code()) + ")";
  if (failure == last_failure_) return;
  if (status.ok()) {
    LOG(INFO) << "the coordinator answers again";
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
             status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
             status.error_code() == grpc::StatusCode::CANCELLED) {
    LOG(WARNING) << "the coordinator doesn't answer; the fleet goes on, and the report is "
                    "repeated until it does: "
                 << failure;
  } else {
    LOG(ERROR) << "the coordinator refuses this supervisor's report; it is repeated: " << failure;
  }
  last_failure_ = failure;
}

}  // namespace swinfleet
