#include "coordinator/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <utility>

#include "proto/text.h"

namespace swinfleet::coordinator {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using JobSample = MetricsSnapshot::JobSample;
using FleetSample = MetricsSnapshot::FleetSample;

// ---- The snapshot ----

// Since the last checkpoint, or without one since the job began. A coordinator that was killed may
// not know when the last one came, and the age then counts from its start.
double CheckpointAge(const ControlView& view, const Job& job, double unix_time) {
  double since = std::max(job.started_at, view.histories.since());
  const JobHistory* history = view.histories.Find(job.id);
  if (history != nullptr && history->checkpoints_size() > 0) {
    const CheckpointRecord& last = *history->checkpoints().rbegin();
    if (last.path() == job.last_checkpoint) since = last.time();
  }
  return std::max(0.0, unix_time - since);
}

JobSample SampleJob(const ControlView& view, const Job& job, double unix_time) {
  const JobStatus status = view.View(job, RankDetail::kWithoutRanks);
  JobSample sample;
  sample.id = job.id;
  sample.name = job.spec->name();
  sample.user = job.user;
  sample.fleet = job.fleet;
  sample.has_progress = status.has_progress();
  sample.progress = status.progress();
  sample.restarts = status.restarts();
  sample.preemptions = job.preemptions;
  sample.run_seconds = status.run_seconds();
  sample.checkpoint_age = CheckpointAge(view, job, unix_time);
  sample.checkpoint_step = job.last_checkpoint_step;
  if (!job.attempt_open) return sample;
  sample.ranks = job.attempt_ranks;
  const std::vector<Rank>& ranks = view.state.fleets.at(job.fleet).launch.ranks;
  for (size_t r = 0; r < std::min<size_t>(job.attempt_ranks, ranks.size()); ++r) {
    sample.silent_ranks += ranks[r].lost ? 1 : 0;
    sample.stragglers += ranks[r].own.straggler ? 1 : 0;
  }
  return sample;
}

void CountJobs(const ControlView& view, double unix_time, MetricsSnapshot* out) {
  for (int state = JobState_MIN + 1; state <= JobState_MAX; ++state) {
    if (JobState_IsValid(state)) out->jobs[static_cast<JobState>(state)] = 0;
  }
  for (const auto& [id, job] : view.state.jobs) {
    if (job.durable) ++out->jobs[job.state];
  }
  for (const auto& [key, id] : view.state.open_jobs) {
    const Job* job = view.FindJob(id);
    if (job == nullptr) continue;
    if (IsWaiting(*job)) {
      ++out->queue_length;
      if (job->attempt == 0) {
        out->queue_seconds = std::max(out->queue_seconds, unix_time - job->submitted_at);
      }
    }
    // It has been under way, and is not over.
    if (job->state != QUEUED && out->running.size() < kMaxJobMetrics) {
      out->running.push_back(SampleJob(view, *job, unix_time));
    }
  }
}

// ---- The text ----

using Labels = std::vector<ClientMetric::Label>;

ClientMetric Value(MetricType type, Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

MetricFamily Single(const char* name, const char* help, double value) {
  return {name, help, MetricType::Gauge, {Value(MetricType::Gauge, {}, value)}};
}

std::string StateLabel(JobState state) { return LowerCase(JobState_Name(state)); }

// One metric of each job that is under way. A job without progress has none that come from it.
struct JobMetric {
  const char* name;
  const char* help;
  MetricType type;
  bool from_progress;
  double (*value)(const JobSample&);
};

constexpr MetricType kGauge = MetricType::Gauge;
constexpr MetricType kCounter = MetricType::Counter;

const JobMetric kJobMetrics[] = {
    {"step", "Optimizer steps done", kGauge, true,
     [](const JobSample& j) { return static_cast<double>(j.progress.step()); }},
    {"total_steps", "Optimizer steps that the job has in all", kGauge, true,
     [](const JobSample& j) { return static_cast<double>(j.progress.total_steps()); }},
    {"loss", "Training loss that was reported last", kGauge, true,
     [](const JobSample& j) { return j.progress.loss(); }},
    {"learning_rate", "Learning rate", kGauge, true,
     [](const JobSample& j) { return j.progress.learning_rate(); }},
    {"grad_norm", "Norm of the gradient before clipping", kGauge, true,
     [](const JobSample& j) { return j.progress.grad_norm(); }},
    {"images_per_second", "Pictures (or clips) trained on in a second, by all ranks", kGauge, true,
     [](const JobSample& j) { return j.progress.images_per_second(); }},
    {"exposed_communication_ratio",
     "Share of a step in which rank 0's computing waited for communication", kGauge, true,
     [](const JobSample& j) { return j.progress.exposed_communication(); }},
    {"exposed_communication_seconds",
     "Seconds of a step in which rank 0's computing waited for communication", kGauge, true,
     [](const JobSample& j) { return j.progress.exposed_communication_seconds(); }},
    {"input_wait_ratio", "Share of a step in which a rank waited for its pictures, the largest",
     kGauge, true, [](const JobSample& j) { return j.progress.input_wait(); }},
    {"disk_wait_seconds", "Seconds of a step in which rank 0 waited for state on a disk", kGauge,
     true, [](const JobSample& j) { return j.progress.disk_wait_seconds(); }},
    {"memory_peak_rank_bytes", "Largest high-water mark of a rank's process", kGauge, true,
     [](const JobSample& j) { return static_cast<double>(j.progress.peak_memory_rank_bytes()); }},
    {"memory_peak_total_bytes", "Sum of the high-water marks of all ranks", kGauge, true,
     [](const JobSample& j) { return static_cast<double>(j.progress.peak_memory_total_bytes()); }},
    {"eta_seconds", "Seconds that are left, as far as can be told", kGauge, true,
     [](const JobSample& j) { return j.progress.eta_seconds(); }},
    {"skipped_steps_total", "Steps skipped because loss or norm was not finite", kCounter, true,
     [](const JobSample& j) { return static_cast<double>(j.progress.skipped_steps()); }},
    {"replaced_pictures_total", "Pictures that couldn't be decoded and were replaced", kCounter,
     true, [](const JobSample& j) { return static_cast<double>(j.progress.replaced_pictures()); }},
    {"restarts_total", "Attempts after the first", kCounter, false,
     [](const JobSample& j) { return static_cast<double>(j.restarts); }},
    {"preemptions_total", "How often it made room for another job", kCounter, false,
     [](const JobSample& j) { return static_cast<double>(j.preemptions); }},
    {"run_seconds_total", "Seconds that its attempts have taken", kCounter, false,
     [](const JobSample& j) { return j.run_seconds; }},
    {"ranks", "Ranks of the attempt that is under way; 0: none is", kGauge, false,
     [](const JobSample& j) { return static_cast<double>(j.ranks); }},
    {"silent_ranks", "Ranks of the attempt that were not heard of for --lost-after", kGauge, false,
     [](const JobSample& j) { return static_cast<double>(j.silent_ranks); }},
    {"stragglers", "Ranks whose own work takes persistently longer than the others'", kGauge, false,
     [](const JobSample& j) { return static_cast<double>(j.stragglers); }},
    {"checkpoint_age_seconds",
     "Seconds since the last checkpoint, or the job's start, or the coordinator's", kGauge, false,
     [](const JobSample& j) { return j.checkpoint_age; }},
    {"checkpoint_step", "Step of the last checkpoint; 0: there is none", kGauge, false,
     [](const JobSample& j) { return static_cast<double>(j.checkpoint_step); }},
};

void AddJobFamilies(const std::vector<JobSample>& running, std::vector<MetricFamily>* out) {
  for (const JobMetric& metric : kJobMetrics) {
    MetricFamily family{"swinfleet_job_" + std::string(metric.name), metric.help, metric.type, {}};
    for (const JobSample& job : running) {
      if (metric.from_progress && !job.has_progress) continue;
      family.metric.push_back(
          Value(metric.type, {{"job_id", job.id}, {"job_name", job.name}, {"user", job.user}},
                metric.value(job)));
    }
    if (!family.metric.empty()) out->push_back(std::move(family));
  }
}

void AddFleetFamilies(const std::vector<FleetSample>& fleets, std::vector<MetricFamily>* out) {
  MetricFamily info{"swinfleet_fleet_info", "Fleets with their state", kGauge, {}};
  MetricFamily size{"swinfleet_fleet_ranks", "Ranks of the fleet's launch", kGauge, {}};
  MetricFamily connected{
      "swinfleet_fleet_connected_ranks", "Ranks of them that are connected", kGauge, {}};
  for (const FleetSample& fleet : fleets) {
    info.metric.push_back(Value(kGauge, {{"fleet", fleet.name}, {"state", fleet.state}}, 1));
    size.metric.push_back(Value(kGauge, {{"fleet", fleet.name}}, fleet.world_size));
    connected.metric.push_back(Value(kGauge, {{"fleet", fleet.name}}, fleet.connected_ranks));
  }
  if (fleets.empty()) return;
  for (MetricFamily* family : {&info, &size, &connected}) out->push_back(std::move(*family));
}

}  // namespace

MetricsSnapshot TakeMetrics(const ControlView& view, double unix_time) {
  MetricsSnapshot out;
  CountJobs(view, unix_time, &out);
  for (const auto& [name, fleet] : view.state.fleets) {
    out.fleets.push_back(
        {name, FleetStateName(fleet), fleet.launch.world_size, ConnectedRanks(fleet.launch)});
  }
  for (const auto& [name, host] : view.state.hosts) out.hosts_left_out += host.left_out ? 1 : 0;
  out.store_writable = view.store.ok();
  out.up_seconds = unix_time - view.histories.since();
  return out;
}

std::string FormatMetrics(const MetricsSnapshot& snapshot) {
  MetricFamily jobs{"swinfleet_jobs", "Jobs by state, all that the store has", kGauge, {}};
  for (const auto& [state, count] : snapshot.jobs) {
    jobs.metric.push_back(Value(kGauge, {{"state", StateLabel(state)}}, count));
  }
  std::vector<MetricFamily> families{
      std::move(jobs),
      Single("swinfleet_queue_length", "Jobs that wait for a fleet", snapshot.queue_length),
      Single("swinfleet_queue_wait_seconds",
             "Seconds for which the first start of a job has been waited for, the longest",
             snapshot.queue_seconds),
      Single("swinfleet_hosts_left_out", "Hosts that fleets are started without, for failures",
             snapshot.hosts_left_out),
      Single("swinfleet_store_writable", "1: the last write to the store was good",
             snapshot.store_writable ? 1 : 0),
      Single("swinfleet_up_seconds", "Seconds since the coordinator was started",
             snapshot.up_seconds),
  };
  AddFleetFamilies(snapshot.fleets, &families);
  AddJobFamilies(snapshot.running, &families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace swinfleet::coordinator
