// The wire: bytes of peers as each of the messages that the coordinator takes, in any order,
// through the checks of the services (validation.h) into the control state, whose invariants must
// hold after each. An input is a sequence of records: what it is, two bytes of length, and the
// message.
#include <glog/logging.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/scheduling.h"
#include "coordinator/state_machine.h"
#include "coordinator/status_view.h"
#include "coordinator/validation.h"
#include "tests/fuzz/fuzz_target.h"

namespace swinfleet::coordinator {
namespace {

// More says nothing new, and only takes longer.
constexpr int kMaxRecords = 64;
constexpr size_t kSlots = 4;
// Behind all others, whose numbers earlier inputs have.
constexpr uint8_t kTrace = 255;

// Protobuf says for each text that is not UTF-8 that it is not.
auto* const previous_handler = google::protobuf::SetLogHandler(nullptr);

// A coordinator without its network and its disk.
class World {
 public:
  void Take(uint8_t kind, std::string_view bytes) {
    if (kind == kTrace) return Trace(bytes);
    switch (kind % 9) {
      case 0:
        return Submit(bytes);
      case 1:
        return Cancel(bytes);
      case 2:
        return Fence(bytes);
      case 3:
        return Report(bytes);
      case 4:
        return Listen(kind / 9 % kSlots, bytes);
      case 5:
        return Close(kind / 9 % kSlots);
      case 6:
        now_ += static_cast<double>(bytes.size());
        Do(TickEvent{});
        return;
      case 7:
        return Show();
      case 8:
        return Restart();
    }
  }

 private:
  Effects Do(const Event& event) {
    Transition transition = Apply(std::move(state_), event, settings_, {1e9 + now_, now_});
    state_ = std::move(transition.state);
    CheckInvariants(state_);
    // As the control loop does once the store has it all.
    for (const uint64_t stream : transition.effects.closes) {
      greeted_.erase(stream);
      std::replace(streams_.begin(), streams_.end(), stream, uint64_t{0});
      Do(StreamClosedEvent{stream});
    }
    return std::move(transition.effects);
  }

  void Submit(std::string_view bytes) {
    SubmitJobRequest request;
    if (!Parse(bytes, &request) || !CheckSubmission(&request, {}).ok()) return;
    const auto spec = std::make_shared<JobSpec>(request.spec());
    const Reply reply =
        Do(SubmitEvent{spec, request.submission_id(), request.user(), "x"}).reply.value();
    if (!reply.status.ok() || state_.jobs.at(reply.job_id).durable) return;
    // Every other one meets a full disk.
    if (request.submission_id().size() % 2 == 0) {
      Do(StoredEvent{reply.job_id});
    } else {
      Do(NotStoredEvent{reply.job_id});
    }
  }
  void Cancel(std::string_view bytes) {
    CancelJobRequest request;
    if (!Parse(bytes, &request) || !CheckName("job id", request.job_id()).ok()) return;
    CHECK(Do(CancelEvent{request.job_id()}).reply.has_value());
  }
  void Trace(std::string_view bytes) {
    TraceJobRequest request;
    if (!Parse(bytes, &request) || !CheckTrace(&request).ok()) return;
    const std::set<uint32_t> ranks(request.ranks().begin(), request.ranks().end());
    CHECK(Do(TraceEvent{request.job_id(), request.request_id(), ranks, request.steps()})
              .reply.has_value());
  }
  void Fence(std::string_view bytes) {
    FenceFleetRequest request;
    if (!Parse(bytes, &request) || !CheckName("fleet's name", request.name()).ok()) return;
    CHECK(Do(FenceEvent{request.name()}).reply.has_value());
  }
  void Report(std::string_view bytes) {
    LaunchReport report;
    if (!Parse(bytes, &report) || !CheckLaunchReport(&report).ok()) return;
    CHECK(Do(LaunchReportEvent{report}).reply.has_value());
  }
  void Listen(size_t slot, std::string_view bytes) {
    WorkerMessage message;
    if (!Parse(bytes, &message)) return;
    if (!CheckWorkerMessage(&message).empty()) return Close(slot);
    uint64_t& stream = streams_[slot];
    if (stream == 0) stream = ++last_stream_;
    const bool is_hello = message.message_case() == WorkerMessage::kHello;
    if (is_hello == greeted_[stream]) return Close(slot);
    greeted_[stream] = true;
    Hear(stream, message);
  }
  void Hear(uint64_t stream, const WorkerMessage& message) {
    switch (message.message_case()) {
      case WorkerMessage::kHello:
        Do(HelloEvent{stream, message.hello()});
        return;
      case WorkerMessage::kHeartbeat:
        Do(HeartbeatEvent{stream, message.heartbeat()});
        return;
      case WorkerMessage::kCheckpoint:
        Do(CheckpointEvent{stream, message.checkpoint()});
        return;
      case WorkerMessage::kTrace:
        Do(TraceReportEvent{stream, message.trace()});
        return;
      case WorkerMessage::kEnded:
        Do(AttemptEndedEvent{stream, message.ended()});
        return;
      case WorkerMessage::kStuck:
        Do(StuckEvent{stream, message.stuck()});
        return;
      default:
        Do(AliveEvent{stream});
    }
  }
  void Close(size_t slot) {
    const uint64_t stream = std::exchange(streams_[slot], 0);
    greeted_.erase(stream);
    Do(StreamClosedEvent{stream});
  }

  // What users are shown of it.
  void Show() const {
    for (const auto& [id, job] : state_.jobs) {
      const JobStatus status =
          ViewJob(state_, settings_, job, nullptr, now_, RankDetail::kWithRanks);
      CHECK(!status.SerializeAsString().empty());
    }
    for (const auto& [name, fleet] : state_.fleets) {
      CHECK(!ViewFleet(fleet, now_).SerializeAsString().empty());
    }
    for (const auto& [name, host] : state_.hosts) ViewHost(host, 1e9 + now_);
  }
  void Restart() {
    std::vector<Job> jobs;
    std::vector<Fleet> fleets;
    std::vector<Host> hosts;
    for (const auto& [id, job] : state_.jobs) jobs.push_back(job);
    for (const auto& [name, fleet] : state_.fleets) fleets.push_back(fleet);
    for (const auto& [name, host] : state_.hosts) hosts.push_back(host);
    state_ = Restore(std::move(jobs), std::move(fleets), std::move(hosts), {1e9 + now_, now_});
    CheckInvariants(state_);
    streams_.fill(0);
    greeted_.clear();
  }

  template <typename Message>
  static bool Parse(std::string_view bytes, Message* message) {
    return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  }

  const Settings settings_{.patience = 5, .max_user_ranks = 4, .max_user_jobs = 3};
  ControlState state_;
  double now_ = 100;
  uint64_t last_stream_ = 0;
  std::array<uint64_t, kSlots> streams_{};
  std::map<uint64_t, bool> greeted_;
};

}  // namespace
}  // namespace swinfleet::coordinator

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  swinfleet::coordinator::World world;
  size_t at = 0;
  for (int record = 0; record < swinfleet::coordinator::kMaxRecords && at + 3 <= size; ++record) {
    const size_t wanted = data[at + 1] + 256 * size_t{data[at + 2]};
    const size_t length = std::min(wanted, size - at - 3);
    world.Take(data[at], {reinterpret_cast<const char*>(data) + at + 3, length});
    at += 3 + length;
  }
  return 0;
}
