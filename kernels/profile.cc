#include "kernels/profile.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "kernels/accelerator.h"
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

Profile::Profile(Accelerator* gpu, size_t calls, size_t most_records)
    : inner_(&gpu->ops()),
      most_records_(most_records),
      of_gpu_(true),
      computing_(gpu->stream()),
      clock_(gpu->MakeClock(2 * std::min(calls, most_records) + 2)),
      start_(Seconds()) {
  noted_.reserve(2 * std::min(calls, most_records));
  gpu->Wait();
  CompareClocks();
}

// A moment that has come by the time that the host was told of it, and not before the host asked:
// the less that takes, the better the host knows it.
void Profile::CompareClocks() {
  constexpr int kTries = 5;
  double least = 0;
  for (int i = 0; i < kTries; ++i) {
    const double asked = Now();
    const size_t moment = clock_->Note(computing_);
    clock_->SecondsBetween(moment, moment);
    const double taken = Now() - asked;
    if (i > 0) clock_->Forget(taken < least ? first_moment_ : moment);
    if (i > 0 && taken >= least) continue;
    least = taken;
    first_moment_ = moment;
    readings_[0] = readings_[1] = {.moment = moment, .time = asked};
  }
}

double Profile::Now() const { return Seconds() - start_; }

void Profile::Enter(std::string_view name) {
  if (unrecorded_ > 0 || scopes_.size() >= most_records_) {
    ++unrecorded_;
    return;
  }
  const double entered = Now();
  scopes_.push_back(
      {.name = std::string(name), .parent = scope_, .span = {}, .host = {.begin = entered}});
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
  scope.host.seconds = entered - scope.host.begin;
  if (!of_gpu_) scope.span = scope.host;
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
  const size_t number = calls_.size();
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
  record.exchanges = of_gpu_ && context.stream != computing_;
  Moment moment = {.exchanges = record.exchanges, .record = number};
  Note(context.stream, moment);
  record.host.begin = Now();
  call(*inner_, plain);
  const double ended = Now();
  record.host.seconds = ended - record.host.begin;
  if (!of_gpu_) record.span = record.host;
  moment.is_end = true;
  Note(context.stream, moment);
  own_seconds_ += record.host.begin - entered + Now() - ended;
}

void Profile::RecordExchange(uint64_t sequence, const Context& context,
                             const std::function<void()>& exchange) {
  if (exchanges_.size() >= most_records_) return exchange();
  Moment moment = {.exchanges = true, .of_exchange = true, .record = exchanges_.size()};
  exchanges_.push_back({.sequence = sequence, .span = {}});
  Note(context.stream, moment);
  exchange();
  moment.is_end = true;
  Note(context.stream, moment);
}

void Profile::Note(void* stream, const Moment& moment) {
  if (!of_gpu_) return;
  CHECK(clock_ != nullptr) << "a profile that has been finished";
  noted_.push_back(moment);
  noted_.back().number = clock_->Note(stream);
}

void Profile::ReadTimes(size_t moments) {
  CHECK_LE(moments, noted_.size());
  // Each stream's moments are read one after the other, so that long times have no less digits.
  for (const Moment& moment : std::span(noted_).first(moments)) {
    Reading& last = readings_[moment.exchanges];
    last.time += clock_->SecondsBetween(last.moment, moment.number);
    if (last.moment != first_moment_) clock_->Forget(last.moment);
    last.moment = moment.number;
    Span& span = moment.of_exchange ? exchanges_[moment.record].span : calls_[moment.record].span;
    if (!moment.is_end) {
      span.begin = last.time;
      continue;
    }
    span.seconds = last.time - span.begin;
    if (!moment.exchanges) Extend(calls_[moment.record].scope, span);
  }
  noted_.erase(noted_.begin(), noted_.begin() + static_cast<ptrdiff_t>(moments));
}

void Profile::Extend(int scope, const Span& span) {
  for (; scope >= 0; scope = scopes_[scope].parent) {
    Span& whole = scopes_[scope].span;
    if (whole.begin == 0) whole.begin = span.begin;
    whole.seconds = span.end() - whole.begin;
  }
}

void Profile::Finish() {
  ReadTimes(noted_.size());
  clock_.reset();
}

const OpTable& ProfilingOps() {
  static const OpTable table = MakeTable(std::make_index_sequence<kOps>());
  return table;
}

}  // namespace swinfleet
