// swinfleet-bench collectives: how fast ranks exchange, as nccl-tests says it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/mpi_runtime.h"
#include "distributed/nccl_communicator.h"
#include "distributed/shard_layout.h"
#include "kernels/error.h"
#include "kernels/placement.h"
#include "worker/bench/bench.h"
#include "worker/compute_device.h"

namespace swinfleet::bench {
namespace {

struct CollectivesCommand {
  // "cpu", "cuda" or "auto".
  std::string device = "cpu";
  double smallest_mib = 0.25;
  double largest_mib = 64;
  int repeats = 10;
  bool json = false;
};

enum class Operation { kAllReduce, kReduceScatter, kAllGather };

struct Row {
  Operation operation;
  bool library_sums = false;
  size_t bytes = 0;
  double best_seconds = 0;
  double median_seconds = 0;
};

const char* NameOf(Operation operation) {
  switch (operation) {
    case Operation::kAllReduce:
      return "all-reduce";
    case Operation::kReduceScatter:
      return "reduce-scatter";
    case Operation::kAllGather:
      return "all-gather";
  }
  return "";
}

// Bytes of the whole buffer a second, and what each link has to carry for that, at least: in an
// all-reduce each part of the buffer goes out and comes back.
double AlgorithmBandwidth(const Row& row) {
  return static_cast<double>(row.bytes) / row.best_seconds;
}
double BusBandwidth(const Row& row, int ranks) {
  const double ways = row.operation == Operation::kAllReduce ? 2 : 1;
  return AlgorithmBandwidth(row) * ways * (ranks - 1) / ranks;
}

// A buffer of the ranks' device, and those who exchange it.
class CollectivesRun {
 public:
  CollectivesRun(Communicator* host, Accelerator* gpu, size_t most_bytes, int repeats)
      : host_(host),
        gpu_(gpu),
        repeats_(repeats),
        memory_(ReserveArena("buffer", most_bytes, gpu)),
        scratch_(ReserveArena("scratch", ScratchBytes(most_bytes), gpu)),
        workspace_(ReserveArena("workspace", Arena::kAlignment, gpu)),
        context_(ContextOn(gpu, /*threads=*/1, &workspace_)) {
    if (gpu == nullptr) return;
    const auto elements = static_cast<int64_t>(ScratchBytes(most_bytes) / sizeof(float));
    nccl_ = std::make_unique<NcclCommunicator>(host, scratch_.Allocate({elements}), &context_);
    nccl_->Connect();
  }

  Row Time(Operation operation, bool library_sums, size_t bytes) {
    ArenaScope scope(&memory_);
    const TensorView buffer = memory_.Allocate({static_cast<int64_t>(bytes / sizeof(float))});
    communicator()->UseLibrarySums(library_sums);
    Check(operation, buffer);
    std::vector<double> seconds;
    for (int i = 0; i < repeats_; ++i) {
      communicator()->Barrier("ready");
      seconds.push_back(SecondsOf([&] { Run(operation, buffer); }));
    }
    // The slowest rank's, run by run.
    std::vector<double> all(seconds.size() * communicator()->size());
    communicator()->AllGather(seconds, all, "seconds");
    for (size_t i = 0; i < all.size(); ++i) {
      double& slowest = seconds[i % seconds.size()];
      slowest = std::max(slowest, all[i]);
    }
    std::ranges::sort(seconds);
    return {.operation = operation,
            .library_sums = library_sums,
            .bytes = bytes,
            .best_seconds = seconds.front(),
            .median_seconds = seconds[seconds.size() / 2]};
  }

 private:
  size_t ScratchBytes(size_t most_bytes) const {
    return gpu_ == nullptr ? 0 : NcclCommunicator::ScratchBytes(most_bytes, host_->size());
  }
  Communicator* communicator() { return nccl_ == nullptr ? host_ : nccl_.get(); }

  void Run(Operation operation, const TensorView& buffer) {
    const std::span data(buffer.f32(), static_cast<size_t>(buffer.NumElements()));
    switch (operation) {
      case Operation::kAllReduce:
        communicator()->AllReduce(data, "all-reduce")->Wait();
        break;
      case Operation::kReduceScatter:
        communicator()->ReduceScatter(data, "reduce-scatter")->Wait();
        break;
      case Operation::kAllGather:
        communicator()->AllGather(data, "all-gather")->Wait();
        break;
    }
    if (gpu_ != nullptr) gpu_->Wait();
  }

  // Throws Error where what arrives is not what was sent: rank r has r + 1 everywhere.
  void Check(Operation operation, const TensorView& buffer) {
    const int ranks = communicator()->size(), own = communicator()->rank();
    context_.ops->fill({.x = buffer, .value = static_cast<float>(own + 1)}, context_);
    Run(operation, buffer);
    const ElementsOnHost<float> arrived(buffer, context_);
    const size_t shard = arrived.span().size() / ranks;
    for (int rank = 0; rank < ranks; ++rank) {
      // A reduce-scatter leaves the others' shards as they may be.
      if (operation == Operation::kReduceScatter && rank != own) continue;
      const float expected = operation == Operation::kAllGather
                                 ? static_cast<float>(rank + 1)
                                 : static_cast<float>(ranks * (ranks + 1) / 2);
      for (const float x :
           arrived.span().subspan(ShardLayout::ShardIndex(rank, ranks) * shard, shard)) {
        if (x != expected) {
          throw Error(std::string(NameOf(operation)) + " of " + BytesText(buffer.Bytes()) +
                      " brought rank " + std::to_string(own) + " " + std::to_string(x) +
                      " in place of " + std::to_string(expected));
        }
      }
    }
  }

  Communicator* host_;
  Accelerator* gpu_;
  const int repeats_;
  Arena memory_, scratch_, workspace_;
  Context context_;
  std::unique_ptr<NcclCommunicator> nccl_;
};

const char* SumsOf(const Row& row) {
  if (row.operation == Operation::kAllGather) return "";
  return row.library_sums ? "library" : "reproducible";
}

void PrintRow(const Row& row, int ranks) {
  std::printf("| %s | %s | %.2f | %.3f | %.3f | %.2f | %.2f |\n", NameOf(row.operation),
              SumsOf(row), static_cast<double>(row.bytes) / (1 << 20), 1e3 * row.best_seconds,
              1e3 * row.median_seconds, AlgorithmBandwidth(row) / 1e9,
              BusBandwidth(row, ranks) / 1e9);
  std::fflush(stdout);
}

nlohmann::json JsonOf(const Row& row, int ranks) {
  return {{"operation", NameOf(row.operation)},
          {"sums", SumsOf(row)},
          {"bytes", row.bytes},
          {"best_s", row.best_seconds},
          {"median_s", row.median_seconds},
          {"algorithm_bytes_per_s", AlgorithmBandwidth(row)},
          {"bus_bytes_per_s", BusBandwidth(row, ranks)}};
}

// From the smallest to the largest by fours, of whole shards.
std::vector<size_t> SizesOf(const CollectivesCommand& command, int ranks) {
  if (command.smallest_mib > command.largest_mib) {
    throw Error("--smallest-mib is larger than --largest-mib");
  }
  std::vector<size_t> sizes;
  for (double mib = command.smallest_mib; mib <= command.largest_mib; mib *= 4) {
    const auto shard = static_cast<size_t>(mib * (1 << 20) / sizeof(float) / ranks);
    sizes.push_back(std::max<size_t>(shard, 1) * ranks * sizeof(float));
  }
  return sizes;
}

void RunCollectives(const CollectivesCommand& command) {
  if (!MpiRuntime::StartedByLauncher()) {
    throw Error("collectives are between ranks: start it with mpirun -n 2 or more");
  }
  MpiRuntime mpi;
  const std::unique_ptr<Communicator> world = mpi.World();
  const int ranks = world->size();
  if (ranks == 1) throw Error("one rank has nobody to exchange with: use mpirun -n 2 or more");
  const std::vector<size_t> sizes = SizesOf(command, ranks);
  const ComputeDevice device = TakeDevice(DeviceRequestOf(command.device), world.get());
  CollectivesRun run(world.get(), device.gpu.get(), sizes.back(), command.repeats);
  const bool speaks = world->rank() == 0;
  if (speaks) {
    std::printf(
        "%d ranks, %s. Bandwidths are of the best run; bus: what each rank's link carries at "
        "least.\n"
        "\n| operation | sums | MiB | best, ms | median, ms | algorithm, GB/s | bus, GB/s |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n",
        ranks, device.text.c_str());
  }
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& [operation, library] :
       {std::pair(Operation::kAllReduce, false), std::pair(Operation::kAllReduce, true),
        std::pair(Operation::kReduceScatter, false), std::pair(Operation::kReduceScatter, true),
        std::pair(Operation::kAllGather, false)}) {
    for (const size_t bytes : sizes) {
      const Row row = run.Time(operation, library, bytes);
      if (!speaks) continue;
      PrintRow(row, ranks);
      rows.push_back(JsonOf(row, ranks));
    }
  }
  if (speaks && command.json) {
    std::cout << nlohmann::json{{"ranks", ranks}, {"rows", rows}}.dump() << std::endl;
  }
}

}  // namespace

void AddCollectivesCommand(CLI::App* app) {
  const auto command = std::make_shared<CollectivesCommand>();
  CLI::App* collectives = app->add_subcommand("collectives",
                                              "all-reduce, reduce-scatter and all-gather of "
                                              "float32 between the ranks of mpirun, checked and "
                                              "timed, as a Markdown table");
  collectives
      ->add_option("--device", command->device, "whose memory is exchanged: cpu, cuda or auto")
      ->check(CLI::IsMember(DeviceRequestTexts()))
      ->capture_default_str();
  collectives->add_option("--smallest-mib", command->smallest_mib, "of a rank's buffer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  collectives->add_option("--largest-mib", command->largest_mib, "of a rank's buffer")
      ->check(CLI::Range(1e-6, 65536.0))
      ->capture_default_str();
  collectives
      ->add_option("--repeats", command->repeats, "timed runs of each, after one that is not")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  collectives->add_flag("--json", command->json, "one JSON object on the last line");
  collectives->callback([command] { RunCollectives(*command); });
}

}  // namespace swinfleet::bench
