#include "worker/compute_device.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "kernels/error.h"

namespace swinfleet {
namespace {

constexpr std::array<const char*, 3> kRequests = {"auto", "cpu", "cuda"};

// What a rank tells the others: what it asks for and, where that may be a GPU, which ones it sees
// or why it sees none.
struct Seen {
  std::string request;
  std::string problem;
  std::vector<std::string> uuids;

  std::string ToText() const {
    std::string text = request + "\n" + problem;
    for (const std::string& uuid : uuids) text += "\n" + uuid;
    return text;
  }
  static Seen FromText(const std::string& text) {
    std::istringstream lines(text);
    Seen seen;
    std::getline(lines, seen.request);
    std::getline(lines, seen.problem);
    for (std::string uuid; std::getline(lines, uuid);) seen.uuids.push_back(uuid);
    return seen;
  }
};

std::string RankText(size_t rank, size_t ranks) {
  return ranks == 1 ? "" : "rank " + std::to_string(rank) + ": ";
}

// Each rank's place among the GPUs that it sees, or why one can have none.
struct Division {
  std::vector<size_t> taken;
  std::string problem;
};

Division Divide(const std::vector<Seen>& ranks) {
  Division division;
  std::map<std::string, size_t> owner;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const Seen& seen = ranks[rank];
    if (!seen.problem.empty()) {
      division.problem = RankText(rank, ranks.size()) + seen.problem;
      return division;
    }
    const auto free = std::ranges::find_if(
        seen.uuids, [&](const std::string& uuid) { return !owner.contains(uuid); });
    if (free == seen.uuids.end()) {
      division.problem = RankText(rank, ranks.size()) + "the " + std::to_string(seen.uuids.size()) +
                         " GPUs that it sees belong to other ranks of its host: start no more " +
                         "ranks on a host than it has GPUs";
      return division;
    }
    owner[*free] = rank;
    division.taken.push_back(free - seen.uuids.begin());
  }
  return division;
}

}  // namespace

DeviceRequest DeviceRequestOf(const std::string& text) {
  const auto found = std::ranges::find(kRequests, text);
  CHECK(found != kRequests.end()) << text;
  return static_cast<DeviceRequest>(found - kRequests.begin());
}

std::vector<std::string> DeviceRequestTexts() { return {kRequests.begin(), kRequests.end()}; }

ComputeDevice TakeDevice(DeviceRequest request, Communicator* communicator) {
  return TakeDevice(request, communicator, &OpenCudaBackend);
}

ComputeDevice TakeDevice(DeviceRequest request, Communicator* communicator,
                         const CudaBackend& (*open)()) {
  Seen own = {.request = kRequests[static_cast<size_t>(request)], .problem = "", .uuids = {}};
  const CudaBackend* backend = nullptr;
  std::vector<Gpu> gpus;
  if (request != DeviceRequest::kCpu) {
    try {
      backend = &open();
      gpus = backend->Gpus();
      if (communicator->size() > 1) backend->RequireCollectives();
    } catch (const Error& error) {
      own.problem = error.what();
    }
  }
  for (const Gpu& gpu : gpus) own.uuids.push_back(gpu.uuid);
  std::vector<Seen> ranks;
  for (const std::string& text : communicator->AllGatherText(own.ToText(), "devices")) {
    ranks.push_back(Seen::FromText(text));
  }
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    if (ranks[rank].request == ranks[0].request) continue;
    throw Error("rank 0 has --device " + ranks[0].request + " and rank " + std::to_string(rank) +
                " --device " + ranks[rank].request + ": give all ranks the same");
  }
  ComputeDevice device = {.request = request, .gpu = nullptr, .text = "the CPU"};
  if (request == DeviceRequest::kCpu) return device;
  const Division division = Divide(ranks);
  std::string problem = division.problem;
  // Opening one can fail on any rank, and all must know.
  if (problem.empty()) {
    const Gpu& gpu = gpus[division.taken[communicator->rank()]];
    std::string failure;
    try {
      device.gpu = backend->Open(gpu);
      device.text = gpu.name + ", GPU " + std::to_string(gpu.number);
    } catch (const Error& error) {
      failure = error.what();
    }
    const std::vector<std::string> failures =
        communicator->AllGatherText(failure, "devices opened");
    for (size_t rank = 0; rank < failures.size() && problem.empty(); ++rank) {
      if (!failures[rank].empty()) problem = RankText(rank, failures.size()) + failures[rank];
    }
  }
  if (problem.empty()) return device;
  if (request == DeviceRequest::kCuda) throw Error("--device cuda: " + problem);
  device.gpu.reset();
  device.text = "the CPU, because " + problem;
  return device;
}

std::string WhyNotOnGpu(const JobConfig& config) {
  if (config.memory.budget > 0) {
    return "memory.budget is kept for the host's memory alone";
  }
  const auto too_wide = [](int64_t channels, int64_t heads) {
    return channels / heads > kMostCudaHeadDim;
  };
  const ModelConfig& model = config.model;
  bool wide = config.pretrain.on() && config.pretrain.method != PretrainConfig::Method::kSimMim &&
              too_wide(config.pretrain.decoder_dim, config.pretrain.decoder_heads);
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    wide = wide || too_wide(model.StageDim(stage), model.num_heads[stage]);
  }
  if (!wide) return "";
  return "a head of its attention has more than " + std::to_string(kMostCudaHeadDim) +
         " channels: use more heads";
}

std::string WhyNotOnCpu(const JobConfig& config) {
  if (config.parallel.offload != Offload::kHost) return "";
  return "parallel.offload: host takes the optimizer's state from a GPU to the host's memory, where"
         " it is anyway when the CPU computes: leave it out, or use disk, or GPUs (--device cuda)";
}

}  // namespace swinfleet
