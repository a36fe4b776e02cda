#include "coordinator/log_store.h"

#include <glog/logging.h>

#include <chrono>
#include <limits>
#include <utility>

namespace swinfleet::coordinator {
namespace {

constexpr char kSchema[] =
    "CREATE TABLE lines (job_id TEXT NOT NULL, sequence INTEGER NOT NULL, line BLOB NOT NULL, "
    "PRIMARY KEY (job_id, sequence)) WITHOUT ROWID";

// How long lines are collected before they are written together.
constexpr std::chrono::milliseconds kCollect{500};
// How long to wait after a failed write.
constexpr std::chrono::seconds kRetry{2};
// Bytes of one answer, well below gRPC's limit of a message.
constexpr size_t kAnswerBytes = 2 << 20;

}  // namespace

grpc::Status LogStore::Open(const std::string& folder, const Limits& limits,
                            std::unique_ptr<LogStore>* out) {
  std::unique_ptr<LogStore> store(new LogStore(limits));
  grpc::Status status =
      Database::Open(folder + "/logs.sqlite", /*durable=*/false, &store->database_);
  if (status.ok()) status = store->database_->PrepareSchema({kSchema});
  if (status.ok()) status = store->PrepareStatements();
  if (!status.ok()) return status;
  store->thread_ = std::thread([raw = store.get()] { raw->Work(); });
  *out = std::move(store);
  return grpc::Status::OK;
}

grpc::Status LogStore::PrepareStatements() {
  const std::pair<std::unique_ptr<Statement>*, const char*> statements[] = {
      {&put_, "INSERT OR REPLACE INTO lines (job_id, sequence, line) VALUES (?,?,?)"},
      {&get_,
       "SELECT sequence, line FROM lines WHERE job_id=? AND sequence>? ORDER BY sequence LIMIT ?"},
      {&newest_, "SELECT coalesce(max(sequence), 0) FROM lines WHERE job_id=?"},
      {&trim_, "DELETE FROM lines WHERE job_id=? AND sequence<=?"}};
  for (const auto& [statement, sql] : statements) {
    *statement = std::make_unique<Statement>(database_.get(), sql);
    if (!(*statement)->status().ok()) return (*statement)->status();
  }
  return grpc::Status::OK;
}

LogStore::~LogStore() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LogStore::Append(const std::string& job_id, std::vector<LogLine> lines) {
  bool was_empty = false;
  {
    std::lock_guard lock(mutex_);
    was_empty = buffer_.empty();
    for (LogLine& line : lines) {
      if (buffer_.size() >= limits_.buffered_lines) {
        ++dropped_[job_id];
        continue;
      }
      buffer_.push_back({job_id, std::move(line)});
    }
  }
  if (was_empty) changed_.notify_all();
}

void LogStore::Read(const std::string& job_id, uint64_t after, uint32_t limit, ReadReply reply) {
  {
    std::lock_guard lock(mutex_);
    CHECK(!stopping_);
    reads_.push_back({job_id, after, limit, std::move(reply)});
  }
  changed_.notify_all();
}

void LogStore::Work() {
  std::unique_lock lock(mutex_);
  const auto urgent = [this] { return stopping_ || !reads_.empty(); };
  while (true) {
    changed_.wait(lock, [&] { return urgent() || !buffer_.empty(); });
    changed_.wait_for(lock, kCollect, urgent);
    const bool stopping = stopping_;
    const std::vector<ReadRequest> reads = std::exchange(reads_, {});
    lock.unlock();
    const grpc::Status status = Flush();
    LOG_IF_EVERY_N(ERROR, !status.ok(), 30) << "log lines wait: " << status.error_message();
    // A full disk must not keep anyone from reading what is there.
    for (const ReadRequest& read : reads) Serve(read);
    lock.lock();
    if (stopping) return;
    if (!status.ok()) changed_.wait_for(lock, kRetry, urgent);
  }
}

grpc::Status LogStore::Flush() {
  std::vector<Pending> lines;
  std::map<std::string, uint64_t> dropped;
  {
    std::lock_guard lock(mutex_);
    lines.swap(buffer_);
    dropped.swap(dropped_);
  }
  if (lines.empty() && dropped.empty()) return grpc::Status::OK;
  const size_t real = lines.size();
  for (const auto& [job_id, count] : dropped) {
    Pending note{job_id, {}};
    note.line.set_severity("W");
    note.line.set_text("the coordinator dropped " + std::to_string(count) +
                       " log lines that it could not write in time");
    lines.push_back(std::move(note));
  }
  const grpc::Status status = WriteLines(&lines);
  if (status.ok()) return status;
  next_sequence_.clear();
  std::lock_guard lock(mutex_);
  lines.resize(real);
  lines.insert(lines.end(), std::make_move_iterator(buffer_.begin()),
               std::make_move_iterator(buffer_.end()));
  buffer_ = std::move(lines);
  for (const auto& [job_id, count] : dropped) dropped_[job_id] += count;
  return status;
}

grpc::Status LogStore::WriteLines(std::vector<Pending>* lines) {
  Transaction transaction(database_.get());
  grpc::Status status = transaction.Begin();
  std::map<std::string, uint64_t> newest;
  for (Pending& pending : *lines) {
    if (!status.ok()) return status;
    uint64_t sequence = 0;
    status = NextSequence(pending.job_id, &sequence);
    if (!status.ok()) return status;
    pending.line.set_sequence(sequence);
    newest[pending.job_id] = sequence;
    status = put_->Bind(pending.job_id)
                 .Bind(static_cast<int64_t>(sequence))
                 .BindBlob(pending.line.SerializeAsString())
                 .Run();
  }
  for (const auto& [job_id, sequence] : newest) {
    if (status.ok()) status = Trim(job_id, sequence);
  }
  if (status.ok()) status = transaction.Commit();
  return status;
}

grpc::Status LogStore::NextSequence(const std::string& job_id, uint64_t* sequence) {
  auto known = next_sequence_.find(job_id);
  if (known == next_sequence_.end()) {
    newest_->Bind(job_id);
    const bool found = newest_->Next();
    const grpc::Status status = newest_->status();
    const uint64_t newest = found ? static_cast<uint64_t>(newest_->Int()) : 0;
    newest_->Reset();
    if (!status.ok()) return status;
    known = next_sequence_.emplace(job_id, newest + 1).first;
  }
  *sequence = known->second++;
  return grpc::Status::OK;
}

grpc::Status LogStore::Trim(const std::string& job_id, uint64_t newest) {
  if (newest <= limits_.lines_per_job) return grpc::Status::OK;
  return trim_->Bind(job_id).Bind(static_cast<int64_t>(newest - limits_.lines_per_job)).Run();
}

void LogStore::Serve(const ReadRequest& request) {
  std::vector<LogLine> lines;
  if (request.after > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return request.reply(grpc::Status::OK, std::move(lines), false);
  }
  get_->Bind(request.job_id)
      .Bind(static_cast<int64_t>(request.after))
      .Bind(static_cast<int64_t>(request.limit) + 1);
  size_t bytes = 0;
  bool more = false;
  while (get_->Next()) {
    if (lines.size() >= request.limit || bytes >= kAnswerBytes) {
      more = true;
      break;
    }
    LogLine line;
    const uint64_t sequence = static_cast<uint64_t>(get_->Int());
    const std::string stored = get_->Text();
    if (!line.ParseFromString(stored)) continue;
    line.set_sequence(sequence);
    bytes += stored.size();
    lines.push_back(std::move(line));
  }
  const grpc::Status status = get_->status();
  get_->Reset();
  request.reply(status, std::move(lines), more);
}

}  // namespace swinfleet::coordinator
