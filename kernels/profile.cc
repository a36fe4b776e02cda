#include "kernels/profile.h"

#include <glog/logging.h>

#include <chrono>
#include <utility>

#include "kernels/op_entries.h"

namespace swinfleet {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <size_t kOp, typename Args>
void RecordCall(const Args& args, Context& context) {
  CHECK(context.profile != nullptr) << kOpNames[kOp] << " without a profile";
  constexpr auto kEntry = std::get<kOp>(kOpEntries);
  context.profile->Record(static_cast<int>(kOp), context,
                          [&](const OpTable& ops, Context& c) { (ops.*kEntry.function)(args, c); });
}

template <size_t... kOp>
OpTable MakeTable(std::index_sequence<kOp...>) {
  OpTable table;
  ((table.*std::get<kOp>(kOpEntries).function = RecordCall<kOp>), ...);
  return table;
}

}  // namespace

Profile::Profile(const OpTable& inner, size_t most_records)
    : inner_(&inner), most_records_(most_records), start_(Seconds()) {}

double Profile::Now() const { return Seconds() - start_; }

void Profile::Enter(std::string_view name) {
  if (unrecorded_ > 0 || scopes_.size() >= most_records_) {
    ++unrecorded_;
    return;
  }
  const double entered = Now();
  scopes_.push_back({.name = std::string(name), .parent = scope_, .begin = entered});
  scope_ = static_cast<int>(scopes_.size()) - 1;
  own_seconds_ += Now() - entered;
}

void Profile::Leave() {
  if (unrecorded_ > 0) {
    --unrecorded_;
    return;
  }
  const double entered = Now();
  CHECK_GE(scope_, 0);
  Scope& scope = scopes_[scope_];
  scope.seconds = entered - scope.begin;
  scope_ = scope.parent;
  own_seconds_ += Now() - entered;
}

void Profile::Record(int op, const Context& context,
                     const std::function<void(const OpTable&, Context&)>& call) {
  const double entered = Now();
  Context plain = context;
  plain.ops = inner_;
  plain.profile = nullptr;
  if (calls_.size() >= most_records_) {
    ++left_out_;
    return call(*inner_, plain);
  }
  Call& record = calls_.emplace_back();
  WorkCount work = {.tensors = &record.tensors};
  const OpTable& dry = context.device == Device::kCuda ? CudaDryRunOps() : DryRunOps();
  Context counting = {.ops = &dry,
                      .workspace = context.workspace,
                      .threads = context.threads,
                      .device = context.device,
                      .count = &work};
  call(dry, counting);
  record.op = op;
  record.scope = scope_;
  record.matrix_flops = work.matrix_flops;
  record.bytes = work.bytes;
  record.launches = work.launches;
  record.begin = Now();
  call(*inner_, plain);
  const double ended = Now();
  record.seconds = ended - record.begin;
  own_seconds_ += record.begin - entered + Now() - ended;
}

const OpTable& ProfilingOps() {
  static const OpTable table = MakeTable(std::make_index_sequence<kOps>());
  return table;
}

}  // namespace swinfleet
