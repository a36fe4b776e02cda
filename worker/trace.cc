#include "worker/trace.h"

#include <nlohmann/json.hpp>

#include "kernels/op_entries.h"

namespace swinfleet {
namespace {

using nlohmann::json;

// Rows of a process.
constexpr int kComputing = 1;
constexpr int kCommunication = 2;

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
  // `begin`: seconds since the origin.
  json Event(const std::string& name, const char* category, double begin, double seconds,
             int row = kComputing) const {
    return {{"name", name},         {"cat", category},  {"ph", "X"}, {"ts", 1e6 * begin},
            {"dur", 1e6 * seconds}, {"pid", Process()}, {"tid", row}};
  }
  void Write(const json& event) {
    out_ << (first_ ? "\n" : ",\n") << event.dump(-1, ' ', false, json::error_handler_t::replace);
    first_ = false;
  }
  // Of a time on the profile's clock, and of one since 1970.
  double SinceOrigin(double time) const { return trace_.profile_start - trace_.origin + time; }
  double OfClock(double time) const { return time - trace_.origin; }

 private:
  // Viewers take 0 for the kernel.
  int Process() const { return trace_.rank + 1; }

  const Trace& trace_;
  std::ostream& out_;
  bool first_ = true;
};

void WriteCollectives(const Trace& trace, EventWriter* writer) {
  if (trace.collectives.empty()) return;
  writer->Name("thread_name", kComputing, "computing");
  writer->Name("thread_name", kCommunication, "communication");
  for (const CollectiveRecord& record : trace.collectives) {
    json event = writer->Event(record.name, "collective", writer->OfClock(record.started),
                               record.ended - record.started, kCommunication);
    event["args"] = {{"operation", record.operation},
                     {"sequence", record.sequence},
                     {"bytes", record.bytes},
                     {"queued_us", 1e6 * (record.started - record.posted)}};
    writer->Write(event);
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
  writer.Begin();
  if (!trace.process.empty()) writer.Name("process_name", kComputing, trace.process);
  WriteCollectives(trace, &writer);
  for (const TracedStep& step : trace.steps) {
    writer.Write(writer.Event("step " + std::to_string(step.number), "step",
                              writer.SinceOrigin(step.begin), step.seconds));
  }
  for (const Profile::Scope& scope : trace.profile->scopes()) {
    writer.Write(
        writer.Event(scope.name, "module", writer.SinceOrigin(scope.begin), scope.seconds));
  }
  for (const Profile::Call& call : trace.profile->calls()) {
    json event =
        writer.Event(kOpNames[call.op], "op", writer.SinceOrigin(call.begin), call.seconds);
    event["args"] = ArgumentsOf(trace, call);
    writer.Write(event);
  }
  writer.End();
}

}  // namespace swinfleet
