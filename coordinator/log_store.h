// The last lines of every job's log, in a database of their own, so that many lines neither slow
// down nor crowd out the jobs. A crash of the program or machine may lose the last moments.
#ifndef SWINFLEET_COORDINATOR_LOG_STORE_H_
#define SWINFLEET_COORDINATOR_LOG_STORE_H_

#include <grpcpp/support/status.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/sqlite.h"
#include "proto/coordinator.pb.h"

namespace swinfleet::coordinator {

// Thread-safe.
class LogStore {
 public:
  struct Limits {
    // Lines kept of a job; older ones are dropped.
    uint64_t lines_per_job = 20000;
    // Bytes that these lines take in the database; as above.
    uint64_t bytes_per_job = 32 << 20;
    // Lines that wait to be written; further ones are dropped, and a line says how many.
    size_t buffered_lines = 50000;
  };

  // Opens `folder`/logs.sqlite and starts the thread that writes to it.
  static grpc::Status Open(const std::string& folder, const Limits& limits,
                           std::unique_ptr<LogStore>* out);
  // Writes what waits.
  ~LogStore();

  // Keeps the lines, numbering them; never blocks on the disk.
  void Append(const std::string& job_id, std::vector<LogLine> lines);

  // `more`: there are further lines.
  using ReadReply =
      std::function<void(const grpc::Status& status, std::vector<LogLine> lines, bool more)>;
  // Reads at most `limit` lines after number `after`, oldest first; what was appended before is
  // included. `reply` is called from the store's thread, once.
  void Read(const std::string& job_id, uint64_t after, uint32_t limit, ReadReply reply);

 private:
  struct Pending {
    std::string job_id;
    LogLine line;
  };
  struct ReadRequest {
    std::string job_id;
    uint64_t after = 0;
    uint32_t limit = 0;
    ReadReply reply;
  };

  explicit LogStore(const Limits& limits) : limits_(limits) {}
  grpc::Status PrepareStatements();
  void Work();
  // Writes what waits; the lines stay if that fails.
  grpc::Status Flush();
  grpc::Status WriteLines(std::vector<Pending>* lines);
  // What the database has of a job.
  struct Volume {
    uint64_t newest = 0;  // The sequence number of its last line.
    uint64_t bytes = 0;
  };
  grpc::Status VolumeOf(const std::string& job_id, Volume** volume);
  grpc::Status Trim(const std::string& job_id, Volume* volume);
  void Serve(const ReadRequest& request);

  const Limits limits_;

  // Of the thread.
  std::unique_ptr<Database> database_;
  std::unique_ptr<Statement> put_, get_, volume_, sizes_, trim_;
  std::map<std::string, Volume> volumes_;  // by job

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Pending> buffer_;
  std::map<std::string, uint64_t> dropped_;  // by job
  std::vector<ReadRequest> reads_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_LOG_STORE_H_
