// swinfleet-bench data: how many pictures a second are made ready for training on this machine.
#include <cinttypes>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core/data/dataset.h"
#include "core/data/loader.h"
#include "core/memory/memory_classes.h"
#include "worker/bench/bench.h"

namespace swinfleet::bench {
namespace {

struct DataCommand {
  std::string path;
  std::string split = "train";
  int64_t image_size = 224;
  int64_t batch = 32;
  int threads = 1;
  int batches = 40;
  bool json = false;
};

// ImageNet's usual training: a random part of each picture, resampled bicubically, flipped by
// chance and normalised; neither mixed nor masked.
JobConfig DataJob(const DataCommand& command) {
  JobConfig job;
  job.data.format = "imagefolder";
  job.data.path = command.path;
  job.data.train_split = command.split;
  job.data.crop_scale = {0.08, 1.0};
  job.data.flip = 0.5;
  job.data.mean = {0.485, 0.456, 0.406};
  job.data.std = {0.229, 0.224, 0.225};
  job.data.loader_threads = command.threads;
  // As many as PyTorch's loader makes ahead.
  job.data.prefetch = 2 * command.threads;
  job.model.image_h = job.model.image_w = command.image_size;
  job.train.micro_batch = job.train.global_batch = command.batch;
  return job;
}

double SecondsOfBatches(const JobConfig& job, int batches) {
  const std::unique_ptr<Dataset> data = OpenDataset(job.data, job.data.train_split);
  JobConfig fitting = job;
  fitting.model.num_classes = data->identity().num_classes;
  Loader loader(data.get(), LoaderOptionsFor(fitting));
  // What the threads make ahead, before they are asked, is not counted.
  for (int i = 0; i < job.data.prefetch + 2; ++i) loader.Next();
  return SecondsOf([&] {
    for (int i = 0; i < batches; ++i) loader.Next();
  });
}

void RunData(const DataCommand& command) {
  const double seconds = SecondsOfBatches(DataJob(command), command.batches);
  const double pictures = static_cast<double>(command.batches * command.batch) / seconds;
  const double of_core = pictures / command.threads;
  const size_t peak_mib = ProcessPeakBytes() >> 20;
  std::printf("%s, %" PRId64 "x%" PRId64 ", batch %" PRId64
              ", %d threads: %.1f pictures/s, %.1f a thread; process %zu MiB\n",
              command.path.c_str(), command.image_size, command.image_size, command.batch,
              command.threads, pictures, of_core, peak_mib);
  if (!command.json) return;
  const nlohmann::json line = {{"threads", command.threads},
                               {"batch", command.batch},
                               {"images_per_s", pictures},
                               {"images_per_s_core", of_core},
                               {"peak_mib", peak_mib}};
  std::cout << line.dump() << std::endl;
}

}  // namespace

void AddDataCommand(CLI::App* app) {
  const auto command = std::make_shared<DataCommand>();
  CLI::App* data = app->add_subcommand(
      "data", "pictures decoded, cropped, resampled, flipped and normalised a second");
  data->add_option("--data", command->path, "a folder with SPLIT/CLASS/PICTURE")->required();
  data->add_option("--split", command->split)->capture_default_str();
  data->add_option("--image-size", command->image_size, "of the model's input")
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  data->add_option("--batch", command->batch, "pictures a batch")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  data->add_option("--threads", command->threads, "threads of the loader")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  data->add_option("--batches", command->batches, "batches that are timed")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  data->add_flag("--json", command->json, "one JSON object on the last line");
  data->callback([command] { RunData(*command); });
}

}  // namespace swinfleet::bench
