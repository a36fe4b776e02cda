#include "coordinator/job_store.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

namespace swinfleet::coordinator {
namespace {

constexpr char kFile[] = "/jobs.sqlite";

// Never changed once released: what changes is a step that follows.
constexpr char kSchema[] = R"(
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,
  submission_id TEXT NOT NULL UNIQUE,
  run_dir TEXT NOT NULL UNIQUE,
  spec BLOB NOT NULL,
  state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  attempt_open INTEGER NOT NULL,
  fleet TEXT NOT NULL,
  launch_id TEXT NOT NULL,
  attempt_ranks INTEGER NOT NULL,
  deaths INTEGER NOT NULL,
  last_checkpoint TEXT NOT NULL,
  last_checkpoint_step INTEGER NOT NULL,
  last_checkpoint_attempt INTEGER NOT NULL,
  submitted_at REAL NOT NULL,
  started_at REAL NOT NULL,
  ended_at REAL NOT NULL,
  progress BLOB
);
CREATE TABLE fleets (
  name TEXT PRIMARY KEY,
  launch_id TEXT NOT NULL,
  phase INTEGER NOT NULL,
  world_size INTEGER NOT NULL,
  supervised INTEGER NOT NULL,
  exit TEXT NOT NULL
);
CREATE TABLE closed_launches (
  fleet TEXT NOT NULL REFERENCES fleets(name),
  position INTEGER NOT NULL,
  launch_id TEXT NOT NULL,
  phase INTEGER NOT NULL,
  PRIMARY KEY (fleet, position)
))";

// Priorities, dependencies, run time, restarts, quotas and preemption. Jobs of before have the
// defaults. One that runs has done so since its start, as far as anybody knows.
constexpr char kScheduling[] = R"(
ALTER TABLE jobs ADD COLUMN user TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN comes_after TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN stop INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN all_deaths INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN preemptions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN run_seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN clocked REAL NOT NULL DEFAULT 0;
UPDATE jobs SET all_deaths = max(attempt - 1, 0), clocked = started_at;
UPDATE jobs SET stop = 1 WHERE state = 4)";

constexpr char kHosts[] = R"(
CREATE TABLE hosts (
  name TEXT PRIMARY KEY,
  failures REAL NOT NULL,
  counted_at REAL NOT NULL,
  left_out INTEGER NOT NULL,
  last TEXT NOT NULL
))";

// A run folder may be given to another job after one that has left nothing in it, so it is not
// unique; and numbers of attempts that are left out after a backup was restored. SQLite takes no
// constraint back, so the table is made anew.
constexpr char kRunFolders[] = R"(
CREATE TABLE new_jobs (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,
  submission_id TEXT NOT NULL UNIQUE,
  run_dir TEXT NOT NULL,
  spec BLOB NOT NULL,
  state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  attempt_open INTEGER NOT NULL,
  fleet TEXT NOT NULL,
  launch_id TEXT NOT NULL,
  attempt_ranks INTEGER NOT NULL,
  deaths INTEGER NOT NULL,
  last_checkpoint TEXT NOT NULL,
  last_checkpoint_step INTEGER NOT NULL,
  last_checkpoint_attempt INTEGER NOT NULL,
  submitted_at REAL NOT NULL,
  started_at REAL NOT NULL,
  ended_at REAL NOT NULL,
  progress BLOB,
  user TEXT NOT NULL,
  comes_after TEXT NOT NULL,
  stop INTEGER NOT NULL,
  all_deaths INTEGER NOT NULL,
  preemptions INTEGER NOT NULL,
  run_seconds REAL NOT NULL,
  clocked REAL NOT NULL,
  attempt_gap INTEGER NOT NULL DEFAULT 0,
  skipped_attempts INTEGER NOT NULL DEFAULT 0
);
INSERT INTO new_jobs SELECT *, 0, 0 FROM jobs;
DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs)";

// More attempts than a job may have begun between a backup and the loss of its store.
constexpr char kLeaveOutAttempts[] =
    "UPDATE jobs SET attempt_gap = attempt_gap + 1000 WHERE ended_at = 0";

// Tokens and the audit log. Who can write to the file can do everything to it; the triggers keep
// programs, ours too, from changing lines by mistake.
constexpr char kAccess[] = R"(
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  role INTEGER NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  created_at REAL NOT NULL,
  expires_at REAL NOT NULL,
  revoked_at REAL NOT NULL
);
CREATE UNIQUE INDEX one_token_a_name ON tokens (name) WHERE revoked_at = 0;
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time REAL NOT NULL,
  who TEXT NOT NULL,
  role TEXT NOT NULL,
  peer TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  result TEXT NOT NULL,
  times INTEGER NOT NULL
);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'lines of the audit log are never changed'); END;
CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'lines of the audit log are never deleted'); END)";

// The last trace of a job, a TraceStatus.
constexpr char kTraces[] = "ALTER TABLE jobs ADD COLUMN trace BLOB NOT NULL DEFAULT x''";

// What jobs have reported: HistoryPoints by step, CheckpointRecords by number.
constexpr char kHistory[] = R"(
CREATE TABLE history (
  job TEXT NOT NULL,
  kind INTEGER NOT NULL,
  number INTEGER NOT NULL,
  record BLOB NOT NULL,
  PRIMARY KEY (job, kind, number)
) WITHOUT ROWID)";

constexpr char kPutJob[] =
    "INSERT INTO jobs (id, number, submission_id, run_dir, spec, state, reason, attempt, "
    "attempt_open, fleet, launch_id, attempt_ranks, deaths, last_checkpoint, "
    "last_checkpoint_step, last_checkpoint_attempt, submitted_at, started_at, ended_at, user, "
    "comes_after, stop, all_deaths, preemptions, run_seconds, clocked, attempt_gap, "
    "skipped_attempts, trace) "
    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
    "ON CONFLICT(id) DO UPDATE SET "
    "state=excluded.state, reason=excluded.reason, attempt=excluded.attempt, "
    "attempt_open=excluded.attempt_open, fleet=excluded.fleet, launch_id=excluded.launch_id, "
    "attempt_ranks=excluded.attempt_ranks, deaths=excluded.deaths, "
    "last_checkpoint=excluded.last_checkpoint, "
    "last_checkpoint_step=excluded.last_checkpoint_step, "
    "last_checkpoint_attempt=excluded.last_checkpoint_attempt, "
    "started_at=excluded.started_at, ended_at=excluded.ended_at, stop=excluded.stop, "
    "all_deaths=excluded.all_deaths, preemptions=excluded.preemptions, "
    "run_seconds=excluded.run_seconds, clocked=excluded.clocked, "
    "attempt_gap=excluded.attempt_gap, skipped_attempts=excluded.skipped_attempts, "
    "trace=excluded.trace";

constexpr char kGetJobs[] =
    "SELECT id, number, submission_id, run_dir, spec, state, reason, attempt, attempt_open, "
    "fleet, launch_id, attempt_ranks, deaths, last_checkpoint, last_checkpoint_step, "
    "last_checkpoint_attempt, submitted_at, started_at, ended_at, progress, user, comes_after, "
    "stop, all_deaths, preemptions, run_seconds, clocked, attempt_gap, skipped_attempts, trace "
    "FROM jobs ORDER BY number";

std::vector<std::string> SchemaSteps() {
  return {kSchema, kScheduling, kHosts, kRunFolders, kAccess, kTraces, kHistory};
}

grpc::Status OpenAt(const std::string& path, bool migrate, std::unique_ptr<Database>* out) {
  const grpc::Status status = Database::Open(path, /*durable=*/true, out);
  if (!status.ok()) return status;
  return migrate ? (*out)->PrepareSchema(SchemaSteps()) : (*out)->RequireSchema(SchemaSteps());
}

grpc::Status Damaged(const Database& database, const std::string& what) {
  return {grpc::StatusCode::DATA_LOSS,
          database.path() + " is damaged: " + what + "; restore it from a backup"};
}

// A value that no version of this program writes means that something else did.
bool KnownState(int64_t state) { return state != 0 && JobState_IsValid(static_cast<int>(state)); }

bool KnownStop(int64_t stop) { return stop >= 0 && stop <= static_cast<int64_t>(Stop::kGivenBack); }

// Ids have no spaces.
std::string Join(const std::vector<std::string>& ids) {
  std::string text;
  for (const std::string& id : ids) text += (text.empty() ? "" : " ") + id;
  return text;
}

std::vector<std::string> Split(const std::string& text) {
  std::istringstream words(text);
  return {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
}

bool KnownPhase(int64_t phase) {
  return phase >= 0 && phase <= static_cast<int64_t>(LaunchPhase::kFenced);
}

}  // namespace

const char kPutAudit[] =
    "INSERT INTO audit (time, who, role, peer, action, subject, result, times) "
    "VALUES (?,?,?,?,?,?,?,?)";

grpc::Status PutAudit(Statement* put_audit, AuditEntry entry) {
  TidyAuditEntry(&entry);
  return put_audit->Bind(entry.time)
      .Bind(entry.who)
      .Bind(entry.role)
      .Bind(entry.from)
      .Bind(entry.action)
      .Bind(entry.subject)
      .Bind(entry.result)
      .Bind(static_cast<int64_t>(entry.times))
      .Run();
}

grpc::Status JobStore::OpenDatabase(const std::string& folder, bool migrate,
                                    std::unique_ptr<Database>* out) {
  return OpenAt(folder + kFile, migrate, out);
}

grpc::Status JobStore::Open(const std::string& folder, std::unique_ptr<JobStore>* out) {
  return OpenFile(folder + kFile, out);
}

grpc::Status JobStore::BackUp(const std::string& folder, const std::string& file) {
  std::unique_ptr<Database> source, copy;
  grpc::Status status = Database::OpenExisting(folder + kFile, &source);
  if (status.ok()) status = Database::OpenExisting(file, &copy);
  if (status.ok()) status = source->CopyTo(copy.get());
  if (status.ok()) status = copy->CheckIntegrity();
  copy.reset();
  std::unique_ptr<JobStore> store;
  if (status.ok()) status = OpenFile(file, &store);
  Contents contents;
  if (status.ok()) status = store->Load(&contents);
  if (status.ok()) status = store->database_->Run(kLeaveOutAttempts);
  // Without files beside it.
  if (status.ok()) status = store->database_->Run("PRAGMA journal_mode=DELETE");
  return status;
}

grpc::Status JobStore::OpenFile(const std::string& path, std::unique_ptr<JobStore>* out) {
  std::unique_ptr<JobStore> store(new JobStore);
  grpc::Status status = OpenAt(path, /*migrate=*/true, &store->database_);
  if (status.ok()) status = store->PrepareStatements();
  if (status.ok()) *out = std::move(store);
  return status;
}

grpc::Status JobStore::PrepareStatements() {
  const std::pair<std::unique_ptr<Statement>*, const char*> statements[] = {
      {&put_job_, kPutJob},
      {&put_progress_, "UPDATE jobs SET progress=? WHERE id=?"},
      {&put_fleet_,
       "INSERT INTO fleets (name, launch_id, phase, world_size, supervised, exit) "
       "VALUES (?,?,?,?,?,?) ON CONFLICT(name) DO UPDATE SET launch_id=excluded.launch_id, "
       "phase=excluded.phase, world_size=excluded.world_size, supervised=excluded.supervised, "
       "exit=excluded.exit"},
      {&put_closed_,
       "INSERT INTO closed_launches (fleet, position, launch_id, phase) VALUES (?,?,?,?)"},
      {&drop_fleet_, "DELETE FROM fleets WHERE name=?"},
      {&drop_closed_, "DELETE FROM closed_launches WHERE fleet=?"},
      {&put_host_,
       "INSERT OR REPLACE INTO hosts (name, failures, counted_at, left_out, last) "
       "VALUES (?,?,?,?,?)"},
      {&drop_host_, "DELETE FROM hosts WHERE name=?"},
      {&put_audit_, kPutAudit},
      {&forget_history_, "DELETE FROM history WHERE job=?"},
      {&drop_record_, "DELETE FROM history WHERE job=? AND kind=? AND number=?"},
      {&put_record_,
       "INSERT OR REPLACE INTO history (job, kind, number, record) VALUES (?,?,?,?)"}};
  for (const auto& [statement, sql] : statements) {
    *statement = std::make_unique<Statement>(database_.get(), sql);
    if (!(*statement)->status().ok()) return (*statement)->status();
  }
  return grpc::Status::OK;
}

grpc::Status JobStore::WriteJob(const Job& job) {
  return put_job_->Bind(job.id)
      .Bind(static_cast<int64_t>(job.number))
      .Bind(job.submission_id)
      .Bind(job.run_dir)
      .BindBlob(job.spec->SerializeAsString())
      .Bind(static_cast<int64_t>(job.state))
      .Bind(job.reason)
      .Bind(static_cast<int64_t>(job.attempt))
      .Bind(static_cast<int64_t>(job.attempt_open))
      .Bind(job.fleet)
      .Bind(job.launch_id)
      .Bind(static_cast<int64_t>(job.attempt_ranks))
      .Bind(static_cast<int64_t>(job.deaths))
      .Bind(job.last_checkpoint)
      .Bind(static_cast<int64_t>(job.last_checkpoint_step))
      .Bind(static_cast<int64_t>(job.last_checkpoint_attempt))
      .Bind(job.submitted_at)
      .Bind(job.started_at)
      .Bind(job.ended_at)
      .Bind(job.user)
      .Bind(Join(job.after))
      .Bind(static_cast<int64_t>(job.stop))
      .Bind(static_cast<int64_t>(job.all_deaths))
      .Bind(static_cast<int64_t>(job.preemptions))
      .Bind(job.run_seconds)
      .Bind(job.clocked)
      .Bind(static_cast<int64_t>(job.attempt_gap))
      .Bind(static_cast<int64_t>(job.skipped_attempts))
      .BindBlob(job.trace ? job.trace->SerializeAsString() : "")
      .Run();
}

grpc::Status JobStore::WriteFleet(const Fleet& fleet) {
  grpc::Status status = put_fleet_->Bind(fleet.name)
                            .Bind(fleet.launch.id)
                            .Bind(static_cast<int64_t>(fleet.launch.phase))
                            .Bind(static_cast<int64_t>(fleet.launch.world_size))
                            .Bind(static_cast<int64_t>(fleet.launch.supervised))
                            .Bind(fleet.launch.exit)
                            .Run();
  if (status.ok()) status = drop_closed_->Bind(fleet.name).Run();
  int64_t position = 0;
  for (const ClosedLaunch& closed : fleet.closed) {
    if (!status.ok()) return status;
    status = put_closed_->Bind(fleet.name)
                 .Bind(position++)
                 .Bind(closed.id)
                 .Bind(static_cast<int64_t>(closed.phase))
                 .Run();
  }
  return status;
}

grpc::Status JobStore::DropFleet(const std::string& name) {
  grpc::Status status = drop_closed_->Bind(name).Run();
  if (status.ok()) status = drop_fleet_->Bind(name).Run();
  return status;
}

grpc::Status JobStore::Write(const Batch& batch) {
  Transaction transaction(database_.get());
  grpc::Status status = transaction.Begin();
  for (const Fleet* fleet : batch.fleets) {
    if (status.ok()) status = WriteFleet(*fleet);
  }
  for (const std::string& name : batch.dropped_fleets) {
    if (status.ok()) status = DropFleet(name);
  }
  for (const Job* job : batch.jobs) {
    if (status.ok()) status = WriteJob(*job);
  }
  for (const Host* host : batch.hosts) {
    if (status.ok()) status = WriteHost(*host);
  }
  for (const std::string& name : batch.dropped_hosts) {
    if (status.ok()) status = drop_host_->Bind(name).Run();
  }
  for (const auto& [job_id, progress] : batch.progress) {
    if (!status.ok()) break;
    status = put_progress_->BindBlob(progress->SerializeAsString()).Bind(job_id).Run();
  }
  for (const AuditEntry* entry : batch.audit) {
    if (status.ok()) status = PutAudit(put_audit_.get(), *entry);
  }
  if (status.ok() && batch.history != nullptr) status = WriteHistory(*batch.history);
  if (status.ok()) status = transaction.Commit();
  return status;
}

grpc::Status JobStore::LoadFleets(Contents* out) {
  std::map<std::string, size_t> places;
  Statement fleets(database_.get(),
                   "SELECT name, launch_id, phase, world_size, supervised, exit FROM fleets");
  while (fleets.Next()) {
    Fleet fleet;
    fleet.name = fleets.Text();
    fleet.launch.id = fleets.Text();
    const int64_t phase = fleets.Int();
    const int64_t world_size = fleets.Int();
    fleet.launch.supervised = fleets.Int() != 0;
    fleet.launch.exit = fleets.Text();
    if (!KnownPhase(phase) || world_size < 0 || world_size > kMaxWorldSize) {
      return Damaged(*database_, "fleet " + fleet.name);
    }
    fleet.launch.phase = static_cast<LaunchPhase>(phase);
    fleet.launch.world_size = static_cast<uint32_t>(world_size);
    places[fleet.name] = out->fleets.size();
    out->fleets.push_back(std::move(fleet));
  }
  if (!fleets.status().ok()) return fleets.status();
  Statement closed(database_.get(),
                   "SELECT fleet, launch_id, phase FROM closed_launches ORDER BY fleet, position");
  while (closed.Next()) {
    const auto place = places.find(closed.Text());
    ClosedLaunch launch;
    launch.id = closed.Text();
    const int64_t phase = closed.Int();
    if (place == places.end() || !KnownPhase(phase)) return Damaged(*database_, "closed launches");
    launch.phase = static_cast<LaunchPhase>(phase);
    out->fleets[place->second].closed.push_back(std::move(launch));
  }
  return closed.status();
}

namespace {

// The columns of kScheduling and kRunFolders.
void ReadScheduling(Statement* row, Job* job) {
  job->user = row->Text();
  job->after = Split(row->Text());
  job->stop = static_cast<Stop>(row->Int());
  job->all_deaths = static_cast<uint32_t>(row->Int());
  job->preemptions = static_cast<uint32_t>(row->Int());
  job->run_seconds = row->Double();
  job->clocked = row->Double();
  job->attempt_gap = static_cast<uint32_t>(row->Int());
  job->skipped_attempts = static_cast<uint32_t>(row->Int());
}

}  // namespace

grpc::Status JobStore::LoadJobs(Contents* out) {
  Statement rows(database_.get(), kGetJobs);
  while (rows.Next()) {
    Job job;
    job.id = rows.Text();
    job.number = static_cast<uint64_t>(rows.Int());
    job.submission_id = rows.Text();
    job.run_dir = rows.Text();
    auto spec = std::make_shared<JobSpec>();
    if (!spec->ParseFromString(rows.Text())) {
      return Damaged(*database_, "the specification of job " + job.id);
    }
    job.wanted_ranks = spec->parallel().ranks();
    // A rule that came after the job was accepted is no fault of it.
    ReadQueueSettings(*spec, &job.queue);
    job.spec = std::move(spec);
    const int64_t state = rows.Int();
    if (!KnownState(state)) return Damaged(*database_, "the state of job " + job.id);
    job.state = static_cast<JobState>(state);
    job.reason = rows.Text();
    job.attempt = static_cast<uint32_t>(rows.Int());
    job.attempt_open = rows.Int() != 0;
    job.fleet = rows.Text();
    job.launch_id = rows.Text();
    job.attempt_ranks = static_cast<uint32_t>(rows.Int());
    job.deaths = static_cast<uint32_t>(rows.Int());
    job.last_checkpoint = rows.Text();
    job.last_checkpoint_step = static_cast<uint64_t>(rows.Int());
    job.last_checkpoint_attempt = static_cast<uint32_t>(rows.Int());
    job.submitted_at = rows.Double();
    job.started_at = rows.Double();
    job.ended_at = rows.Double();
    if (const std::string progress = rows.Text(); !progress.empty()) {
      if (!out->progress[job.id].ParseFromString(progress)) {
        return Damaged(*database_, "the progress of job " + job.id);
      }
    }
    ReadScheduling(&rows, &job);
    const int64_t stop = static_cast<int64_t>(job.stop);
    if (!KnownStop(stop)) return Damaged(*database_, "the state of job " + job.id);
    const std::string trace = rows.Text();
    if (!trace.empty() && !job.trace.emplace().ParseFromString(trace)) {
      return Damaged(*database_, "the trace of job " + job.id);
    }
    out->jobs.push_back(std::move(job));
  }
  return rows.status();
}

grpc::Status JobStore::WriteHost(const Host& host) {
  return put_host_->Bind(host.name)
      .Bind(host.failures)
      .Bind(host.counted_at)
      .Bind(static_cast<int64_t>(host.left_out))
      .Bind(host.last)
      .Run();
}

grpc::Status JobStore::WriteHistory(const HistoryChanges& changes) {
  grpc::Status status;
  for (const std::string& job_id : changes.forgotten) {
    if (status.ok()) status = forget_history_->Bind(job_id).Run();
  }
  const auto bind = [](Statement* statement, const HistoryChanges::Key& key) -> Statement& {
    return statement->Bind(key.job_id)
        .Bind(static_cast<int64_t>(key.kind))
        .Bind(static_cast<int64_t>(key.number));
  };
  for (const HistoryChanges::Key& key : changes.deleted) {
    if (status.ok()) status = bind(drop_record_.get(), key).Run();
  }
  for (const auto& [key, record] : changes.put) {
    if (status.ok()) status = bind(put_record_.get(), key).BindBlob(record).Run();
  }
  return status;
}

grpc::Status JobStore::LoadHistories(JobHistories* out) {
  struct Found {
    JobHistory history;
    uint64_t first_checkpoint = 0;
    double time = 0;
  };
  std::map<std::string, Found> jobs;
  Statement rows(database_.get(),
                 "SELECT job, kind, number, record FROM history ORDER BY job, kind, number");
  while (rows.Next()) {
    const std::string job_id = rows.Text();
    const int64_t kind = rows.Int();
    const auto number = static_cast<uint64_t>(rows.Int());
    const std::string record = rows.Text();
    Found& found = jobs[job_id];
    bool good = true;
    if (kind == static_cast<int64_t>(HistoryChanges::Kind::kPoint)) {
      HistoryPoint* point = found.history.add_points();
      good = point->ParseFromString(record) && point->step() == number;
      found.time = std::max(found.time, point->time());
    } else {
      if (found.history.checkpoints_size() == 0) found.first_checkpoint = number;
      CheckpointRecord* checkpoint = found.history.add_checkpoints();
      good = kind == static_cast<int64_t>(HistoryChanges::Kind::kCheckpoint) &&
             checkpoint->ParseFromString(record);
      found.time = std::max(found.time, checkpoint->time());
    }
    if (!good) return Damaged(*database_, "the history of job " + job_id);
  }
  if (!rows.status().ok()) return rows.status();
  std::multimap<double, std::string> order;
  for (const auto& [job_id, found] : jobs) order.emplace(found.time, job_id);
  for (const auto& [time, job_id] : order) {
    Found& found = jobs.at(job_id);
    out->Restore(job_id, std::move(found.history), found.first_checkpoint);
  }
  return grpc::Status::OK;
}

grpc::Status JobStore::LoadHosts(Contents* out) {
  Statement rows(database_.get(), "SELECT name, failures, counted_at, left_out, last FROM hosts");
  while (rows.Next()) {
    Host host;
    host.name = rows.Text();
    host.failures = rows.Double();
    host.counted_at = rows.Double();
    host.left_out = rows.Int() != 0;
    host.last = rows.Text();
    out->hosts.push_back(std::move(host));
  }
  return rows.status();
}

grpc::Status JobStore::Load(Contents* out) {
  grpc::Status status = LoadFleets(out);
  if (status.ok()) status = LoadHosts(out);
  if (status.ok()) status = LoadJobs(out);
  if (!status.ok()) return status;
  // An open attempt is on the current launch of its fleet, alone.
  std::map<std::string, const Launch*> launches;
  for (const Fleet& fleet : out->fleets) launches[fleet.name] = &fleet.launch;
  std::set<std::string> busy, known;
  for (const Job& job : out->jobs) known.insert(job.id);
  for (const Job& job : out->jobs) {
    const bool active = job.state == RUNNING || job.state == CANCELLING || job.state == STOPPING;
    const bool idle = job.state == QUEUED || IsEnded(job.state);
    const bool stopping = job.state == CANCELLING || job.state == STOPPING;
    if ((active && !job.attempt_open) || (idle && job.attempt_open) ||
        stopping != (job.stop != Stop::kNone) ||
        (job.state == CANCELLING) != (job.stop == Stop::kCancelled)) {
      return Damaged(*database_, "the state of job " + job.id);
    }
    for (const std::string& id : job.after) {
      if (!known.contains(id)) return Damaged(*database_, "the jobs before job " + job.id);
    }
    if (!job.attempt_open) continue;
    const auto launch = launches.find(job.fleet);
    const bool sound = launch != launches.end() && launch->second->id == job.launch_id &&
                       launch->second->phase == LaunchPhase::kLive &&
                       launch->second->world_size >= job.attempt_ranks &&
                       busy.insert(job.fleet).second;
    if (!sound) return Damaged(*database_, "the fleet of job " + job.id);
  }
  return grpc::Status::OK;
}

}  // namespace swinfleet::coordinator
