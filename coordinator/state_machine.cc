#include "coordinator/state_machine.h"

#include <utility>

#include "coordinator/machine.h"

namespace swinfleet::coordinator {

Transition Apply(ControlState state, const Event& event, const Settings& settings, Moment now) {
  Transition transition{std::move(state), {}};
  Machine machine(&transition.state, &transition.effects, settings, now);
  std::visit([&machine](const auto& one) { machine.On(one); }, event);
  return transition;
}

void Machine::Store(const Job& job) {
  effects_.store_jobs.insert(job.id);
  UpdateWaiting(&state_, job);
  Changed(job);
}

void Machine::Store(const Fleet& fleet) {
  effects_.store_fleets.insert(fleet.name);
  effects_.queue_changed = true;
}

void Machine::Answer(grpc::StatusCode code, const std::string& message) {
  effects_.reply = Reply{grpc::Status(code, message), "", "", {}};
}

void Machine::AnswerJob(const std::string& job_id) {
  effects_.reply = Reply{grpc::Status::OK, job_id, "", {}};
}

}  // namespace swinfleet::coordinator
