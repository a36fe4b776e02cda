// Starts children of a test quickly: by fork, from a process that was forked off before the test
// had threads and that has all libraries in place.
#ifndef SWINFLEET_TESTS_COORDINATOR_NURSERY_H_
#define SWINFLEET_TESTS_COORDINATOR_NURSERY_H_

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>

namespace swinfleet::coordinator {

class Nursery {
 public:
  // What a child does. It writes a line to `ready` once it can be reached, and ends by itself when
  // it gets SIGTERM.
  using Body = std::function<void(const std::string& argument, int ready)>;

  // To be made while the process has one thread.
  explicit Nursery(Body body);
  // Kills what is left.
  ~Nursery();
  Nursery(const Nursery&) = delete;
  Nursery& operator=(const Nursery&) = delete;

  // Starts a child and waits for its line; none if it has died before. One child at a time.
  std::optional<std::string> Begin(const std::string& argument);
  // Waits for the child's end; its wait status.
  int Reap();
  // The same, after a signal.
  int Stop(int signal);

 private:
  [[noreturn]] void Tend(const Body& body) const;
  std::string Ask(const std::string& request) const;

  int socket_ = -1;
  pid_t pid_ = -1;
};

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_TESTS_COORDINATOR_NURSERY_H_
