// A record of what the operations of a step took, and of the modules that called them.
#ifndef SWINFLEET_KERNELS_PROFILE_H_
#define SWINFLEET_KERNELS_PROFILE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device_clock.h"
#include "kernels/ops.h"

namespace swinfleet {

// Everything recorded while a context points to it. To be used by one thread at a time.
//
// A GPU computes after the calls that it is given. Around each of them moments of the GPU's own
// clock are noted, which nobody waits for; they are read by ReadTimes.
class Profile {
 public:
  // Times are seconds since the profile was made.
  struct Span {
    double begin = 0;
    double seconds = 0;

    double end() const { return begin + seconds; }
  };
  // A module, or a part of a step, from its beginning to its end.
  struct Scope {
    std::string name;
    // The scope that it lies in; -1: none.
    int parent = -1;
    // On a GPU, from the first call in it to the last, of those that compute; nothing without any.
    Span span;
    // When the host's thread was in it, which of the CPU is the same.
    Span host;
  };
  // One call of an operation.
  struct Call {
    // Number in kOpEntries (kernels/op_entries.h).
    int op = 0;
    // The innermost scope; -1: none.
    int scope = -1;
    // When it was computed.
    Span span;
    // When the host's thread called it, which of the CPU is the same.
    Span host;
    // Part of an exchange, on a stream beside the one that computes.
    bool exchanges = false;
    // As the dry run counts them. Launches are those of a GPU; 0 on the CPU.
    double matrix_flops = 0;
    double bytes = 0;
    int64_t launches = 0;
    std::vector<TensorView> tensors;
  };

  // A collective between GPUs, from when it could begin on its stream.
  struct Exchange {
    // CollectiveRecord::sequence.
    uint64_t sequence = 0;
    Span span;
  };

  // Of calls that `inner` makes. Of more than `most_records` calls, scopes or exchanges, those that
  // come later are made and not recorded.
  explicit Profile(const OpTable& inner, size_t most_records = SIZE_MAX);
  // The same of a GPU's calls, of which so many are expected from one ReadTimes to the next. Waits
  // for the GPU, and compares its clock with the host's, to some microseconds. Throws Error.
  Profile(Accelerator* gpu, size_t calls, size_t most_records = SIZE_MAX);

  const OpTable& inner() const { return *inner_; }
  // In the order in which they began.
  const std::vector<Scope>& scopes() const { return scopes_; }
  const std::vector<Call>& calls() const { return calls_; }
  const std::vector<Exchange>& exchanges() const { return exchanges_; }
  bool of_gpu() const { return of_gpu_; }
  // What the recording itself took the host's thread, outside of the calls.
  double own_seconds() const { return own_seconds_; }
  // Calls that were not recorded.
  uint64_t left_out() const { return left_out_; }
  // Seconds since the profile was made.
  double Now() const;

  // Of a GPU: moments that have been noted, and that ReadTimes has not come to.
  size_t noted() const { return noted_.size(); }
  // Waits for the first `moments` of them, and puts them where they belong. Throws Error.
  void ReadTimes(size_t moments);
  // The rest of them, and the last. From then on the profile has nothing to do with the GPU.
  void Finish();

  // For ProfileScope.
  void Enter(std::string_view name);
  void Leave();
  // For ProfilingOps: `call` runs an operation with the table and the context that it is given; its
  // work is counted before it is timed.
  void Record(int op, const Context& context,
              const std::function<void(const OpTable&, Context&)>& call);
  // For communicators of GPUs: `exchange` puts a collective on the context's stream.
  void RecordExchange(uint64_t sequence, const Context& context,
                      const std::function<void()>& exchange);

 private:
  // A moment, and whose begin or end it is.
  struct Moment {
    size_t number = 0;
    bool exchanges = false;  // of the stream of exchanges
    bool of_exchange = false;
    bool is_end = false;
    size_t record = 0;  // index in exchanges_ or calls_
  };
  // Of a stream, the last moment that was read.
  struct Reading {
    size_t moment = 0;
    double time = 0;
  };

  // Of the first moment.
  void CompareClocks();
  void Note(void* stream, const Moment& moment);
  // Of the scopes around it.
  void Extend(int scope, const Span& span);

  const OpTable* inner_;
  size_t most_records_;
  bool of_gpu_ = false;
  void* computing_ = nullptr;
  // Null on the CPU, and after Finish.
  std::unique_ptr<DeviceClock> clock_;
  // The first moment, of which the host knows the time.
  size_t first_moment_ = 0;
  Reading readings_[2];
  std::vector<Moment> noted_;
  double start_ = 0;
  double own_seconds_ = 0;
  int scope_ = -1;
  // Scopes that were entered last and are not recorded.
  int unrecorded_ = 0;
  uint64_t left_out_ = 0;
  std::vector<Scope> scopes_;
  std::vector<Call> calls_;
  std::vector<Exchange> exchanges_;
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
