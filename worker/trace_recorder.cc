#include "worker/trace_recorder.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <map>
#include <ostream>
#include <span>
#include <streambuf>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "kernels/error.h"
#include "kernels/profile.h"
#include "worker/host_name.h"
#include "worker/trace.h"

namespace swinfleet {
namespace {

constexpr size_t kMostCollectives = 20000;

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// A stream into a file. What goes wrong with it is thrown by whoever writes to the stream.
class FileBuffer : public std::streambuf {
 public:
  explicit FileBuffer(OutputFile* file) : file_(*file), buffer_(1 << 16) { Reset(); }

 protected:
  int_type overflow(int_type next) override {
    sync();
    if (next != traits_type::eof()) sputc(traits_type::to_char_type(next));
    return traits_type::not_eof(next);
  }
  int sync() override {
    const auto size = static_cast<size_t>(pptr() - pbase());
    file_.WriteAt(offset_, std::as_bytes(std::span(pbase(), size)));
    offset_ += size;
    Reset();
    return 0;
  }

 private:
  void Reset() { setp(buffer_.data(), buffer_.data() + buffer_.size()); }

  OutputFile& file_;
  std::vector<char> buffer_;
  uint64_t offset_ = 0;
};

std::string TracePath(const TraceRecorderOptions& options, int64_t first_step, int rank) {
  char name[64];
  std::snprintf(name, sizeof(name), "/step-%08lld-rank-%05d.json",
                static_cast<long long>(first_step), rank);
  return options.run_dir + "/traces/" + AttemptName(options.attempt) + name;
}

// Under its name only when all of it is there.
void WriteFile(const Trace& trace, const std::string& path, FileOps& files) {
  MakeFolders(FolderOf(path));
  const std::string part = path + ".part";
  OutputFile file(part, files);
  FileBuffer buffer(&file);
  std::ostream out(&buffer);
  // So that the error which the buffer throws passes through.
  out.exceptions(std::ios::badbit);
  WriteTrace(trace, &out);
  file.Sync();
  file.Close();
  RenameFile(part, path, files);
  SyncFolder(FolderOf(path), files);
}

}  // namespace

struct TraceRecorder::Recording {
  Recording(const TraceRequest& wanted, Profile made)
      : request(wanted), profile(std::move(made)), start(UnixTime() - profile.Now()) {}

  // Those that ran beside the steps. The newest ones may not have ended yet.
  void Collect(const std::vector<CollectiveRecord>& recent) {
    for (const CollectiveRecord& record : recent) {
      if (record.ended == 0 || record.ended < start || (end != 0 && record.posted > end)) continue;
      newest = std::max(newest, record.sequence);
      if (collectives.size() < kMostCollectives) collectives.emplace(record.sequence, record);
    }
  }
  bool done() const { return static_cast<int64_t>(steps.size()) == request.steps; }

  Trace AsTrace() const {
    Trace trace = {.profile = &profile, .profile_start = start, .origin = request.origin};
    trace.steps = steps;
    for (const auto& [sequence, record] : collectives) trace.collectives.push_back(record);
    if (!collectives.empty()) {
      trace.collectives_left_out = newest - collectives.begin()->first + 1 - collectives.size();
    }
    return trace;
  }

  const TraceRequest request;
  Profile profile;
  // When it began and when its last step ended, in seconds since 1970; 0: not yet.
  const double start;
  double end = 0;
  std::vector<TracedStep> steps;
  // Moments of a GPU's that the steps before this one have left.
  size_t moments_before = 0;
  std::map<uint64_t, CollectiveRecord> collectives;  // by sequence
  uint64_t newest = 0;
};

TraceRecorder::TraceRecorder(const TraceRecorderOptions& options, Context* context,
                             const Communicator* communicator, Reporter* reporter)
    : options_(options), context_(context), communicator_(communicator), reporter_(reporter) {}

TraceRecorder::~TraceRecorder() {
  // A step that has thrown.
  if (plain_ops_ == nullptr) return;
  context_->ops = plain_ops_;
  context_->profile = nullptr;
}

bool TraceRecorder::Asked() {
  ReportWritten();
  if (asked_ || recording_ != nullptr || written_.valid()) return asked_.has_value();
  asked_ = reporter_->TakeTraceRequest();
  return asked_.has_value();
}

void TraceRecorder::BeginStep(int64_t step) {
  if (recording_ == nullptr || recording_->done()) return;
  recording_->moments_before = recording_->profile.noted();
  recording_->steps.push_back({.number = step, .begin = recording_->profile.Now()});
  plain_ops_ = std::exchange(context_->ops, &ProfilingOps());
  context_->profile = &recording_->profile;
}

void TraceRecorder::Note() {
  if (recording_ != nullptr) recording_->Collect(communicator_->recent());
}

void TraceRecorder::EndStep(int64_t asked) {
  Note();
  if (plain_ops_ != nullptr) {
    context_->ops = std::exchange(plain_ops_, nullptr);
    context_->profile = nullptr;
    TracedStep& step = recording_->steps.back();
    step.seconds = recording_->profile.Now() - step.begin;
    if (recording_->done()) recording_->end = UnixTime();
    recording_->profile.ReadTimes(recording_->moments_before);
  } else if (recording_ != nullptr && recording_->done()) {
    recording_->profile.Finish();
    Write();
  }
  if (asked_ && asked == asked_->ranks) Begin(*std::exchange(asked_, std::nullopt));
}

void TraceRecorder::Begin(const TraceRequest& request) {
  LOG(INFO) << "records " << request.steps << (request.steps == 1 ? " step" : " steps")
            << " for a trace";
  Accelerator* const gpu = context_->accelerator;
  try {
    recording_ = std::make_unique<Recording>(
        request, gpu == nullptr ? Profile(*context_->ops, options_.most_calls)
                                // A step's are read at the end of the next one.
                                : Profile(gpu, 2 * options_.calls_of_step, options_.most_calls));
  } catch (const Error& error) {
    Report({.request_id = request.id, .error = error.what()});
  }
}

void TraceRecorder::Write() {
  const std::shared_ptr<const Recording> recording = std::move(recording_);
  const int rank = communicator_->rank();
  TraceResult result = {.request_id = recording->request.id,
                        .first_step = recording->steps.front().number,
                        .steps = static_cast<int64_t>(recording->steps.size())};
  writing_ = result.request_id;
  const std::string path = TracePath(options_, result.first_step, rank);
  std::packaged_task<TraceResult()> task(
      [recording, rank, path, result, files = options_.files]() mutable {
        Trace trace = recording->AsTrace();
        trace.rank = rank;
        trace.process = "rank " + std::to_string(rank) + " on " + HostName();
        try {
          WriteFile(trace, path, *files);
          result.path = path;
        } catch (const std::exception& error) {
          result.error = error.what();
        }
        return result;
      });
  written_ = task.get_future();
  // It owns what it needs, for it may outlive everybody's patience with its disk.
  try {
    std::thread(std::move(task)).detach();
  } catch (const std::system_error& error) {
    written_ = {};
    Report(
        {.request_id = writing_, .error = std::string("no thread to write it: ") + error.what()});
  }
}

void TraceRecorder::ReportWritten() {
  if (!written_.valid()) return;
  if (written_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
  Report(written_.get());
}

void TraceRecorder::Report(const TraceResult& result) {
  if (result.error.empty()) {
    LOG(INFO) << "trace of " << result.steps << (result.steps == 1 ? " step" : " steps")
              << " from step " << result.first_step << ": " << result.path;
  } else {
    LOG(WARNING) << "there is no trace of this rank: " << result.error;
  }
  reporter_->ReportTrace(result);
}

void TraceRecorder::Finish() {
  // Of a step that was broken off there is nothing to show.
  if (recording_ != nullptr && plain_ops_ == nullptr && !recording_->steps.empty()) {
    if (recording_->end == 0) recording_->end = UnixTime();
    try {
      recording_->profile.Finish();
    } catch (const Error& error) {
      return Report({.request_id = recording_->request.id, .error = error.what()});
    }
    Note();
    Write();
  }
  if (!written_.valid()) return;
  if (written_.wait_for(std::chrono::duration<double>(options_.patience_seconds)) ==
      std::future_status::ready) {
    return ReportWritten();
  }
  Report({.request_id = writing_, .error = "it could not be written in time"});
}

}  // namespace swinfleet
