#include "coordinator/cli/show.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "coordinator/supervisor/escape.h"
#include "proto/message_json.h"
#include "proto/text.h"

namespace swinfleet {
namespace {

double DoneShare(const Progress& progress) {
  if (progress.total_steps() == 0) return 0;
  return static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps());
}

std::string StepText(const Progress& progress) {
  return "step " + std::to_string(progress.step()) + "/" + std::to_string(progress.total_steps());
}

std::string EpochText(const Progress& progress) {
  return "epoch " + std::to_string(progress.epoch()) + "/" + std::to_string(progress.epochs());
}

std::string PercentText(const Progress& progress) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%5.1f%%", 100 * std::min(DoneShare(progress), 1.0));
  return buffer;
}

std::string Title(const JobStatus& job, const Screen& screen) {
  std::string title = "job " + Safe(job.job_id(), screen);
  if (!job.spec().name().empty()) title += " (" + Safe(job.spec().name(), screen) + ")";
  return title;
}

// "RUNNING, attempt 2 on fleet local (4 ranks)"
std::string StateText(const JobStatus& job, const Screen& screen) {
  std::string text = StateName(job.state());
  if (job.state() == QUEUED && job.queue_position() > 0) {
    text += ", position " + std::to_string(job.queue_position());
  }
  if (job.spec().schedule().priority() != 0) {
    text += ", priority " + std::to_string(job.spec().schedule().priority());
  }
  if (job.attempt() > 0) text += ", attempt " + std::to_string(job.attempt());
  if (!job.fleet().empty()) text += " on fleet " + Safe(job.fleet(), screen);
  if (job.ranks_size() > 0) {
    text += " (" + Plural(static_cast<uint64_t>(job.ranks_size()), "rank") + ")";
  }
  return text;
}

// The numbers of the training that are known by now.
std::vector<std::string> TrainingItems(const Progress& progress) {
  std::vector<std::string> items;
  if (progress.step() > 0) {
    items.push_back("loss " + FormatNumber(progress.loss()));
    items.push_back("lr " + FormatNumber(progress.learning_rate()));
    items.push_back(FormatNumber(progress.images_per_second()) + " images/s");
    if (progress.grad_norm() != 0) {
      items.push_back("grad norm " + FormatNumber(progress.grad_norm()));
    }
  }
  if (progress.skipped_steps() > 0) {
    items.push_back(Plural(progress.skipped_steps(), "step") + " skipped (not finite)");
  }
  if (progress.replaced_pictures() > 0) {
    items.push_back(Plural(progress.replaced_pictures(), "picture") + " replaced (broken)");
  }
  return items;
}

std::string AccuracyText(const Progress& progress) {
  const uint64_t replaced = progress.eval_replaced_pictures();
  const std::string when =
      " at step " + std::to_string(progress.evaluated_step()) +
      (replaced > 0 ? " (" + Plural(replaced, "broken picture") + " replaced)" : "");
  if (!progress.has_top1()) return "evaluation loss " + FormatNumber(progress.eval_loss()) + when;
  return "top-1 " + FormatShare(progress.top1()) + ", top-5 " + FormatShare(progress.top5()) + when;
}

// "attempt 1, of 2 of 2 ranks: /runs/a/traces/attempt-001/step-00000012-rank-00000.json"
std::string TraceText(const TraceStatus& trace, const Screen& screen) {
  int written = 0;
  std::string path, error;
  for (const RankTrace& rank : trace.ranks()) {
    if (!rank.path().empty() && written++ == 0) path = rank.path();
    if (!rank.error().empty() && error.empty()) {
      error = "; rank " + std::to_string(rank.rank()) + ": " + rank.error();
    }
  }
  return "attempt " + std::to_string(trace.attempt()) + ", " +
         (trace.complete() ? "of " : "being recorded, of ") + std::to_string(written) + " of " +
         Plural(static_cast<uint64_t>(trace.ranks_size()), "rank") +
         Safe((path.empty() ? "" : ": " + path) + error, screen);
}

std::string JoinComma(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

std::string RankTable(const google::protobuf::RepeatedPtrField<RankStatus>& ranks,
                      const Screen& screen) {
  std::vector<std::vector<std::string>> rows = {
      {"RANK", "HOST", "PID", "PHASE", "STEP", "HEARTBEAT", "MEMORY", "OWN WORK", "COLLECTIVE"}};
  for (const RankStatus& rank : ranks) {
    const std::string collective = rank.collective().empty()
                                       ? "-"
                                       : std::string(rank.in_collective() ? "in " : "after ") +
                                             Safe(rank.collective(), screen) + " #" +
                                             std::to_string(rank.collective_sequence());
    const std::string own = rank.own_seconds() > 0 ? FormatNumber(rank.own_seconds()) + " s" : "-";
    rows.push_back(
        {std::to_string(rank.rank()), Safe(rank.host(), screen), std::to_string(rank.pid()),
         Safe(rank.phase(), screen), std::to_string(rank.step()),
         FormatDuration(rank.seconds_since_heartbeat()) + " ago", FormatBytes(rank.memory_bytes()),
         own + (rank.straggler() ? " (slow)" : ""), collective});
  }
  return FormatTable(rows);
}

// "priority 5, preemptible, after job j1-ab12, 3h02m of at most 12h"; what of it there is to say.
std::string QueueText(const JobStatus& job, const Screen& screen) {
  const QueueSpec& queue = job.spec().schedule();
  std::vector<std::string> items = {"priority " + std::to_string(queue.priority())};
  if (queue.preemptible()) items.push_back("preemptible");
  for (const std::string& id : job.after()) items.push_back("after job " + Safe(id, screen));
  if (queue.has_min_ranks()) {
    items.push_back("at least " + Plural(queue.min_ranks(), "rank"));
  }
  if (queue.has_max_restarts()) {
    items.push_back("at most " + Plural(queue.max_restarts(), "restart") + " after deaths");
  }
  if (job.run_seconds() > 0 || queue.has_max_run_time()) {
    items.push_back(
        "has run for " + FormatDuration(job.run_seconds()) +
        (queue.has_max_run_time() ? " of at most " + Safe(queue.max_run_time(), screen) : ""));
  }
  return JoinComma(items);
}

// Hosts that have failed lately, below the fleets; empty if none has.
std::string HostTable(const ListFleetsResponse& fleets, const Screen& screen) {
  if (fleets.hosts_size() == 0) return "";
  std::vector<std::vector<std::string>> rows = {{"HOST", "FAILURES", "LEFT OUT", "LAST"}};
  for (const HostStatus& host : fleets.hosts()) {
    rows.push_back({Safe(host.name(), screen), FormatNumber(host.failures()),
                    host.left_out() ? "yes" : "no", Safe(host.last(), screen)});
  }
  return "\n" + FormatTable(rows);
}

// The words before the numbers of StatusBlock, one column wide.
class Sheet {
 public:
  void Add(const std::string& heading, const std::string& text) {
    if (text.empty()) return;
    text_ += heading + std::string(12 - heading.size(), ' ') + text + "\n";
  }
  std::string text_;
};

}  // namespace

std::string ToJsonLine(const google::protobuf::Message& message) {
  std::string text;
  const auto status = AppendJson(message, &text);
  // Only messages of types unknown to the program (Any) can't be printed; ours have none.
  CHECK(status.ok()) << status.ToString();
  return text + "\n";
}

std::string StateName(JobState state) {
  const std::string name = JobState_Name(state);
  return name.empty() ? "state " + std::to_string(static_cast<int>(state)) : name;
}

bool IsEnded(JobState state) { return state == SUCCEEDED || state == FAILED || state == CANCELLED; }

std::string StatusBlock(const JobStatus& job, const Screen& screen) {
  const Progress& progress = job.progress();
  Sheet sheet;
  sheet.Add("Job", Safe(job.job_id(), screen) +
                       (job.spec().name().empty() ? "" : ", " + Safe(job.spec().name(), screen)));
  sheet.Add("State", StateText(job, screen));
  sheet.Add("Reason", Safe(job.reason(), screen));
  sheet.Add("Queue", QueueText(job, screen));
  if (progress.total_steps() > 0) {
    sheet.Add("Progress",
              FormatBar(DoneShare(progress), 30, screen) + PercentText(progress) + ", " +
                  EpochText(progress) + ", " + StepText(progress) +
                  (IsEnded(job.state()) ? "" : ", ETA " + FormatDuration(progress.eta_seconds())));
  }
  sheet.Add("Training", JoinComma(TrainingItems(progress)));
  if (progress.evaluated_step() > 0) sheet.Add("Accuracy", AccuracyText(progress));
  if (progress.peak_memory_rank_bytes() > 0) {
    sheet.Add("Memory", FormatBytes(progress.peak_memory_rank_bytes()) + " in the largest rank, " +
                            FormatBytes(progress.peak_memory_total_bytes()) + " in all");
  }
  if (progress.step() > 0) {
    sheet.Add("Waiting",
              FormatShare(progress.exposed_communication()) + " communication (" +
                  FormatNumber(progress.exposed_communication_seconds()) + " s a step), " +
                  FormatShare(progress.input_wait()) + " input" +
                  (progress.disk_wait_seconds() > 0
                       ? ", disk " + FormatNumber(progress.disk_wait_seconds()) + " s a step"
                       : ""));
  }
  for (const std::string& straggler : job.stragglers()) {
    sheet.Add("Straggler", Safe(straggler, screen));
  }
  sheet.Add("Restarts", std::to_string(job.restarts()) +
                            (job.preemptions() > 0
                                 ? "; made room for others " + Plural(job.preemptions(), "time")
                                 : ""));
  if (!job.last_checkpoint().empty()) {
    sheet.Add("Checkpoint", "step " + std::to_string(job.last_checkpoint_step()) + ", " +
                                Safe(job.last_checkpoint(), screen));
  }
  if (job.has_trace()) sheet.Add("Trace", TraceText(job.trace(), screen));
  sheet.Add("Run folder", Safe(job.spec().run_dir(), screen));
  sheet.Add("Submitted", FormatTime(job.submitted_at()) +
                             (job.user().empty() ? "" : " by " + Safe(job.user(), screen)));
  if (job.started_at() > 0) sheet.Add("Started", FormatTime(job.started_at()));
  if (job.ended_at() > 0) {
    sheet.Add("Ended", FormatTime(job.ended_at()) +
                           (job.started_at() > 0
                                ? ", after " + FormatDuration(job.ended_at() - job.started_at())
                                : ""));
  }
  return sheet.text_ + (job.ranks_size() > 0 ? "\n" + RankTable(job.ranks(), screen) : "");
}

std::vector<std::string> WatchBlock(const JobStatus& job, const Screen& screen) {
  // The last column stays free: terminals differ in what they do when it is written.
  const int width = std::max(screen.width - 1, 10);
  const Progress& progress = job.progress();
  std::vector<std::string> lines = FlowItems({Title(job, screen), StateText(job, screen)}, width);
  if (progress.total_steps() > 0) {
    const std::string percent = " " + PercentText(progress);
    std::vector<std::string> items = {EpochText(progress), StepText(progress)};
    if (!IsEnded(job.state())) items.push_back("ETA " + FormatDuration(progress.eta_seconds()));
    int rest = 0;
    for (const std::string& item : items) rest += 3 + DisplayWidth(item);
    const int room = width - DisplayWidth(percent) - rest;
    const int bar = room >= 10 ? std::min(room, 40) : std::max(width - DisplayWidth(percent), 1);
    items.insert(items.begin(), FormatBar(DoneShare(progress), bar, screen) + percent);
    for (const std::string& line : FlowItems(items, width)) lines.push_back(line);
  }
  std::vector<std::string> items = TrainingItems(progress);
  if (progress.exposed_communication() > 0) {
    items.push_back(FormatShare(progress.exposed_communication()) + " waiting for communication");
  }
  if (progress.evaluated_step() > 0) items.push_back(AccuracyText(progress));
  if (job.restarts() > 0) items.push_back(Plural(job.restarts(), "restart"));
  if (!job.last_checkpoint().empty()) {
    items.push_back("checkpoint at step " + std::to_string(job.last_checkpoint_step()));
  }
  for (const std::string& line : FlowItems(items, width)) lines.push_back(line);
  for (const std::string& straggler : job.stragglers()) {
    lines.push_back("straggler: " + Safe(straggler, screen));
  }
  if (!job.reason().empty()) lines.push_back(Safe(job.reason(), screen));
  for (std::string& line : lines) line = Shorten(line, width, screen);
  return lines;
}

std::string WatchLine(const JobStatus& job, const Screen& screen) {
  const Progress& progress = job.progress();
  std::vector<std::string> items = {Title(job, screen) + " " + StateText(job, screen)};
  if (progress.total_steps() > 0) {
    items.push_back(EpochText(progress));
    items.push_back(StepText(progress));
  }
  for (const std::string& item : TrainingItems(progress)) items.push_back(item);
  if (progress.evaluated_step() > 0) items.push_back(AccuracyText(progress));
  if (progress.total_steps() > 0 && !IsEnded(job.state())) {
    items.push_back("ETA " + FormatDuration(progress.eta_seconds()));
  }
  if (job.restarts() > 0) items.push_back(Plural(job.restarts(), "restart"));
  if (!job.last_checkpoint().empty()) {
    items.push_back("checkpoint at step " + std::to_string(job.last_checkpoint_step()));
  }
  return JoinComma(items) + (job.reason().empty() ? "" : ": " + Safe(job.reason(), screen));
}

std::string JobTable(const ListJobsResponse& jobs, const Screen& screen) {
  if (jobs.jobs_size() == 0) return "There are no jobs.\n";
  std::vector<std::vector<std::string>> rows = {{"JOB", "NAME", "USER", "PRIORITY", "STATE", "STEP",
                                                 "DONE", "LOSS", "TOP-1", "RESTARTS", "FLEET",
                                                 "SUBMITTED"}};
  for (const JobStatus& job : jobs.jobs()) {
    const Progress& progress = job.progress();
    const bool known = progress.total_steps() > 0;
    rows.push_back(
        {Safe(job.job_id(), screen), Shorten(Safe(job.spec().name(), screen), 30, screen),
         job.user().empty() ? "-" : Safe(job.user(), screen),
         std::to_string(job.spec().schedule().priority()), StateName(job.state()),
         known ? std::to_string(progress.step()) + "/" + std::to_string(progress.total_steps())
               : "-",
         known ? PercentText(progress) : "-",
         progress.step() > 0 ? FormatNumber(progress.loss()) : "-",
         progress.has_top1() && progress.evaluated_step() > 0 ? FormatShare(progress.top1()) : "-",
         std::to_string(job.restarts()), job.fleet().empty() ? "-" : Safe(job.fleet(), screen),
         FormatTime(job.submitted_at())});
  }
  return FormatTable(rows);
}

std::string FleetTable(const ListFleetsResponse& fleets, const Screen& screen) {
  if (fleets.fleets_size() == 0) {
    return "No fleet has registered. Start one with: swinfleet fleet -- mpirun ... "
           "swinfleet-worker ...\n";
  }
  std::vector<std::vector<std::string>> rows = {
      {"FLEET", "STATE", "RANKS", "JOB", "SUPERVISED", "LAST EXIT"}};
  for (const FleetStatus& fleet : fleets.fleets()) {
    rows.push_back(
        {Safe(fleet.name(), screen), Safe(fleet.state(), screen),
         std::to_string(fleet.connected_ranks()) + "/" + std::to_string(fleet.world_size()),
         fleet.job_id().empty() ? "-" : Safe(fleet.job_id(), screen),
         fleet.supervised() ? "yes" : "no",
         fleet.last_exit().empty() ? "-" : Safe(fleet.last_exit(), screen)});
  }
  return FormatTable(rows) + HostTable(fleets, screen);
}

std::string LogText(const LogLine& line, const Screen& screen) {
  return FormatTime(line.time()) + " " + Safe(line.severity(), screen) + " attempt " +
         std::to_string(line.attempt()) + " rank " + std::to_string(line.rank()) + ": " +
         Safe(line.text(), screen) + "\n";
}

}  // namespace swinfleet
