// Programs run by tests: started with pipes or a terminal, and never left behind.
#ifndef SWINFLEET_TESTS_COORDINATOR_CLI_SUBPROCESS_H_
#define SWINFLEET_TESTS_COORDINATOR_CLI_SUBPROCESS_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace swinfleet {

inline bool WaitUntil(const std::function<bool()>& condition, double seconds = 20) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = testing::TempDir() + "/swinfleet_test_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Subprocess {
 public:
  struct Options {
    // A terminal of this many columns on its standard output and error, 0: pipes.
    int terminal_width = 0;
    std::vector<std::pair<std::string, std::string>> environment;
    std::string folder;
  };

  explicit Subprocess(const std::vector<std::string>& arguments)
      : Subprocess(arguments, Options()) {}
  Subprocess(const std::vector<std::string>& arguments, const Options& options) {
    int out[2], err[2];
    if (options.terminal_width > 0) {
      winsize size = {};
      size.ws_row = 30;
      size.ws_col = static_cast<unsigned short>(options.terminal_width);
      EXPECT_EQ(openpty(&out[0], &out[1], nullptr, nullptr, &size), 0);
      EXPECT_EQ(fcntl(out[0], F_SETFD, FD_CLOEXEC), 0);
      err[0] = -1;
      err[1] = dup(out[1]);
    } else {
      EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
      EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
    }
    out_ = out[0];
    err_ = err[0];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    if (options.terminal_width > 0) {
      posix_spawn_file_actions_addclose(&actions, out[1]);
      posix_spawn_file_actions_addclose(&actions, err[1]);
    }
    if (!options.folder.empty()) {
      posix_spawn_file_actions_addchdir_np(&actions, options.folder.c_str());
    }
    std::vector<std::string> words = arguments;
    std::vector<std::string> variables = Environment(options.environment);
    EXPECT_EQ(posix_spawn(&pid_, words[0].c_str(), &actions, nullptr, Pointers(&words).data(),
                          Pointers(&variables).data()),
              0)
        << words[0];
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    reader_ = std::thread([this] { ReadAll(); });
  }
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;
  ~Subprocess() {
    if (!code_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    // Something that the program has left running may keep the pipe open.
    stop_ = true;
    reader_.join();
    close(out_);
    if (err_ >= 0) close(err_);
  }

  pid_t pid() const { return pid_; }
  void Signal(int signal) { kill(pid_, signal); }

  // The exit code; -signal when killed by one; nullopt when it still runs after `seconds`.
  std::optional<int> Wait(double seconds = 20) {
    int status = 0;
    const bool ended =
        WaitUntil([&] { return code_ || waitpid(pid_, &status, WNOHANG) == pid_; }, seconds);
    if (ended && !code_) {
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      // What is in the pipes by now belongs to its output.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return code_;
  }

  std::string out() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return out_text_;
  }
  std::string err() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return err_text_;
  }
  bool WaitForOut(const std::string& text, double seconds = 20) {
    return WaitUntil([&] { return out().find(text) != std::string::npos; }, seconds);
  }
  bool WaitForErr(const std::string& text, double seconds = 20) {
    return WaitUntil([&] { return err().find(text) != std::string::npos; }, seconds);
  }
  void Resize(int width) {
    winsize size = {};
    size.ws_row = 30;
    size.ws_col = static_cast<unsigned short>(width);
    EXPECT_EQ(ioctl(out_, TIOCSWINSZ, &size), 0);
    Signal(SIGWINCH);
  }

 private:
  static std::vector<char*> Pointers(std::vector<std::string>* strings) {
    std::vector<char*> pointers;
    for (std::string& text : *strings) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    return pointers;
  }
  static std::vector<std::string> Environment(
      const std::vector<std::pair<std::string, std::string>>& changes) {
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      const std::string text = *variable;
      bool replaced = text.rfind("SWINFLEET_", 0) == 0;
      for (const auto& [name, value] : changes) {
        replaced = replaced || text.rfind(name + "=", 0) == 0;
      }
      if (!replaced) variables.push_back(text);
    }
    for (const auto& [name, value] : changes) variables.push_back(name + "=" + value);
    return variables;
  }
  void ReadAll() {
    bool out_open = true, err_open = err_ >= 0;
    while (out_open || err_open) {
      pollfd events[2] = {{out_open ? out_ : -1, POLLIN, 0}, {err_open ? err_ : -1, POLLIN, 0}};
      if (poll(events, 2, 20) == 0 && stop_) return;
      if (events[0].revents != 0) out_open = ReadSome(out_, &out_text_);
      if (events[1].revents != 0) err_open = ReadSome(err_, &err_text_);
    }
  }
  bool ReadSome(int descriptor, std::string* text) {
    char buffer[4096];
    const ssize_t got = read(descriptor, buffer, sizeof(buffer));
    if (got <= 0) return got < 0 && errno == EINTR;
    const std::lock_guard<std::mutex> lock(mutex_);
    text->append(buffer, static_cast<size_t>(got));
    return true;
  }

  pid_t pid_ = 0;
  int out_ = -1;
  int err_ = -1;
  std::optional<int> code_;
  mutable std::mutex mutex_;
  std::string out_text_;
  std::string err_text_;
  std::atomic<bool> stop_{false};
  std::thread reader_;
};

inline std::string SwinfleetProgram() { return std::string(SWINFLEET_BIN_DIR) + "/swinfleet"; }

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_COORDINATOR_CLI_SUBPROCESS_H_
