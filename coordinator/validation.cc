#include "coordinator/validation.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "coordinator/control_state.h"
#include "proto/queue.h"

namespace swinfleet::coordinator {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMaxSpecBytes = 64 << 10;
constexpr size_t kMaxPath = 4096;
constexpr int kMaxRepeated = 1024;
constexpr size_t kMaxName = 128;
constexpr size_t kMaxHost = 255;
constexpr size_t kMaxText = 4096;
constexpr size_t kMaxWord = 64;
constexpr size_t kMaxLogText = 8192;
constexpr int kMaxLogLines = 10000;

grpc::Status Invalid(const std::string& text) { return {grpc::StatusCode::INVALID_ARGUMENT, text}; }

bool HasControlCharacters(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// Cuts a text at a character's boundary, and makes it one line.
void CutText(std::string* text, size_t limit) {
  if (text->size() > limit) {
    size_t end = limit;
    while (end > 0 && (static_cast<unsigned char>((*text)[end]) & 0xc0) == 0x80) --end;
    text->resize(end);
  }
  for (char& c : *text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
}

std::string CheckString(const std::string& field, const std::string& value) {
  if (value.size() > kMaxPath) {
    return field + " has " + std::to_string(value.size()) + " bytes, the limit is " +
           std::to_string(kMaxPath);
  }
  return HasControlCharacters(value) ? field + " contains a control character" : "";
}

// The first fault of any string or list in the message, at any depth.
std::string CheckFields(const Message& message, const std::string& prefix) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string name = prefix + field->name();
    std::string fault;
    if (field->is_repeated()) {
      const int size = reflection.FieldSize(message, field);
      const bool text = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
      for (int i = 0; text && i < size && fault.empty(); ++i) {
        fault = CheckString(name, reflection.GetRepeatedString(message, field, i));
      }
      if (size > kMaxRepeated) {
        fault = name + " has " + std::to_string(size) + " entries, the limit is " +
                std::to_string(kMaxRepeated);
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      fault = CheckString(name, reflection.GetString(message, field));
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      fault = CheckFields(reflection.GetMessage(message, field), name + ".");
    }
    if (!fault.empty()) return fault;
  }
  return "";
}

bool IsNameCharacter(unsigned char c) {
  return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
}

std::string NameFault(const std::string& what, const std::string& name) {
  if (name.empty()) return "the " + what + " is empty";
  if (name.size() > kMaxName) {
    return "the " + what + " has " + std::to_string(name.size()) + " bytes, the limit is " +
           std::to_string(kMaxName);
  }
  const bool good = std::all_of(name.begin(), name.end(), &IsNameCharacter);
  return good ? "" : "the " + what + " may have letters, digits and -_.: only";
}

// An attempt that a worker names; an empty job id where `may_be_idle`.
std::string AttemptFault(const std::string& job_id, bool may_be_idle) {
  return may_be_idle && job_id.empty() ? "" : NameFault("job id", job_id);
}

std::string CheckHello(Hello* hello) {
  std::string fault = VersionMismatch("worker", hello->protocol_version());
  if (fault.empty()) fault = NameFault("fleet's name", hello->fleet());
  if (fault.empty()) fault = NameFault("launch id", hello->launch_id());
  if (fault.empty()) fault = AttemptFault(hello->job_id(), /*may_be_idle=*/true);
  if (!fault.empty()) return fault;
  if (hello->world_size() == 0 || hello->world_size() > kMaxWorldSize) {
    return "world_size is " + std::to_string(hello->world_size()) + ", allowed are 1 to " +
           std::to_string(kMaxWorldSize);
  }
  if (hello->rank() >= hello->world_size()) {
    return "rank " + std::to_string(hello->rank()) + " of " + std::to_string(hello->world_size()) +
           " does not exist";
  }
  CutText(hello->mutable_host(), kMaxHost);
  // Supervisors put it into mpirun's arguments and a variable that scripts read.
  for (char& c : *hello->mutable_host()) {
    if (!IsNameCharacter(c)) c = '_';
  }
  CutText(hello->mutable_software_version(), kMaxWord);
  return "";
}

}  // namespace

std::string VersionMismatch(const std::string& peer, uint32_t version) {
  if (version == PROTOCOL_VERSION_CURRENT) return "";
  return "this " + peer + " speaks protocol version " + std::to_string(version) +
         ", the coordinator speaks " + std::to_string(PROTOCOL_VERSION_CURRENT) +
         "; install the same version of swinfleet on both";
}

grpc::Status CheckName(const std::string& what, const std::string& name) {
  const std::string fault = NameFault(what, name);
  return fault.empty() ? grpc::Status::OK : Invalid(fault);
}

grpc::Status CheckSubmission(SubmitJobRequest* request, const PathRoots& roots) {
  const std::string mismatch = VersionMismatch("client", request->protocol_version());
  if (!mismatch.empty()) return {grpc::StatusCode::FAILED_PRECONDITION, mismatch};
  if (grpc::Status status = CheckName("submission id", request->submission_id()); !status.ok()) {
    return status;
  }
  JobSpec* spec = request->mutable_spec();
  if (spec->ByteSizeLong() > kMaxSpecBytes) {
    return Invalid("the job has " + std::to_string(spec->ByteSizeLong()) + " bytes, the limit is " +
                   std::to_string(kMaxSpecBytes));
  }
  if (const std::string fault = CheckFields(*spec, ""); !fault.empty()) return Invalid(fault);
  if (spec->name().size() > kMaxName) {
    return Invalid("name has more than " + std::to_string(kMaxName) + " bytes");
  }
  if (spec->run_dir().empty()) return Invalid("run_dir is not set: the folder of this run's files");
  const std::string folder = NormalPath(spec->run_dir());
  if (folder.empty()) {
    return Invalid("run_dir is " + spec->run_dir() +
                   ", but must be an absolute path (starting with /), the same on all ranks");
  }
  if (folder == "/") return Invalid("run_dir must not be the root folder");
  spec->set_run_dir(folder);
  for (const ConfinedPath& path : PathsOfJob(spec->run_dir(), spec->parallel().offload_dir(),
                                             spec->data().path(), spec->model().init_from())) {
    if (const std::string fault = OutsideRoots(path, roots); !fault.empty()) return Invalid(fault);
  }
  if (spec->parallel().ranks() > kMaxWorldSize) {
    return Invalid("parallel.ranks is " + std::to_string(spec->parallel().ranks()) +
                   ", the limit is " + std::to_string(kMaxWorldSize));
  }
  QueueSettings queue;
  std::string faults;
  for (const std::string& fault : ReadQueueSettings(*spec, &queue)) {
    faults += (faults.empty() ? "" : "\n") + fault;
  }
  if (!faults.empty()) return Invalid(faults);
  if (request->user().size() > kMaxName) {
    return Invalid("the user's name has more than " + std::to_string(kMaxName) + " bytes");
  }
  const std::string fault = CheckString("the user's name", request->user());
  return fault.empty() ? grpc::Status::OK : Invalid(fault);
}

grpc::Status CheckTrace(TraceJobRequest* request) {
  std::string fault = NameFault("job id", request->job_id());
  if (fault.empty()) fault = NameFault("request id", request->request_id());
  if (!fault.empty()) return Invalid(fault);
  if (request->ranks_size() > static_cast<int>(kMaxTracedRanks)) {
    return Invalid(std::to_string(request->ranks_size()) +
                   " ranks are named, and one trace is of " + "at most " +
                   std::to_string(kMaxTracedRanks));
  }
  if (request->steps() == 0) request->set_steps(1);
  if (request->steps() <= kMaxTracedSteps) return grpc::Status::OK;
  return Invalid("a trace of " + std::to_string(request->steps()) + " steps is asked for, the " +
                 "limit is " + std::to_string(kMaxTracedSteps));
}

grpc::Status CheckLaunchReport(LaunchReport* message) {
  const LaunchReport& report = *message;
  const std::string mismatch = VersionMismatch("supervisor", report.protocol_version());
  if (!mismatch.empty()) return {grpc::StatusCode::FAILED_PRECONDITION, mismatch};
  std::string fault = NameFault("fleet's name", report.fleet());
  if (fault.empty()) fault = NameFault("launch id", report.launch_id());
  if (fault.empty() && report.state() != LAUNCH_RUNNING && report.state() != LAUNCH_ENDED) {
    fault = "the launch's state is " + std::to_string(report.state()) + ", which is not known";
  }
  CutText(message->mutable_exit(), kMaxText);
  CutText(message->mutable_host(), kMaxHost);
  return fault.empty() ? grpc::Status::OK : Invalid(fault);
}

std::string CheckWorkerMessage(WorkerMessage* message) {
  switch (message->message_case()) {
    case WorkerMessage::kHello:
      return CheckHello(message->mutable_hello());
    case WorkerMessage::kHeartbeat:
      CutText(message->mutable_heartbeat()->mutable_phase(), kMaxWord);
      CutText(message->mutable_heartbeat()->mutable_collective(), kMaxName);
      return AttemptFault(message->heartbeat().job_id(), /*may_be_idle=*/true);
    case WorkerMessage::kProgress:
      return AttemptFault(message->progress().job_id(), /*may_be_idle=*/false);
    case WorkerMessage::kCheckpoint: {
      const std::string fault = CheckString("the checkpoint's path", message->checkpoint().path());
      if (!fault.empty()) return fault;
      if (message->checkpoint().path().empty()) return "the checkpoint's path is empty";
      return AttemptFault(message->checkpoint().job_id(), /*may_be_idle=*/false);
    }
    case WorkerMessage::kTrace: {
      TraceReport* report = message->mutable_trace();
      CutText(report->mutable_trace()->mutable_path(), kMaxPath);
      CutText(report->mutable_trace()->mutable_error(), kMaxText);
      const std::string fault = NameFault("request id", report->request_id());
      return fault.empty() ? AttemptFault(report->job_id(), /*may_be_idle=*/false) : fault;
    }
    case WorkerMessage::kLog:
      if (message->log().lines_size() > kMaxLogLines) {
        return "one report has " + std::to_string(message->log().lines_size()) +
               " log lines, the limit is " + std::to_string(kMaxLogLines);
      }
      for (LogLine& line : *message->mutable_log()->mutable_lines()) {
        CutText(line.mutable_text(), kMaxLogText);
        CutText(line.mutable_severity(), kMaxWord);
      }
      return AttemptFault(message->log().job_id(), /*may_be_idle=*/false);
    case WorkerMessage::kEnded:
      CutText(message->mutable_ended()->mutable_message(), kMaxText);
      return AttemptFault(message->ended().job_id(), /*may_be_idle=*/false);
    case WorkerMessage::kStuck: {
      StuckReport* report = message->mutable_stuck();
      CutText(report->mutable_phase(), kMaxWord);
      CutText(report->mutable_collective(), kMaxName);
      CutText(report->mutable_flight_recorder(), kMaxPath);
      return AttemptFault(report->job_id(), /*may_be_idle=*/false);
    }
    case WorkerMessage::MESSAGE_NOT_SET:
      return "";
  }
  return "";
}

}  // namespace swinfleet::coordinator
