#include "core/data/loader.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include "core/data/mix.h"
#include "core/data/sample.h"
#include "core/loss/targets.h"
#include "core/rng/counter_rng.h"
#include "core/rng/keyed_permutation.h"
#include "kernels/error.h"
#include "kernels/thread_placement.h"

namespace swinfleet {
namespace {

KeyedPermutation EpochOrder(uint64_t seed, int64_t epoch, int64_t count) {
  return KeyedPermutation(CounterRng(seed, RandomPurpose::kDataOrder, static_cast<uint64_t>(epoch)),
                          count);
}

void CheckRange(const char* name, int value, int largest) {
  if (value >= 1 && value <= largest) return;
  throw Error(std::string("data.") + name + " is " + std::to_string(value) + "; it must be 1 to " +
              std::to_string(largest));
}

}  // namespace

int64_t ShuffledIndex(uint64_t seed, int64_t epoch, int64_t position, int64_t count) {
  return EpochOrder(seed, epoch, count)(position);
}

LoaderOptions LoaderOptionsFor(const JobConfig& config, const LoaderSettingNames& names) {
  LoaderOptions options;
  options.data = config.data;
  options.names = names;
  if (config.data.format == "idx") options.names.replace.clear();
  options.image_h = config.model.image_h;
  options.image_w = config.model.image_w;
  options.in_chans = config.model.in_chans;
  options.frames = config.model.frames;
  // Masked image modelling looks at no label.
  options.num_classes = config.pretrain.on() ? 0 : config.model.num_classes;
  options.label_smoothing = config.train.label_smoothing;
  options.mix = config.train.mix;
  options.mask = MaskConfigFor(config.model, config.pretrain);
  options.seed = config.train.seed;
  options.micro_batch = config.train.micro_batch;
  return options;
}

// The micro-batches of this rank are numbered from 0 in the order in which Next returns them. A
// ring of slots holds the numbers [next, next + slots); threads take numbers in order, fill their
// slots outside of the lock, and never run past the ring.
struct Loader::Impl {
  struct Slot {
    Batch batch;
    std::exception_ptr error;
    // The number of the micro-batch that is ready in it, -1 if none.
    int64_t ready = -1;
  };
  // What a thread keeps between micro-batches.
  struct Scratch {
    SampleScratch sample;
    int64_t epoch = -1;
    std::optional<KeyedPermutation> order;
    std::vector<MixEntry> mix;
    std::vector<int64_t> units;
  };
  // Where a micro-batch lies in the run. Of evaluation `step` counts the batches of the split.
  struct Position {
    int64_t step = 0;
    int64_t leaf = 0;
    int64_t epoch = 0;
    int64_t first = 0;
    int64_t pictures = 0;
  };

  Impl(const Dataset* data, const LoaderOptions& loader_options)
      : dataset(data), options(loader_options), samples(data, loader_options) {
    CheckOptions();
    Allocate();
    StartThreads();
  }
  ~Impl() { StopThreads(); }

  void CheckOptions();
  void Allocate();
  void StartThreads();
  void StopThreads();
  void Run();
  Position PositionOf(int64_t number) const;
  void Size(int64_t pictures, Batch* batch) const;
  void Fill(int64_t number, Scratch* scratch, Batch* batch) const;
  void FillPictures(const Position& position, Scratch* scratch, Batch* batch) const;
  void FillTargets(const Position& position, Scratch* scratch, Batch* batch) const;
  void FillMasks(const Position& position, Scratch* scratch, Batch* batch) const;
  void Account(const Batch& batch);
  Batch* Next();

  const Dataset* dataset;
  LoaderOptions options;
  SampleMaker samples;
  int64_t steps_per_epoch = 0;  // Training only.
  int64_t total = 0;            // Micro-batches that this rank gets.

  mutable std::mutex mutex;
  std::condition_variable work;   // A slot became free, or stop.
  std::condition_variable ready;  // A slot became ready.
  std::vector<Slot> slots;
  int64_t taken = 0;  // Numbers that threads have taken.
  int64_t next = 0;   // The number that Next returns next.
  // The first number whose slot may not be filled anew: it is the consumer's. Before the first call
  // it is -1, so that no more than `prefetch` are made then.
  int64_t kept = -1;
  bool stop = false;
  double wait_seconds = 0;
  BrokenPictures broken;  // The consumer's.
  std::vector<std::thread> threads;
};

void Loader::Impl::CheckOptions() {
  constexpr int kMaxThreads = 1024;
  constexpr int kMaxPrefetch = 1 << 16;
  CHECK_GT(options.micro_batch, 0);
  CHECK_GE(options.first_leaf, 0);
  CHECK_GE(options.leaves, 0);
  CHECK_GE(options.leaf_stride, 1);
  CheckRange("loader_threads", options.data.loader_threads, kMaxThreads);
  CheckRange("prefetch", options.data.prefetch, kMaxPrefetch);
  const int64_t count = dataset->identity().count;
  if (!options.training) {
    const int64_t batches = (count + options.micro_batch - 1) / options.micro_batch;
    const int64_t stride = options.leaf_stride;
    total = std::clamp<int64_t>((batches - options.first_leaf + stride - 1) / stride, 0,
                                options.leaves);
    return;
  }
  CHECK_GT(options.leaves, 0);
  CHECK_LT(options.first_leaf + (options.leaves - 1) * options.leaf_stride,
           options.micro_batches_per_step);
  CHECK_GE(options.first_step, 0);
  const int64_t global_batch = options.micro_batch * options.micro_batches_per_step;
  steps_per_epoch = StepsPerEpoch(count, global_batch);
  if (steps_per_epoch == 0) {
    throw Error("a global batch of " + std::to_string(global_batch) +
                " pictures is larger than the data set, which has " + std::to_string(count) +
                "; lower train.global_batch");
  }
  total = std::numeric_limits<int64_t>::max();
}

void Loader::Impl::Allocate() {
  // One more than may be ahead: the consumer holds one.
  const int64_t wanted = std::min<int64_t>(options.data.prefetch, total) + 1;
  const int64_t pictures = std::min(options.micro_batch, dataset->identity().count);
  try {
    slots.resize(wanted);
    for (Slot& slot : slots) Size(pictures, &slot.batch);
  } catch (const std::bad_alloc&) {
    throw Error("not enough memory for " + std::to_string(wanted) + " micro-batches of " +
                std::to_string(pictures) + " pictures; lower data.prefetch");
  }
}

void Loader::Impl::StartThreads() {
  const int64_t wanted = std::min<int64_t>(options.data.loader_threads, total);
  try {
    for (int64_t i = 0; i < wanted; ++i) threads.emplace_back([this] { Run(); });
  } catch (const std::system_error& error) {
    const size_t started = threads.size();
    StopThreads();
    throw Error("cannot start the data loader's threads, only " + std::to_string(started) + " of " +
                std::to_string(wanted) + ": " + error.what());
  }
}

void Loader::Impl::StopThreads() {
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  work.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void Loader::Impl::Run() {
  // Decoding takes what the step leaves over. When that is too little the step waits for pictures,
  // and leaves everything over.
  WorkInBackground();
  Scratch scratch;
  std::unique_lock lock(mutex);
  while (true) {
    work.wait(lock, [this] {
      return stop || taken == total || taken < kept + static_cast<int64_t>(slots.size());
    });
    if (stop || taken == total) return;
    const int64_t number = taken++;
    Slot& slot = slots[number % slots.size()];
    lock.unlock();
    std::exception_ptr error;
    try {
      Fill(number, &scratch, &slot.batch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    slot.error = error;
    slot.ready = number;
    if (number == next) ready.notify_one();
    // The last number is taken by one thread; the others need to see it to end.
    if (taken == total) work.notify_all();
  }
}

Loader::Impl::Position Loader::Impl::PositionOf(int64_t number) const {
  Position position;
  position.pictures = options.micro_batch;
  if (options.training) {
    const int64_t step = options.first_step + number / options.leaves;
    position.step = step;
    position.leaf = options.first_leaf + number % options.leaves * options.leaf_stride;
    position.epoch = step / steps_per_epoch;
    position.first = (step % steps_per_epoch * options.micro_batches_per_step + position.leaf) *
                     options.micro_batch;
  } else {
    position.step = options.first_leaf + number * options.leaf_stride;
    position.first = position.step * options.micro_batch;
    position.pictures = std::min(position.pictures, dataset->identity().count - position.first);
  }
  return position;
}

void Loader::Impl::Size(int64_t pictures, Batch* batch) const {
  batch->pictures = pictures;
  batch->image.resize(pictures * samples.size());
  batch->label.resize(pictures);
  batch->sample.resize(pictures);
  if (options.training) batch->target.resize(pictures * options.num_classes);
  if (options.mask.on()) batch->mask.resize(pictures * options.mask.units());
}

void Loader::Impl::Fill(int64_t number, Scratch* scratch, Batch* batch) const {
  const Position position = PositionOf(number);
  Size(position.pictures, batch);
  FillPictures(position, scratch, batch);
  if (options.training && options.num_classes > 0) FillTargets(position, scratch, batch);
  if (options.mask.on()) FillMasks(position, scratch, batch);
}

void Loader::Impl::FillPictures(const Position& position, Scratch* scratch, Batch* batch) const {
  if (options.training && scratch->epoch != position.epoch) {
    scratch->order = EpochOrder(options.seed, position.epoch, dataset->identity().count);
    scratch->epoch = position.epoch;
  }
  batch->broken.clear();
  for (int64_t row = 0; row < position.pictures; ++row) {
    const int64_t place = position.first + row;
    const int64_t sample = options.training ? (*scratch->order)(place) : place;
    const auto out = std::span(batch->image).subspan(row * samples.size(), samples.size());
    batch->sample[row] = sample;
    batch->label[row] = samples.Make(sample, position.epoch, &scratch->sample, &batch->broken, out);
  }
}

void Loader::Impl::FillTargets(const Position& position, Scratch* scratch, Batch* batch) const {
  if (!options.mix.on()) {
    SmoothedTargets(batch->label, options.num_classes, options.label_smoothing, batch->target);
    return;
  }
  scratch->mix.resize(position.pictures);
  DrawMix(options.mix, options.image_h, options.image_w,
          CounterRng(options.seed, RandomPurpose::kMixing, static_cast<uint64_t>(position.step),
                     static_cast<uint32_t>(position.leaf)),
          scratch->mix);
  batch->mix_weight.resize(2 * position.pictures);
  batch->mix_box.resize(4 * position.pictures);
  DescribeMix(scratch->mix, batch->mix_weight, batch->mix_box);
  MixTargets(scratch->mix, batch->label, options.num_classes, options.label_smoothing,
             batch->target);
}

void Loader::Impl::FillMasks(const Position& position, Scratch* scratch, Batch* batch) const {
  const int64_t units = options.mask.units();
  const bool shared = options.mask.method == PretrainConfig::Method::kGreenMim;
  for (int64_t row = 0; row < position.pictures; ++row) {
    const auto mask = std::span(batch->mask).subspan(row * units, units);
    if (shared && row > 0) {
      std::copy_n(batch->mask.begin(), units, mask.begin());
      continue;
    }
    // The last number keeps the two kinds of streams apart.
    const CounterRng rng = shared ? CounterRng(options.seed, RandomPurpose::kMask,
                                               static_cast<uint64_t>(position.step),
                                               static_cast<uint32_t>(position.leaf), 1)
                                  : CounterRng(options.seed, RandomPurpose::kMask,
                                               static_cast<uint64_t>(batch->sample[row]),
                                               static_cast<uint32_t>(position.epoch), 0);
    DrawMask(options.mask, rng, &scratch->units, mask);
  }
}

void Loader::Impl::Account(const Batch& batch) {
  constexpr size_t kMaxNames = 100;
  for (const auto& [name, reason] : batch.broken) {
    ++broken.replaced;
    const bool known =
        std::find(broken.names.begin(), broken.names.end(), name) != broken.names.end();
    if (known || broken.names.size() == kMaxNames) continue;
    broken.names.push_back(name);
    LOG(WARNING) << reason << "; another sample stands for it"
                 << (broken.names.size() < kMaxNames ? "" : ". Further ones are only counted");
  }
}

Batch* Loader::Impl::Next() {
  std::unique_lock lock(mutex);
  // The batch of the call before goes back to the threads.
  kept = next;
  work.notify_one();
  if (next == total) return nullptr;
  Slot& slot = slots[next % slots.size()];
  if (slot.ready != next) {
    const auto start = std::chrono::steady_clock::now();
    ready.wait(lock, [&] { return slot.ready == next; });
    wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  // The same error again at each further call: `next` stays.
  if (slot.error) std::rethrow_exception(slot.error);
  ++next;
  Account(slot.batch);
  return &slot.batch;
}

Loader::Loader(const Dataset* dataset, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(dataset, options)) {}

Loader::~Loader() = default;

Batch* Loader::Next() { return impl_->Next(); }

const BrokenPictures& Loader::broken() const { return impl_->broken; }

double Loader::wait_seconds() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->wait_seconds;
}

}  // namespace swinfleet
