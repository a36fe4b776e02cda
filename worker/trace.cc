#include "worker/trace.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/op_entries.h"

namespace swinfleet {
namespace {

using nlohmann::json;

// Rows of a process.
constexpr int kComputing = 1;
constexpr int kCommunication = 2;
constexpr int kStarting = 3;

// Writes events, and what stands between them.
class EventWriter {
 public:
  EventWriter(const Trace& trace, std::ostream* out) : trace_(trace), out_(*out) {}

  void Begin() {
    const json about = {{"rank", trace_.rank},
                        {"origin", trace_.origin},
                        {"calls_left_out", trace_.profile->left_out()},
                        {"collectives_left_out", trace_.collectives_left_out}};
    out_ << R"({"displayTimeUnit": "ms", "otherData": )" << about.dump() << R"(, "traceEvents": [)";
  }
  // The end of the last line is flushed with the rest.
  void End() { out_ << "\n]}" << std::endl; }

  void Name(const char* what, int row, const std::string& name) {
    Write({{"name", what},
           {"ph", "M"},
           {"pid", Process()},
           {"tid", row},
           {"args", {{"name", name}}}});
  }
  // Since the profile was made.
  json Event(const std::string& name, const char* category, const Profile::Span& span,
             int row = kComputing) const {
    return {{"name", name},
            {"cat", category},
            {"ph", "X"},
            {"ts", 1e6 * (trace_.profile_start - trace_.origin + span.begin)},
            {"dur", 1e6 * span.seconds},
            {"pid", Process()},
            {"tid", row}};
  }
  void Write(const json& event) {
    out_ << (first_ ? "\n" : ",\n") << event.dump(-1, ' ', false, json::error_handler_t::replace);
    first_ = false;
  }

 private:
  // Viewers take 0 for the kernel.
  int Process() const { return trace_.rank + 1; }

  const Trace& trace_;
  std::ostream& out_;
  bool first_ = true;
};

// When a collective took place. Of those between GPUs the profile knows it better than whoever
// looked at them from time to time.
Profile::Span SpanOf(const Trace& trace, const CollectiveRecord& record) {
  const auto& exchanges = trace.profile->exchanges();
  const auto exchange =
      std::ranges::lower_bound(exchanges, record.sequence, {}, &Profile::Exchange::sequence);
  if (exchange != exchanges.end() && exchange->sequence == record.sequence) return exchange->span;
  return {.begin = record.started - trace.profile_start, .seconds = record.ended - record.started};
}

void WriteRows(const Trace& trace, EventWriter* writer) {
  if (!trace.process.empty()) writer->Name("process_name", kComputing, trace.process);
  const bool of_gpu = trace.profile->of_gpu();
  if (of_gpu || !trace.collectives.empty()) {
    writer->Name("thread_name", kComputing, of_gpu ? "computing (GPU)" : "computing");
  }
  if (!trace.collectives.empty()) writer->Name("thread_name", kCommunication, "communication");
  if (of_gpu) writer->Name("thread_name", kStarting, "starting operations (host)");
}

void WriteCollectives(const Trace& trace, EventWriter* writer) {
  for (const CollectiveRecord& record : trace.collectives) {
    const Profile::Span span = SpanOf(trace, record);
    json event = writer->Event(record.name, "collective", span, kCommunication);
    event["args"] = {{"operation", record.operation},
                     {"sequence", record.sequence},
                     {"bytes", record.bytes},
                     {"queued_us", 1e6 * (trace.profile_start + span.begin - record.posted)}};
    writer->Write(event);
  }
}

// What the GPU computed of it.
Profile::Span OnGpu(const TracedStep& step, const Profile& profile) {
  Profile::Span span;
  for (const Profile::Call& call : profile.calls()) {
    const double since = call.host.begin - step.begin;
    if (call.exchanges || since < 0 || since > step.seconds) continue;
    if (span.seconds == 0) span.begin = call.span.begin;
    span.seconds = call.span.end() - span.begin;
  }
  return span;
}

void WriteSteps(const Trace& trace, EventWriter* writer) {
  const bool of_gpu = trace.profile->of_gpu();
  for (const TracedStep& step : trace.steps) {
    const std::string name = "step " + std::to_string(step.number);
    const Profile::Span host = {.begin = step.begin, .seconds = step.seconds};
    if (of_gpu) writer->Write(writer->Event(name, "host", host, kStarting));
    writer->Write(writer->Event(name, "step", of_gpu ? OnGpu(step, *trace.profile) : host));
  }
}

json ArgumentsOf(const Trace& trace, const Profile::Call& call) {
  json tensors = json::array();
  for (const TensorView& tensor : call.tensors) {
    tensors.push_back(std::string(NameOf(tensor.dtype)) + " " + tensor.shape.ToString());
  }
  const ProfilePlace place = PlaceOf(*trace.profile, call.scope);
  json arguments = {{"module", place.module},
                    {"pass", place.pass},
                    {"tensors", tensors},
                    {"matrix_flops", call.matrix_flops},
                    {"bytes", call.bytes}};
  if (trace.limits != nullptr) {
    arguments["limit_us"] = 1e6 * trace.limits->SecondsOf(call.matrix_flops, call.bytes);
  }
  return arguments;
}

}  // namespace

ProfilePlace PlaceOf(const Profile& profile, int scope) {
  ProfilePlace place;
  if (scope < 0) return place;
  const auto& scopes = profile.scopes();
  place.module = scopes[scope].name;
  while (scopes[scope].parent >= 0) scope = scopes[scope].parent;
  place.pass = scopes[scope].name;
  return place;
}

void WriteTrace(const Trace& trace, std::ostream* out) {
  EventWriter writer(trace, out);
  const bool of_gpu = trace.profile->of_gpu();
  writer.Begin();
  WriteRows(trace, &writer);
  WriteCollectives(trace, &writer);
  WriteSteps(trace, &writer);
  for (const Profile::Scope& scope : trace.profile->scopes()) {
    if (of_gpu) writer.Write(writer.Event(scope.name, "host", scope.host, kStarting));
    // Of a module that computes nothing the GPU knows nothing.
    if (of_gpu && scope.span.begin == 0) continue;
    writer.Write(writer.Event(scope.name, "module", scope.span));
  }
  for (const Profile::Call& call : trace.profile->calls()) {
    const char* name = kOpNames[call.op];
    json event = writer.Event(name, "op", call.span, call.exchanges ? kCommunication : kComputing);
    event["args"] = ArgumentsOf(trace, call);
    writer.Write(event);
    if (of_gpu) writer.Write(writer.Event(name, "host", call.host, kStarting));
  }
  writer.End();
}

}  // namespace swinfleet
