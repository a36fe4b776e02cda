// The output of the supervised command. It goes to a file, not to the supervisor's own output: the
// command must go on undisturbed when the supervisor, or the terminal that it was started in, is
// gone. The supervisor copies the file to its own output while it lives.
#ifndef SWINFLEET_COORDINATOR_SUPERVISOR_OUTPUT_LOG_H_
#define SWINFLEET_COORDINATOR_SUPERVISOR_OUTPUT_LOG_H_

#include <cstdint>
#include <string>

namespace swinfleet {

class OutputLog {
 public:
  OutputLog() = default;
  OutputLog(const OutputLog&) = delete;
  OutputLog& operator=(const OutputLog&) = delete;
  ~OutputLog();

  // Opens `path` for appending, or makes it. Only what is added from now on is copied.
  bool Open(const std::string& path, std::string* error);

  // For the command's standard output and error; opened for appending, closed on exec.
  int fd() const { return file_; }

  // Copies what was added to standard output, as far as that takes it without waiting. A file that
  // has grown beyond 16 MiB is moved to PATH.1 (copied, then cut: the command keeps it open).
  void Forward();

 private:
  void Rotate();

  std::string path_;
  int file_ = -1;
  uint64_t copied_ = 0;
};

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_SUPERVISOR_OUTPUT_LOG_H_
