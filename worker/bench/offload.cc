// swinfleet-bench offload: how fast an update of offloaded state streams, beside the disk's rates.
#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/names.h"
#include "core/optim/optimizer.h"
#include "core/rng/counter_rng.h"
#include "distributed/disk_io.h"
#include "distributed/master_weights.h"
#include "distributed/offload_files.h"
#include "distributed/offloaded_state.h"
#include "kernels/error.h"
#include "worker/bench/bench.h"

namespace swinfleet::bench {
namespace {

// A block of a giant's has about as many.
constexpr int64_t kUnitElements = int64_t{1} << 24;
// Of the plain rates: bytes of a request, and requests at a time in each direction.
constexpr uint64_t kBlock = uint64_t{8} << 20;
constexpr int kDepth = 4;

struct OffloadCommand {
  std::string dir;
  double gb = 2;
  std::string dtype = "bf16";
  std::string moments = "bf16";
  int threads = 1;
  int updates = 3;
  bool json = false;
};

// Seconds of the fastest pass of each kind.
struct OffloadFigures {
  uint64_t bytes = 0;
  std::string io;
  double read = 0;
  double write = 0;
  double both = 0;
  double update = 0;
  // Of that update: what computing waited.
  double wait = 0;
  // The update's arithmetic on state in memory.
  double arithmetic = 0;
};

// Reads all of one file and writes all of the other, at once; either may be null.
double SecondsOfPass(DiskIo* io, ScratchFile* from, ScratchFile* to, uint64_t blocks,
                     const TensorView& memory) {
  std::array<DiskRequest, kDepth> reads, writes;
  const auto start = [&](ScratchFile* file, bool write, uint64_t block) {
    if (file == nullptr) return;
    DiskRequest& request = (write ? writes : reads)[block % kDepth];
    io->Wait(&request);
    request.write = write;
    request.fd = file->fd();
    request.path = &file->path();
    const uint64_t place = block % kDepth + (write ? kDepth : 0);
    request.data = static_cast<std::byte*>(memory.data) + place * kBlock;
    request.bytes = kBlock;
    request.offset = block * kBlock;
    io->Start(&request);
  };
  return SecondsOf([&] {
    for (uint64_t block = 0; block < blocks; ++block) {
      start(from, /*write=*/false, block);
      start(to, /*write=*/true, block);
    }
    for (auto* requests : {&reads, &writes}) {
      for (DiskRequest& request : *requests) io->Wait(&request);
    }
    if (to != nullptr) to->Sync();
  });
}

void TimeDisk(const std::string& folder, int passes, OffloadFigures* figures) {
  const uint64_t blocks = figures->bytes / kBlock;
  // Aligned, as direct I/O needs it.
  Arena arena = Arena::OnHost("blocks", (2 * kDepth + 1) * kBlock);
  TensorView memory = arena.Allocate({static_cast<int64_t>(2 * kDepth * kBlock / sizeof(float))});
  CHECK_EQ(reinterpret_cast<uintptr_t>(memory.data) % ScratchFile::kAlignment, 0u);
  const std::string header(ScratchFile::kAlignment, ' ');
  ScratchFile a(folder + "/plain-a", header, blocks * kBlock);
  ScratchFile b(folder + "/plain-b", header, blocks * kBlock);
  const std::unique_ptr<DiskIo> io = MakeDiskIo(2 * kDepth);
  figures->io = io->name();
  // What was never written takes other ways through a filesystem.
  for (ScratchFile* file : {&a, &b}) SecondsOfPass(io.get(), nullptr, file, blocks, memory);
  figures->read = figures->write = figures->both = std::numeric_limits<double>::max();
  for (int pass = 0; pass < passes; ++pass) {
    const auto best = [&](double* seconds, ScratchFile* from, ScratchFile* to) {
      *seconds = std::min(*seconds, SecondsOfPass(io.get(), from, to, blocks, memory));
    };
    best(&figures->read, &a, nullptr);
    best(&figures->write, nullptr, &b);
    best(&figures->both, &a, &b);
  }
}

// A model of one parameter a unit, whose weights are updated from one unit's gradient.
class Updates {
 public:
  Updates(const OffloadCommand& command, const std::string& folder)
      : dtype_(*ValueIn(DTypeNames(), command.dtype)),
        moments_(*ValueIn(DTypeNames(), command.moments)) {
    optimizer_.kind = OptimizerConfig::Kind::kAdamW;
    const size_t master = dtype_ == DType::kF32 ? 0 : SizeOf(MasterDType(dtype_));
    const auto elements =
        static_cast<int64_t>(command.gb * 1e9 / static_cast<double>(2 * SizeOf(moments_) + master));
    const int64_t units = std::max<int64_t>(1, elements / kUnitElements);
    const int64_t each = elements / units / kNormChunk * kNormChunk;
    for (int64_t unit = 0; unit < units; ++unit) {
      const std::string name = "unit" + std::to_string(unit);
      table_.BeginUnit(name);
      table_.Add(name + ".weight", Shape{each}, {});
    }
    memory_ = std::make_unique<Arena>(
        Arena::OnHost("update", units * each * SizeOf(dtype_) + each * sizeof(float) + (1 << 20)));
    weights_ = memory_->Allocate({units, each}, dtype_);
    gradient_ = memory_->Allocate({each});
    FillGradient();
    setting_ = {.table = &table_,
                .units = {},
                .optimizer = optimizer_.kind,
                .dtype = dtype_,
                .moments = moments_,
                .folder = folder,
                .ops = &FileOps::System()};
    const ShardLayout layout(table_, 1);
    for (int unit = 0; unit < static_cast<int>(units); ++unit) {
      setting_.units.push_back({table_.units()[unit].name, 0, each, layout.UnitSegments(unit)});
    }
    context_.ops = &CpuOps();
    context_.workspace = memory_.get();
    context_.threads = command.threads;
  }

  const OffloadSetting& setting() const { return setting_; }

  // One update of a piece.
  void Step(const UpdatePart& part, int64_t update) {
    OptimizerState state = part.state;
    state.rounding = MomentRounding(1, update, part.unit, part.begin);
    TensorView weights = weights_.Rows(part.unit, 1);
    weights = weights.Reshape({weights.NumElements()}).Rows(part.begin, part.size);
    UpdateSegment(optimizer_, {.weight_decay = 0.05, .lr_scale = 1}, 1e-4, update, 1, weights,
                  gradient_.Rows(part.begin, part.size), state, context_);
  }

 private:
  void FillGradient() {
    CounterRng random(1, RandomPurpose::kBenchmarkData, 0);
    for (float& value : gradient_.span()) value = static_cast<float>(random.Uniform() - 0.5);
  }

  const DType dtype_;
  const DType moments_;
  OptimizerConfig optimizer_;
  ParameterTable table_;
  std::unique_ptr<Arena> memory_;
  TensorView weights_;   // (units, elements of each)
  TensorView gradient_;  // (elements of a unit)
  OffloadSetting setting_;
  Context context_;
};

void Zero(const TensorView& view) {
  if (!view.empty()) std::fill_n(static_cast<std::byte*>(view.data), view.Bytes(), std::byte{0});
}

void TimeUpdates(Updates* updates, int count, OffloadFigures* figures) {
  const OffloadSetting& setting = updates->setting();
  Arena buffers = [&] {
    Arena dry = Arena::DryRun("buffers");
    const OffloadedState planned(setting, &dry);
    return Arena::OnHost("buffers", dry.high_water());
  }();
  OffloadedState state(setting, &buffers);
  state.SetMoments([](const UpdatePart& part) {
    Zero(part.state.first);
    Zero(part.state.second);
  });
  figures->update = std::numeric_limits<double>::max();
  // The first two make what the later ones find.
  for (int update = 0; update < count + 2; ++update) {
    const double waited = state.wait_seconds();
    const double seconds = SecondsOf([&] {
      state.StartUpdate([&](const UpdatePart& part) { updates->Step(part, update); });
      state.FinishUpdate();
    });
    if (update < 2 || seconds >= figures->update) continue;
    figures->update = seconds;
    figures->wait = state.wait_seconds() - waited;
  }
}

void TimeArithmetic(Updates* updates, OffloadFigures* figures) {
  const OffloadSetting& setting = updates->setting();
  Arena dry = Arena::DryRun("piece");
  OffloadedState planned(setting, &dry);
  // A dry run calls its work for each piece, with memory that is not there.
  std::vector<UpdatePart> parts;
  planned.StartUpdate([&](const UpdatePart& part) { parts.push_back(part); });
  Arena memory = Arena::OnHost("piece", dry.high_water());
  OptimizerState& first = parts.front().state;
  for (TensorView* view : {&first.first, &first.second, &first.master}) {
    if (view->empty()) continue;
    *view = memory.Allocate(view->shape, view->dtype);
    Zero(*view);
  }
  figures->arithmetic = SecondsOf([&] {
    for (UpdatePart part : parts) {
      const auto own = [&](const TensorView& view) {
        return view.empty() ? view : view.Rows(0, part.size);
      };
      part.state = {
          .first = own(first.first), .second = own(first.second), .master = own(first.master)};
      updates->Step(part, 3);
    }
  });
}

void PrintOffload(const OffloadCommand& command, const OffloadFigures& figures) {
  const auto gb = static_cast<double>(figures.bytes) * 1e-9;
  std::printf("%.2f GB of state (weights %s, moments %s) in %s, by %s\n", gb, command.dtype.c_str(),
              command.moments.c_str(), command.dir.c_str(), figures.io.c_str());
  std::printf("plain      reads %.2f GB/s, writes %.2f GB/s, both at once %.2f GB/s each\n",
              gb / figures.read, gb / figures.write, gb / figures.both);
  std::printf(
      "an update  %.3f s, %.2f GB/s each, %.0f%% of the plain rate of both at once;"
      " waited %.3f s for the disk\n",
      figures.update, gb / figures.update, 100 * figures.both / figures.update, figures.wait);
  std::printf("arithmetic %.3f s with %d threads, on state in memory\n", figures.arithmetic,
              command.threads);
}

void RunOffload(const OffloadCommand& command) {
  const std::unique_ptr<Communicator> communicator = MakeSelfCommunicator();
  OffloadFigures figures;
  const OffloadFolder folder(command.dir + "/swinfleet-bench-offload", 1, 0);
  Updates updates(command, folder.path());
  Arena dry = Arena::DryRun("offload");
  const OffloadedState planned(updates.setting(), &dry);
  figures.bytes = planned.moment_bytes() + planned.master_bytes();
  CheckOffloadSpace(folder.path(), {.state = 2 * figures.bytes}, {}, "", communicator.get());
  TimeDisk(folder.path(), command.updates, &figures);
  TimeUpdates(&updates, command.updates, &figures);
  TimeArithmetic(&updates, &figures);
  PrintOffload(command, figures);
  if (!command.json) return;
  std::cout << nlohmann::json{{"bytes", figures.bytes},
                              {"io", figures.io},
                              {"dtype", command.dtype},
                              {"moments", command.moments},
                              {"threads", command.threads},
                              {"read_s", figures.read},
                              {"write_s", figures.write},
                              {"read_and_write_s", figures.both},
                              {"update_s", figures.update},
                              {"wait_s", figures.wait},
                              {"arithmetic_s", figures.arithmetic}}
                   .dump()
            << std::endl;
}

}  // namespace

void AddOffloadCommand(CLI::App* app) {
  const auto command = std::make_shared<OffloadCommand>();
  CLI::App* offload = app->add_subcommand("offload",
                                          "updates of optimizer state that is offloaded to a disk, "
                                          "beside the rates of the disk itself");
  offload->add_option("--dir", command->dir, "a folder on the disk, as parallel.offload_dir")
      ->required();
  offload->add_option("--gb", command->gb, "of state; twice as much is taken on the disk")
      ->check(CLI::Range(0.01, 1e6))
      ->capture_default_str();
  offload->add_option("--dtype", command->dtype, "of the weights")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->capture_default_str();
  offload->add_option("--moments", command->moments, "how they are kept")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  offload->add_option("--threads", command->threads, "of the update")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  offload->add_option("--updates", command->updates, "timed, of each kind; the fastest counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  offload->add_flag("--json", command->json, "the figures as an object on the last line");
  offload->callback([command] { RunOffload(*command); });
}

}  // namespace swinfleet::bench
