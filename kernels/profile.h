// A record of what the operations of a step took, and of the modules that called them.
#ifndef SWINFLEET_KERNELS_PROFILE_H_
#define SWINFLEET_KERNELS_PROFILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.h"

namespace swinfleet {

// Everything recorded while a context points to it. To be used by one thread at a time.
class Profile {
 public:
  // A module, or a part of a step, from its beginning to its end. Times are seconds since the
  // profile was made.
  struct Scope {
    std::string name;
    // The scope that it lies in; -1: none.
    int parent = -1;
    double begin = 0;
    double seconds = 0;
  };
  // One call of an operation.
  struct Call {
    // Number in kOpEntries (kernels/op_entries.h).
    int op = 0;
    // The innermost scope; -1: none.
    int scope = -1;
    double begin = 0;
    double seconds = 0;
    // As the dry run counts them. Launches are those of a GPU; 0 on the CPU.
    double matrix_flops = 0;
    double bytes = 0;
    int64_t launches = 0;
    std::vector<TensorView> tensors;
  };

  // Of calls that `inner` makes. Of more than `most_records` calls, or scopes, those that come
  // later are made and not recorded.
  explicit Profile(const OpTable& inner, size_t most_records = SIZE_MAX);

  const OpTable& inner() const { return *inner_; }
  // In the order in which they began.
  const std::vector<Scope>& scopes() const { return scopes_; }
  const std::vector<Call>& calls() const { return calls_; }
  // What the recording itself took, outside of the calls.
  double own_seconds() const { return own_seconds_; }
  // Calls that were not recorded.
  uint64_t left_out() const { return left_out_; }
  // Seconds since the profile was made.
  double Now() const;

  // For ProfileScope.
  void Enter(std::string_view name);
  void Leave();
  // For ProfilingOps: `call` runs an operation with the table and the context that it is given; its
  // work is counted before it is timed.
  void Record(int op, const Context& context,
              const std::function<void(const OpTable&, Context&)>& call);

 private:
  const OpTable* inner_;
  size_t most_records_;
  double start_ = 0;
  double own_seconds_ = 0;
  int scope_ = -1;
  // Scopes that were entered last and are not recorded.
  int unrecorded_ = 0;
  uint64_t left_out_ = 0;
  std::vector<Scope> scopes_;
  std::vector<Call> calls_;
};

// Hands every call on to the inner table of the context's profile, which must be there, and records
// it. Operations that an operation calls are part of it.
const OpTable& ProfilingOps();

// A scope of the context's profile; costs a comparison without one.
class ProfileScope {
 public:
  ProfileScope(const Context& context, std::string_view name) : profile_(context.profile) {
    if (profile_ != nullptr) profile_->Enter(name);
  }
  ~ProfileScope() {
    if (profile_ != nullptr) profile_->Leave();
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  Profile* profile_;
};

}  // namespace swinfleet

#endif  // SWINFLEET_KERNELS_PROFILE_H_
