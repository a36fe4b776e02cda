#include "coordinator/admission.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

#include "coordinator/child_process.h"
#include "proto/job_yaml.h"

namespace swinfleet::coordinator {
namespace {

constexpr char kProgram[] = "swinfleet-plan";
constexpr size_t kMaxRequests = 256;
// Questions that are remembered, and the longest one of them.
constexpr size_t kMaxRemembered = 1024;
constexpr size_t kMaxQuestion = 8192;
// gRPC sends a status as a header, whose size is limited.
constexpr size_t kMaxMessage = 4096;

// The job as a file that only this user can read; removed with the object.
class JobFile {
 public:
  explicit JobFile(const JobSpec& spec) {
    std::error_code error;
    std::filesystem::path folder = std::filesystem::temp_directory_path(error);
    if (error) folder = "/tmp";
    path_ = (folder / "swinfleet-check-XXXXXX.yaml").string();
    const int file = mkostemps(path_.data(), 5, O_CLOEXEC);
    if (file < 0) {
      fault_ = "can't make a file in " + folder.string() + ": " + strerror(errno);
      path_.clear();
      return;
    }
    const std::string text = JobToYaml(spec);
    size_t written = 0;
    while (written < text.size() && fault_.empty()) {
      const ssize_t size = write(file, text.data() + written, text.size() - written);
      if (size >= 0) {
        written += static_cast<size_t>(size);
      } else if (errno != EINTR) {
        fault_ = "can't write " + path_ + ": " + strerror(errno);
      }
    }
    close(file);
  }
  ~JobFile() {
    if (!path_.empty()) unlink(path_.c_str());
  }
  JobFile(const JobFile&) = delete;
  JobFile& operator=(const JobFile&) = delete;

  const std::string& path() const { return path_; }
  const std::string& fault() const { return fault_; }

 private:
  std::string path_;
  std::string fault_;
};

bool IsProgram(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

// What the program said, for the one who submitted: without our file's name, and bounded.
std::string Tidy(std::string text, const std::string& file) {
  for (size_t at = text.find(file); at != std::string::npos; at = text.find(file, at)) {
    text.replace(at, file.size(), "job");
  }
  for (char& c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte >= 0x7f || (byte < 0x20 && c != '\n')) c = '?';
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.size() > kMaxMessage) text = text.substr(0, kMaxMessage) + "...";
  return text;
}

grpc::Status Judge(const ChildResult& result, const std::string& said, double seconds) {
  using grpc::StatusCode;
  const std::string check = std::string(kProgram) + " --check ";
  const std::string detail = said.empty() ? "" : ": " + said;
  switch (result.end) {
    case ChildResult::End::kExited:
      if (result.code == 0) return grpc::Status::OK;
      if (result.code == 2) return {StatusCode::INVALID_ARGUMENT, said};
      return {StatusCode::INTERNAL,
              check + "failed with exit code " + std::to_string(result.code) + detail};
    case ChildResult::End::kSignalled:
      return {StatusCode::INTERNAL,
              check + "was ended by signal " + std::to_string(result.code) + detail};
    case ChildResult::End::kTimedOut: {
      std::ostringstream text;
      text << check << "took more than " << seconds
           << " s, which is this coordinator's limit; the job is not queued. Ask its operator for "
              "a longer one (swinfleet-coordinator --check-timeout), or submit again when its "
              "machine is less busy";
      return {StatusCode::RESOURCE_EXHAUSTED, text.str()};
    }
    case ChildResult::End::kStopped:
      return {StatusCode::UNAVAILABLE, "the coordinator is stopping"};
    case ChildResult::End::kNotStarted:
      return {StatusCode::UNAVAILABLE, check + "can't be started: " + strerror(result.code)};
  }
  return grpc::Status::OK;
}

}  // namespace

Admission::Admission(AdmissionOptions options)
    : options_(std::move(options)), stop_event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  PCHECK(stop_event_ >= 0);
  thread_ = std::thread([this] { Work(); });
}

Admission::~Admission() {
  Stop();
  close(stop_event_);
}

void Admission::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  const uint64_t one = 1;
  PCHECK(write(stop_event_, &one, sizeof(one)) == sizeof(one));
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Admission::Check(std::shared_ptr<const JobSpec> spec, Reply reply) {
  const char* refusal = nullptr;
  bool possible = false;
  std::string question = Question(*spec);
  {
    std::lock_guard lock(mutex_);
    possible = possible_.contains(question);
    if (stopping_) {
      refusal = "the coordinator is stopping";
    } else if (possible) {
      // Nothing is left to be asked.
    } else if (requests_.size() >= kMaxRequests) {
      refusal = "too many jobs wait to be checked, try again";
    } else {
      requests_.push_back({std::move(spec), std::move(question), std::move(reply)});
    }
  }
  if (refusal != nullptr) return reply({grpc::StatusCode::UNAVAILABLE, refusal});
  if (possible) return reply(grpc::Status::OK);
  changed_.notify_all();
}

void Admission::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !requests_.empty(); });
    if (requests_.empty()) return;
    const Request request = std::move(requests_.front());
    requests_.pop_front();
    const bool stopping = stopping_;
    // The same question may have been answered since this one was asked.
    const bool possible = possible_.contains(request.question);
    lock.unlock();
    grpc::Status status;
    if (stopping) {
      status = {grpc::StatusCode::UNAVAILABLE, "the coordinator is stopping"};
    } else if (!possible) {
      status = CheckNow(*request.spec);
    }
    request.reply(status);
    lock.lock();
    if (status.ok()) Remember(request.question);
  }
}

std::string Admission::Question(const JobSpec& spec) const {
  JobSpec general = spec;
  general.clear_name();
  general.clear_run_dir();
  // Another program may answer otherwise.
  struct stat program = {};
  stat(FindProgram().c_str(), &program);
  std::ostringstream text;
  text << program.st_ino << " " << program.st_size << " " << program.st_mtim.tv_sec << " "
       << program.st_mtim.tv_nsec << " " << general.SerializeAsString();
  return text.str().size() > kMaxQuestion ? "" : text.str();
}

void Admission::Remember(const std::string& question) {
  if (question.empty() || !possible_.insert(question).second) return;
  possible_order_.push_back(question);
  if (possible_order_.size() <= kMaxRemembered) return;
  possible_.erase(possible_order_.front());
  possible_order_.pop_front();
}

std::string Admission::FindProgram() const {
  if (!options_.program.empty()) return options_.program;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error && IsProgram(self.parent_path() / kProgram)) {
    return (self.parent_path() / kProgram).string();
  }
  const char* path = getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (!folder.empty() && IsProgram(std::filesystem::path(folder) / kProgram)) {
      return (std::filesystem::path(folder) / kProgram).string();
    }
  }
  return "";
}

grpc::Status Admission::CheckNow(const JobSpec& spec) {
  const std::string program = FindProgram();
  if (program.empty()) {
    LOG_IF(WARNING, !warned_) << kProgram << " is neither beside this program nor in PATH; jobs "
                              << "are accepted without a check of their model and settings";
    warned_ = true;
    return grpc::Status::OK;
  }
  const JobFile file(spec);
  if (!file.fault().empty()) {
    return {grpc::StatusCode::UNAVAILABLE, "the job can't be checked: " + file.fault()};
  }
  ChildLimits limits;
  limits.seconds = options_.seconds;
  // AddressSanitizer reserves far more address space than any limit.
#if !defined(__SANITIZE_ADDRESS__)
  limits.memory = options_.memory;
#endif
  const ChildResult result = RunChild({program, "--check", file.path()}, limits, stop_event_);
  return Judge(result, Tidy(result.output, file.path()), limits.seconds);
}

}  // namespace swinfleet::coordinator
