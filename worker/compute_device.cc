#include "worker/compute_device.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "kernels/cuda/scratch.h"
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

namespace {

// Layers of attention that are alike.
struct AttentionLayers {
  int64_t channels = 0;
  int64_t heads = 0;
  int64_t window_tokens = 0;
  // Windows with position biases of their own; 1: all share them.
  int64_t biases = 1;
};

AttentionLayers AttentionOfStage(const JobConfig& config, int stage) {
  const ModelConfig& model = config.model;
  const std::array<int64_t, 3> window = model.Window(stage, /*shifted=*/false).size;
  AttentionLayers layers = {.channels = model.StageDim(stage),
                            .heads = model.num_heads[stage],
                            .window_tokens = window[0] * window[1] * window[2]};
  if (model.arch == Architecture::kVit) {
    // All tokens, and one for the class.
    layers.window_tokens = model.StageTokens(stage) + 1;
    layers.biases = 0;
  }
  if (config.pretrain.method == PretrainConfig::Method::kGreenMim) {
    // At most: see VisibleWindows.
    layers.window_tokens = std::max(2 * layers.window_tokens, config.pretrain.group_size);
    layers.biases = 2 * model.StageTokens(stage) / layers.window_tokens + 2;
  }
  return layers;
}

std::vector<AttentionLayers> AttentionOf(const JobConfig& config) {
  const ModelConfig& model = config.model;
  const PretrainConfig& pretrain = config.pretrain;
  std::vector<AttentionLayers> all;
  for (int stage = 0; stage < model.num_stages(); ++stage) {
    all.push_back(AttentionOfStage(config, stage));
  }
  if (pretrain.on() && pretrain.method != PretrainConfig::Method::kSimMim) {
    all.push_back({pretrain.decoder_dim, pretrain.decoder_heads,
                   model.StageTokens(model.num_stages() - 1) + 1, /*biases=*/0});
  }
  return all;
}

std::string WhyNotAttentionOnGpu(const AttentionLayers& layers, DType dtype) {
  if (layers.channels / layers.heads > kMostCudaHeadDim) {
    return "a head of its attention has more than " + std::to_string(kMostCudaHeadDim) +
           " channels: use more heads";
  }
  return cuda::WhyNotAttention(layers.window_tokens, layers.heads, layers.biases, dtype);
}

}  // namespace

std::string WhyNotOnGpu(const JobConfig& config) {
  if (config.memory.budget > 0) {
    return "memory.budget is kept for the host's memory alone";
  }
  for (const AttentionLayers& layers : AttentionOf(config)) {
    const std::string problem = WhyNotAttentionOnGpu(layers, config.train.dtype);
    if (!problem.empty()) return problem;
  }
  return "";
}

std::string WhyNotOnCpu(const JobConfig& config) {
  if (config.train.matmul == Matmul::kTf32) {
    return "train.matmul: tf32 is arithmetic of GPUs' tensor cores: leave it out, or use GPUs"
           " (--device cuda)";
  }
  if (config.parallel.offload != Offload::kHost) return "";
  return "parallel.offload: host takes the optimizer's state from a GPU to the host's memory, where"
         " it is anyway when the CPU computes: leave it out, or use disk, or GPUs (--device cuda)";
}

}  // namespace swinfleet
