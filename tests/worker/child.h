// Programs under test, as child processes.
#ifndef SWINFLEET_TESTS_WORKER_CHILD_H_
#define SWINFLEET_TESTS_WORKER_CHILD_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace swinfleet {

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Runs until it ends or the object does; stdout and stderr go to files in `folder`.
class Child {
 public:
  Child(std::vector<std::string> arguments, const std::string& folder) {
    static int count = 0;
    const std::string base = folder + "/child" + std::to_string(count++);
    out_ = base + ".out";
    err_ = base + ".err";
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    // A group of its own, so that all that mpirun started can be ended.
    setpgid(0, 0);
    dup2(open(out_.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
    dup2(open(err_.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  ~Child() {
    if (ended_) return;
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, 128 + signal, or -1 when it has not ended after `seconds`.
  int Wait(double seconds = 60) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) return -1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string Out() const { return ReadAll(out_); }
  std::string Err() const { return ReadAll(err_); }
  // Waits until stderr has the text.
  bool WaitForErr(const std::string& text, double seconds = 30) const {
    return WaitFor(err_, text, seconds);
  }
  // The same of stdout.
  bool WaitForOut(const std::string& text, double seconds = 30) const {
    return WaitFor(out_, text, seconds);
  }

 private:
  static bool WaitFor(const std::string& path, const std::string& text, double seconds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (ReadAll(path).find(text) == std::string::npos) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }

  std::string out_;
  std::string err_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

}  // namespace swinfleet

#endif  // SWINFLEET_TESTS_WORKER_CHILD_H_
