// What a profile of a step says: as tables, and as JSON.
#ifndef SWINFLEET_WORKER_BENCH_PROFILE_REPORT_H_
#define SWINFLEET_WORKER_BENCH_PROFILE_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/machine_limits.h"
#include "kernels/profile.h"

namespace swinfleet::bench {

// A step that was taken with a profile, on the CPU less what the recording took. A GPU computes
// while the host records.
class ProfileReport {
 public:
  // `step_seconds` is the step's time, that of recording included. The profile has been finished.
  ProfileReport(const Profile& profile, double step_seconds, const MachineLimits& limits);

  // For people: a table of operations, one of modules, and what is fixed.
  void Print() const;
  nlohmann::json Json() const;

 private:
  // Some of the step's calls together.
  struct Row {
    std::string name;
    int64_t calls = 0;
    double seconds = 0;
    double matrix_flops = 0;
    double bytes = 0;
    // The sum of the calls' limits, each by computing or by memory.
    double limit_seconds = 0;

    void Add(const Profile::Call& call, const MachineLimits& limits);
  };
  static void AddTo(std::vector<Row>* rows, const std::string& name, const Profile::Call& call,
                    const MachineLimits& limits);
  void PrintTable(const char* what, const std::vector<Row>& rows) const;
  void PrintRow(const Row& row) const;
  void PrintOutside() const;
  nlohmann::json JsonOf(const Row& row) const;

  const MachineLimits limits_;
  const bool of_gpu_;
  double step_seconds_ = 0;
  double own_seconds_ = 0;
  // In which a GPU's operations were started.
  double starting_seconds_ = 0;
  // The longest first.
  std::vector<Row> operations_;
  std::vector<Row> modules_;
  Row all_;
};

}  // namespace swinfleet::bench

#endif  // SWINFLEET_WORKER_BENCH_PROFILE_REPORT_H_
