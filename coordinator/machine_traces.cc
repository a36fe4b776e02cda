// Transitions that ask ranks for traces, and those that take what came of them.
#include <glog/logging.h>

#include <algorithm>

#include "coordinator/machine.h"
#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

bool IsAnswered(const RankTrace& trace) { return !trace.path().empty() || !trace.error().empty(); }

// The ranks that are to record; empty, with a reason in `status`, if they can't.
std::set<uint32_t> RanksToTrace(const Job& job, const Launch& launch, std::set<uint32_t> ranks,
                                grpc::Status* status) {
  const bool all = ranks.empty();
  for (uint32_t r = 0; all && r < job.attempt_ranks; ++r) ranks.insert(r);
  if (ranks.size() > kMaxTracedRanks) {
    *status = {grpc::StatusCode::INVALID_ARGUMENT,
               "the attempt has " + std::to_string(job.attempt_ranks) +
                   " ranks, and one trace is of at most " + std::to_string(kMaxTracedRanks) +
                   "; name those that matter"};
    return {};
  }
  for (const uint32_t rank : ranks) {
    if (rank >= job.attempt_ranks) {
      *status = {grpc::StatusCode::INVALID_ARGUMENT,
                 "there is no rank " + std::to_string(rank) + ": the attempt has " +
                     Plural(job.attempt_ranks, "rank") + ", from 0"};
      return {};
    }
    // It would only begin once it is back, and the others wait for it until then.
    if (launch.ranks.at(rank).stream != 0 && !launch.ranks.at(rank).lost) continue;
    *status = {grpc::StatusCode::FAILED_PRECONDITION,
               "rank " + std::to_string(rank) +
                   " can't be reached at the moment; ask again, or name others"};
    return {};
  }
  return ranks;
}

}  // namespace

void Machine::On(const TraceEvent& event) {
  const auto found = state_.jobs.find(event.job_id);
  if (found == state_.jobs.end() || !found->second.durable) {
    return Answer(grpc::StatusCode::NOT_FOUND, "there is no job " + event.job_id);
  }
  Job& job = found->second;
  if (job.trace && job.trace->request_id() == event.request_id) return AnswerJob(job.id);
  if (job.state != RUNNING) {
    return Answer(grpc::StatusCode::FAILED_PRECONDITION,
                  "job " + job.id + " is " + JobState_Name(job.state) +
                      "; ranks record steps while it is RUNNING");
  }
  if (job.trace && !job.trace->complete()) {
    if (job.trace->attempt() == job.attempt) {
      return Answer(
          grpc::StatusCode::FAILED_PRECONDITION,
          "a trace of job " + job.id + " is being recorded already; ask again when it is complete");
    }
    GiveUpTrace(job);
  }
  const Launch& launch = state_.fleets.at(job.fleet).launch;
  grpc::Status status;
  const std::set<uint32_t> ranks = RanksToTrace(job, launch, event.ranks, &status);
  if (!status.ok()) return Answer(status.error_code(), status.error_message());
  TraceStatus& trace = job.trace.emplace();
  trace.set_request_id(event.request_id);
  trace.set_attempt(job.attempt);
  trace.set_steps(event.steps);
  trace.set_requested_at(now_.unix_time);
  for (const uint32_t rank : ranks) trace.add_ranks()->set_rank(rank);
  state_.traced.insert(job.id);
  Store(job);
  Say("job " + job.id + ": " + Plural(ranks.size(), "rank") + " of attempt " +
      std::to_string(job.attempt) + " are asked for a trace");
  for (const uint32_t rank : ranks) SendTrace(job, rank, launch.ranks.at(rank).stream);
  AnswerJob(job.id);
}

void Machine::SendTrace(const Job& job, uint32_t rank, uint64_t stream) {
  if (AwaitedTrace(job, rank) == nullptr) return;
  Send send{stream, {}};
  TraceAttempt* asked = send.command.mutable_trace();
  asked->set_job_id(job.id);
  asked->set_attempt(job.attempt);
  asked->set_request_id(job.trace->request_id());
  asked->set_steps(job.trace->steps());
  asked->set_ranks(static_cast<uint32_t>(job.trace->ranks_size()));
  asked->set_origin(job.trace->requested_at());
  effects_.sends.push_back(std::move(send));
}

void Machine::On(const TraceReportEvent& event) {
  Rank* sender = Sender(event.stream);
  if (sender == nullptr) return;
  Heard(event.stream, *sender);
  const TraceReport& report = event.report;
  // Also of an attempt that is over: its last words may come after those of rank 0.
  const Job* known = AttemptOfStream(state_, event.stream, report.job_id(), report.attempt());
  if (known == nullptr || !known->trace) return;
  Job& job = state_.jobs.at(known->id);
  if (job.trace->request_id() != report.request_id() || !IsAnswered(report.trace())) return;
  const uint32_t rank = state_.streams.at(event.stream).rank;
  for (RankTrace& trace : *job.trace->mutable_ranks()) {
    // What is there stands: reports come again on each connection.
    if (trace.rank() != rank || IsAnswered(trace)) continue;
    trace = report.trace();
    trace.set_rank(rank);
    Store(job);
  }
  CloseTraceIfComplete(job);
}

void Machine::CloseTraceIfComplete(Job& job) {
  const auto& ranks = job.trace->ranks();
  if (job.trace->complete() || !std::all_of(ranks.begin(), ranks.end(), &IsAnswered)) return;
  job.trace->set_complete(true);
  state_.traced.erase(job.id);
  Store(job);
}

void Machine::GiveUpTrace(Job& job) {
  for (RankTrace& trace : *job.trace->mutable_ranks()) {
    if (IsAnswered(trace)) continue;
    trace.set_error("attempt " + std::to_string(job.trace->attempt()) +
                    " ended before this rank had recorded a step");
  }
  CloseTraceIfComplete(job);
}

void Machine::GiveUpTraces() {
  const std::set<std::string> traced = state_.traced;
  for (const std::string& id : traced) {
    Job& job = state_.jobs.at(id);
    const bool over = !job.attempt_open || job.attempt != job.trace->attempt();
    if (over && now_.uptime >= job.trace_closes_at) GiveUpTrace(job);
  }
}

}  // namespace swinfleet::coordinator
