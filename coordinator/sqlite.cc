#include "coordinator/sqlite.h"

#include <glog/logging.h>
#include <sqlite3.h>

#include <cerrno>
#include <cstring>

namespace swinfleet::coordinator {
namespace {

// "SwFl": marks our files among SQLite's.
constexpr int64_t kApplicationId = 0x5377466c;

}  // namespace

grpc::Status Database::Error(int code, const std::string& doing) const {
  // sqlite3_system_errno knows of opening only, so the calls below set errno to 0 beforehand.
  const int system = errno;
  std::string text = path_ + ": " + doing + ": " + sqlite3_errstr(code);
  const char* detail = handle_ == nullptr ? nullptr : sqlite3_errmsg(handle_);
  if (detail != nullptr && text.find(detail) == std::string::npos) {
    text += std::string(" (") + detail + ")";
  }
  const int primary = code & 0xff;
  if (primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN) {
    if (system != 0) text += std::string(": ") + strerror(system);
  }
  const bool full =
      primary == SQLITE_FULL ||
      (primary == SQLITE_IOERR && (system == ENOSPC || system == EDQUOT || system == EFBIG));
  if (full) text += "; the disk or quota is full, make room on it";
  return {full ? grpc::StatusCode::RESOURCE_EXHAUSTED : grpc::StatusCode::UNAVAILABLE, text};
}

Database::~Database() { sqlite3_close(handle_); }

grpc::Status Database::Open(const std::string& path, bool durable, std::unique_ptr<Database>* out) {
  std::unique_ptr<Database> database(new Database(path));
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  errno = 0;
  const int code = sqlite3_open_v2(path.c_str(), &database->handle_, flags, nullptr);
  if (code != SQLITE_OK) return database->Error(code, "opening");
  sqlite3_extended_result_codes(database->handle_, 1);
  sqlite3_busy_timeout(database->handle_, 2000);
  for (const std::string& pragma :
       {std::string("PRAGMA journal_mode=WAL"),
        std::string(durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"),
        std::string("PRAGMA foreign_keys=ON")}) {
    if (grpc::Status status = database->Run(pragma); !status.ok()) return status;
  }
  *out = std::move(database);
  return grpc::Status::OK;
}

grpc::Status Database::Run(const std::string& sql) {
  errno = 0;
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? grpc::Status::OK : Error(code, sql.substr(0, sql.find('(')));
}

grpc::Status Database::Number(const std::string& sql, int64_t* value) {
  Statement statement(this, sql.c_str());
  *value = -1;
  if (statement.Next()) *value = statement.Int();
  return statement.status();
}

grpc::Status Database::PrepareSchema(const std::vector<std::string>& steps) {
  const auto version = static_cast<int64_t>(steps.size());
  int64_t found = 0, application = 0, tables = 0;
  for (const auto& [sql, value] : {std::pair<const char*, int64_t*>{"PRAGMA user_version", &found},
                                   {"PRAGMA application_id", &application},
                                   {"SELECT count(*) FROM sqlite_master", &tables}}) {
    if (grpc::Status status = Number(sql, value); !status.ok()) return status;
  }
  if (tables > 0 && application != kApplicationId) {
    return {grpc::StatusCode::FAILED_PRECONDITION,
            path_ + " is a database of another program; choose another --store"};
  }
  if (found > version) {
    return {grpc::StatusCode::FAILED_PRECONDITION,
            path_ + " was written by a newer swinfleet (schema " + std::to_string(found) +
                ", this program knows " + std::to_string(version) +
                "); use that program, or another --store"};
  }
  if (found == version) return grpc::Status::OK;
  Transaction transaction(this);
  if (grpc::Status status = transaction.Begin(); !status.ok()) return status;
  std::string sql;
  for (auto step = steps.begin() + found; step != steps.end(); ++step) sql += *step + "; ";
  sql += "PRAGMA application_id=" + std::to_string(kApplicationId) +
         "; PRAGMA user_version=" + std::to_string(version);
  if (grpc::Status status = Run(sql); !status.ok()) return status;
  LOG_IF(INFO, found > 0) << path_ << ": schema " << found << " is now schema " << version;
  return transaction.Commit();
}

Statement::Statement(Database* database, const char* sql) : database_(database) {
  errno = 0;
  const int code = sqlite3_prepare_v2(database->handle(), sql, -1, &statement_, nullptr);
  if (code != SQLITE_OK) status_ = database->Error(code, std::string("preparing ") + sql);
}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bind(int64_t value) {
  if (statement_) CHECK_EQ(sqlite3_bind_int64(statement_, ++bound_, value), SQLITE_OK);
  return *this;
}

Statement& Statement::Bind(double value) {
  if (statement_) CHECK_EQ(sqlite3_bind_double(statement_, ++bound_, value), SQLITE_OK);
  return *this;
}

Statement& Statement::Bind(const std::string& text) {
  if (statement_) {
    CHECK_EQ(sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                               SQLITE_TRANSIENT),
             SQLITE_OK);
  }
  return *this;
}

Statement& Statement::BindBlob(const std::string& bytes) {
  if (statement_) {
    CHECK_EQ(sqlite3_bind_blob(statement_, ++bound_, bytes.data(), static_cast<int>(bytes.size()),
                               SQLITE_TRANSIENT),
             SQLITE_OK);
  }
  return *this;
}

grpc::Status Statement::Run() {
  if (!status_.ok()) return status_;
  errno = 0;
  const int code = sqlite3_step(statement_);
  if (code != SQLITE_DONE) status_ = database_->Error(code, "writing");
  const grpc::Status result = status_;
  Reset();
  return result;
}

bool Statement::Next() {
  if (!status_.ok()) return false;
  read_ = 0;
  errno = 0;
  const int code = sqlite3_step(statement_);
  if (code != SQLITE_ROW && code != SQLITE_DONE) status_ = database_->Error(code, "reading");
  return code == SQLITE_ROW;
}

void Statement::Reset() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  bound_ = 0;
  status_ = grpc::Status::OK;
}

int64_t Statement::Int() { return sqlite3_column_int64(statement_, read_++); }

double Statement::Double() { return sqlite3_column_double(statement_, read_++); }

std::string Statement::Text() {
  const void* bytes = sqlite3_column_blob(statement_, read_);
  const int size = sqlite3_column_bytes(statement_, read_++);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), size);
}

Transaction::Transaction(Database* database) : database_(database) {}

grpc::Status Transaction::Begin() {
  const grpc::Status status = database_->Run("BEGIN IMMEDIATE");
  open_ = status.ok();
  return status;
}

grpc::Status Transaction::Commit() {
  const grpc::Status status = database_->Run("COMMIT");
  if (status.ok()) open_ = false;
  return status;
}

Transaction::~Transaction() {
  if (!open_) return;
  // After some errors SQLite has rolled back by itself; then there is nothing to do.
  if (sqlite3_get_autocommit(database_->handle()) != 0) return;
  const grpc::Status status = database_->Run("ROLLBACK");
  LOG_IF(ERROR, !status.ok()) << status.error_message();
}

}  // namespace swinfleet::coordinator
