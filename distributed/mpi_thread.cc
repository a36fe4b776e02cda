#include "distributed/mpi_thread.h"

#include <glog/logging.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <future>
#include <numeric>
#include <vector>

#include "kernels/error.h"

namespace swinfleet {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// Messages of the waiting before a group is made are told apart from each other by the group's tag.
constexpr int kMaxGroupTag = 32767;

void Sleep(nanoseconds duration) {
  const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(duration.count())};
  nanosleep(&time, nullptr);
}

}  // namespace

void MpiOperation::Wait() {
  WaitQuietly();
  if (error_) std::rethrow_exception(error_);
}

void MpiOperation::WaitQuietly() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return done_; });
}

void MpiOperation::Finish(std::exception_ptr error) {
  // What the work holds on to goes here, not with the last handle, which may live on another
  // thread.
  work_ = nullptr;
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  done_ = true;
  finished_.notify_all();
}

void Backoff::Reset() {
  tests_ = 0;
  since_ = std::chrono::steady_clock::now();
}

void Backoff::Pause() {
  constexpr int kSpins = 16;
  constexpr int kYields = 32;
  ++tests_;
  if (tests_ <= kSpins) return;
  if (tests_ <= kYields) {
    sched_yield();
    return;
  }
  const nanoseconds waited = std::chrono::steady_clock::now() - since_;
  Sleep(std::clamp<nanoseconds>(waited / 16, microseconds(5), milliseconds(1)));
}

MpiThread::MpiThread() {
  std::promise<void> started;
  thread_ = std::thread([this, &started] {
    Main([&started](std::exception_ptr error) {
      error ? started.set_exception(std::move(error)) : started.set_value();
    });
  });
  try {
    started.get_future().get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

MpiThread::~MpiThread() {
  if (std::uncaught_exceptions() > 0) GiveUp("this rank is leaving after an error");
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<MpiOperation> MpiThread::Post(std::function<void()> work) {
  auto operation = std::make_shared<MpiOperation>(std::move(work));
  {
    const std::lock_guard lock(mutex_);
    CHECK(!stop_) << "MPI is already being finalised";
    queue_.push_back(operation);
  }
  changed_.notify_all();
  return operation;
}

void MpiThread::GiveUp(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (given_up_) return;
    reason_ = reason;
    given_up_ = true;
  }
  changed_.notify_all();
}

void MpiThread::CheckNotGivenUp() const {
  if (given_up_) throw Error("communication was given up: " + reason_);
}

void MpiThread::Check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(std::string(call) + " failed: " + text +
              "; a peer or the network between the hosts is gone, restart from the checkpoint");
}

void MpiThread::Main(std::function<void(std::exception_ptr)> started) {
  // Signals are for the main thread; MPI's own threads inherit this.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  // The default slack of 50 us would make every short sleep a long one.
  prctl(PR_SET_TIMERSLACK, 1000);
  try {
    Initialize();
  } catch (...) {
    started(std::current_exception());
    return;
  }
  started(nullptr);

  // Between collectives MPI is given a chance to push out what it still buffers.
  nanoseconds idle = milliseconds(1);
  std::unique_lock lock(mutex_);
  while (true) {
    if (!queue_.empty()) {
      const std::shared_ptr<MpiOperation> operation = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      Run(*operation);
      lock.lock();
      idle = milliseconds(1);
      continue;
    }
    if (stop_) break;
    const auto something = [this] { return stop_ || !queue_.empty(); };
    if (given_up_) {
      changed_.wait(lock, something);
    } else if (!changed_.wait_for(lock, idle, something)) {
      int flag = 0;
      MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world_, &flag, MPI_STATUS_IGNORE);
      idle = std::min<nanoseconds>(2 * idle, milliseconds(100));
    }
  }
  lock.unlock();
  Finalize();
}

void MpiThread::Initialize() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  CHECK(!initialized) << "MPI is initialised once in a process";
  // For the few calls in which MPI itself waits (start, end, making a group).
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  int provided = 0;
  Check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_FUNNELED) {
    throw Error("this MPI library was built without support for threads");
  }
  Check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  Check(MPI_Comm_dup(MPI_COMM_WORLD, &world_), "MPI_Comm_dup");
  Check(MPI_Comm_rank(world_, &world_rank_), "MPI_Comm_rank");
  Check(MPI_Comm_size(world_, &world_size_), "MPI_Comm_size");
  MPI_Comm host = MPI_COMM_NULL;
  Check(MPI_Comm_split_type(world_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
        "MPI_Comm_split_type");
  Check(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  Check(MPI_Comm_size(host, &local_size_), "MPI_Comm_size");
  Check(MPI_Comm_free(&host), "MPI_Comm_free");
}

void MpiThread::Finalize() {
  try {
    CheckNotGivenUp();
    MPI_Request request = MPI_REQUEST_NULL;
    Check(MPI_Ibarrier(world_, &request), "MPI_Ibarrier");
    WaitAll({&request, 1});
    Check(MPI_Comm_free(&world_), "MPI_Comm_free");
    Check(MPI_Finalize(), "MPI_Finalize");
  } catch (const Error& error) {
    LOG(WARNING) << "leaving without MPI_Finalize: " << error.what();
  }
}

void MpiThread::Run(MpiOperation& operation) {
  std::exception_ptr error;
  try {
    CheckNotGivenUp();
    operation.work_();
  } catch (const Error& failure) {
    // Messages of the broken operation may still be under way, so nothing that follows could be
    // matched with what the peers send.
    GiveUp(failure.what());
    error = std::current_exception();
  }
  operation.Finish(error);
}

void MpiThread::WaitAll(std::span<MPI_Request> requests) {
  Backoff backoff;
  int done = 0;
  while (true) {
    CheckNotGivenUp();
    Check(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    if (done) return;
    backoff.Pause();
  }
}

int MpiThread::WaitSome(std::span<MPI_Request> requests, std::span<int> done) {
  Backoff backoff;
  int count = 0;
  while (true) {
    CheckNotGivenUp();
    Check(MPI_Testsome(static_cast<int>(requests.size()), requests.data(), &count, done.data(),
                       MPI_STATUSES_IGNORE),
          "MPI_Testsome");
    CHECK_NE(count, MPI_UNDEFINED) << "no request is active";
    if (count > 0) return count;
    backoff.Pause();
  }
}

MPI_Comm MpiThread::CreateGroup(int ranks, int tag) {
  CHECK(tag >= 0 && tag <= kMaxGroupTag) << tag;
  CHECK(ranks > world_rank_ && ranks <= world_size_)
      << "rank " << world_rank_ << " of " << world_size_ << " in a group of " << ranks;
  // A dissemination barrier: after round d each has heard from 2 d ranks before it.
  for (int distance = 1; distance < ranks; distance *= 2) {
    MPI_Request requests[2];
    Check(MPI_Irecv(nullptr, 0, MPI_BYTE, (world_rank_ + ranks - distance) % ranks, tag, world_,
                    &requests[0]),
          "MPI_Irecv");
    Check(MPI_Isend(nullptr, 0, MPI_BYTE, (world_rank_ + distance) % ranks, tag, world_,
                    &requests[1]),
          "MPI_Isend");
    WaitAll(requests);
  }
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Comm comm = MPI_COMM_NULL;
  Check(MPI_Comm_group(world_, &world), "MPI_Comm_group");
  Check(MPI_Group_incl(world, ranks, members.data(), &group), "MPI_Group_incl");
  Check(MPI_Comm_create_group(world_, group, tag, &comm), "MPI_Comm_create_group");
  Check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  Check(MPI_Group_free(&group), "MPI_Group_free");
  Check(MPI_Group_free(&world), "MPI_Group_free");
  return comm;
}

}  // namespace swinfleet
