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

#include "core/data/transform.h"
#include "core/rng/counter_rng.h"
#include "core/rng/keyed_permutation.h"
#include "kernels/error.h"

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

LoaderOptions LoaderOptionsFor(const JobConfig& config) {
  LoaderOptions options;
  options.data = config.data;
  options.image_h = config.model.image_h;
  options.image_w = config.model.image_w;
  options.in_chans = config.model.in_chans;
  options.num_classes = config.model.num_classes;
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
    Picture picture;
    int64_t epoch = -1;
    std::optional<KeyedPermutation> order;
  };

  Impl(const Dataset* data, const LoaderOptions& loader_options)
      : dataset(data),
        options(loader_options),
        transform(options.data, options.image_h, options.image_w, options.in_chans) {
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
  void Fill(int64_t number, Scratch* scratch, Batch* batch) const;
  void FillPicture(int64_t sample, int64_t epoch, int64_t row, Scratch* scratch,
                   Batch* batch) const;
  const Batch* Next();

  const Dataset* dataset;
  LoaderOptions options;
  PictureTransform transform;
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
  std::vector<std::thread> threads;
};

void Loader::Impl::CheckOptions() {
  constexpr int kMaxThreads = 1024;
  constexpr int kMaxPrefetch = 1 << 16;
  CHECK_GT(options.num_classes, 0);
  CHECK_GT(options.micro_batch, 0);
  CHECK_GE(options.first_leaf, 0);
  CHECK_GE(options.leaves, 0);
  CheckRange("loader_threads", options.data.loader_threads, kMaxThreads);
  CheckRange("prefetch", options.data.prefetch, kMaxPrefetch);
  const DataIdentity& identity = dataset->identity();
  if (identity.height > 0) {
    transform.CheckFits(identity.height, identity.width, identity.channels, options.training);
  }
  const int64_t count = identity.count;
  if (!options.training) {
    const int64_t batches = (count + options.micro_batch - 1) / options.micro_batch;
    total = std::clamp<int64_t>(batches - options.first_leaf, 0, options.leaves);
    return;
  }
  CHECK_GT(options.leaves, 0);
  CHECK_LE(options.first_leaf + options.leaves, options.micro_batches_per_step);
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
    for (Slot& slot : slots) {
      slot.batch.image.resize(pictures * transform.size());
      slot.batch.label.resize(pictures);
      slot.batch.sample.resize(pictures);
    }
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

void Loader::Impl::Fill(int64_t number, Scratch* scratch, Batch* batch) const {
  const int64_t count = dataset->identity().count;
  int64_t epoch = 0;
  int64_t first = 0;
  int64_t pictures = options.micro_batch;
  if (options.training) {
    const int64_t step = options.first_step + number / options.leaves;
    const int64_t leaf = options.first_leaf + number % options.leaves;
    epoch = step / steps_per_epoch;
    first = (step % steps_per_epoch * options.micro_batches_per_step + leaf) * options.micro_batch;
    if (scratch->epoch != epoch) {
      scratch->order = EpochOrder(options.seed, epoch, count);
      scratch->epoch = epoch;
    }
  } else {
    first = (options.first_leaf + number) * options.micro_batch;
    pictures = std::min(pictures, count - first);
  }
  batch->pictures = pictures;
  batch->image.resize(pictures * transform.size());
  batch->label.resize(pictures);
  batch->sample.resize(pictures);
  for (int64_t row = 0; row < pictures; ++row) {
    const int64_t sample = options.training ? (*scratch->order)(first + row) : first + row;
    FillPicture(sample, epoch, row, scratch, batch);
  }
}

void Loader::Impl::FillPicture(int64_t sample, int64_t epoch, int64_t row, Scratch* scratch,
                               Batch* batch) const {
  Picture& picture = scratch->picture;
  dataset->Get(sample, &picture);
  if (picture.label < 0 || picture.label >= options.num_classes) {
    throw Error("sample " + std::to_string(sample) + " has label " + std::to_string(picture.label) +
                ", but the model has " + std::to_string(options.num_classes) +
                " classes (labels count from 0)");
  }
  const auto out = std::span(batch->image).subspan(row * transform.size(), transform.size());
  try {
    if (options.training) {
      transform.Augment(picture,
                        CounterRng(options.seed, RandomPurpose::kAugmentation,
                                   static_cast<uint64_t>(sample), static_cast<uint32_t>(epoch)),
                        out);
    } else {
      transform.Center(picture, out);
    }
  } catch (const Error& error) {
    throw Error("sample " + std::to_string(sample) + ": " + error.what());
  }
  batch->label[row] = picture.label;
  batch->sample[row] = sample;
}

const Batch* Loader::Impl::Next() {
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
  return &slot.batch;
}

Loader::Loader(const Dataset* dataset, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(dataset, options)) {}

Loader::~Loader() = default;

const Batch* Loader::Next() { return impl_->Next(); }

double Loader::wait_seconds() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->wait_seconds;
}

}  // namespace swinfleet
