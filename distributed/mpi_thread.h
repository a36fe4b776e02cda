// The thread that makes every MPI call of the process. Not for use outside of distributed/.
#ifndef SWINFLEET_DISTRIBUTED_MPI_THREAD_H_
#define SWINFLEET_DISTRIBUTED_MPI_THREAD_H_

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

namespace swinfleet {

// Something queued to the MPI thread.
class MpiOperation {
 public:
  explicit MpiOperation(std::function<void()> work) : work_(std::move(work)) {}
  // Blocks until the work was done; throws what it threw.
  void Wait();
  // The same, but throws nothing.
  void WaitQuietly();

 private:
  friend class MpiThread;
  void Finish(std::exception_ptr error);

  std::function<void()> work_;
  std::mutex mutex_;
  std::condition_variable finished_;
  bool done_ = false;
  std::exception_ptr error_;
};

// How long to pause between two tests of a message that isn't there yet. Ranks compute on the core
// that this thread shares with them, so it soon sleeps; pauses stay a small part of the time
// waited.
class Backoff {
 public:
  Backoff() { Reset(); }
  // Something happened: be quick again.
  void Reset();
  void Pause();

 private:
  int tests_ = 0;
  std::chrono::steady_clock::time_point since_;
};

class MpiThread {
 public:
  // Initialises MPI. Throws Error when that fails.
  MpiThread();
  // Finalises MPI with the other ranks, unless it was given up or an exception is under way: then
  // the process leaves without them, and its launcher ends them.
  ~MpiThread();
  MpiThread(const MpiThread&) = delete;
  MpiThread& operator=(const MpiThread&) = delete;

  int world_rank() const { return world_rank_; }
  int world_size() const { return world_size_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  // Runs `work` on the thread, after all that was posted before.
  std::shared_ptr<MpiOperation> Post(std::function<void()> work);
  // Gives MPI up for the rest of the process, because a rank leaves in the middle of collectives:
  // what is queued fails, no buffer is touched any more, no MPI call is made any more.
  void GiveUp(const std::string& reason);

  // The rest is only for work that runs on the thread.

  // Throws Error, naming `call`, for any other code than MPI_SUCCESS.
  static void Check(int code, const char* call);
  // Waits for all requests.
  void WaitAll(std::span<MPI_Request> requests);
  // Waits for at least one request; writes the indices of those done to `done` (as long as
  // `requests`) and returns how many they are. At least one request must be active.
  int WaitSome(std::span<MPI_Request> requests, std::span<int> done);
  // A communicator of the world's first `ranks` ranks, which alone call this. They first wait for
  // each other, patiently, since MPI's own call would spin.
  MPI_Comm CreateGroup(int ranks, int tag);

 private:
  void Main(std::function<void(std::exception_ptr)> started);
  void Initialize();
  void Finalize();
  void Run(MpiOperation& operation);
  void CheckNotGivenUp() const;

  int world_rank_ = 0;
  int world_size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  MPI_Comm world_ = MPI_COMM_NULL;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<MpiOperation>> queue_;
  bool stop_ = false;
  std::atomic<bool> given_up_ = false;
  // Written once, before given_up_ is set.
  std::string reason_;
  std::thread thread_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_DISTRIBUTED_MPI_THREAD_H_
