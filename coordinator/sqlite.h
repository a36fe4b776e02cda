// A thin owner of SQLite's handles; the rest of the folder never sees sqlite3.h.
#ifndef SWINFLEET_COORDINATOR_SQLITE_H_
#define SWINFLEET_COORDINATOR_SQLITE_H_

#include <grpcpp/support/status.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

namespace swinfleet::coordinator {

class Database;

// A prepared statement. Steps return a status; a query's rows are read between steps. Errors say
// which file, what failed and why; a full disk is RESOURCE_EXHAUSTED, everything else UNAVAILABLE.
class Statement {
 public:
  Statement(Database* database, const char* sql);
  ~Statement();
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // Binds the next parameter, from the left.
  Statement& Bind(int64_t value);
  Statement& Bind(double value);
  Statement& Bind(const std::string& text);
  Statement& BindBlob(const std::string& bytes);

  // Runs a statement that returns no rows, and makes it ready for the next binding.
  grpc::Status Run();
  // True: a row is there to be read. False: no more rows, or an error, which status() then tells.
  bool Next();
  grpc::Status status() const { return status_; }
  void Reset();

  // Reads the row's next column, from the left.
  int64_t Int();
  double Double();
  std::string Text();

 private:
  Database* database_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
  int read_ = 0;
  grpc::Status status_;
};

class Database {
 public:
  ~Database();
  // Opens or creates the file. `durable` makes each commit survive a loss of power (synchronous
  // FULL); otherwise only a crash of the program (NORMAL).
  static grpc::Status Open(const std::string& path, bool durable, std::unique_ptr<Database>* out);

  grpc::Status Run(const std::string& sql);
  // The value of a PRAGMA or of a query with one number; -1 if there is none.
  grpc::Status Number(const std::string& sql, int64_t* value);

  // Brings the file to the newest version of its schema, in one transaction. `steps` are SQL: the
  // first makes version 1 in an empty file, each other one makes its version of the one before; a
  // file gets those that it lacks. Refuses a file of a newer version or of another program.
  grpc::Status PrepareSchema(const std::vector<std::string>& steps);

  grpc::Status Error(int code, const std::string& doing) const;
  const std::string& path() const { return path_; }
  sqlite3* handle() const { return handle_; }

 private:
  Database(std::string path) : path_(std::move(path)) {}
  std::string path_;
  sqlite3* handle_ = nullptr;
};

// A transaction that is rolled back unless Commit was called and succeeded.
class Transaction {
 public:
  explicit Transaction(Database* database);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  grpc::Status Begin();
  grpc::Status Commit();

 private:
  Database* database_;
  bool open_ = false;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_SQLITE_H_
