#include "worker/checkpointer.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "core/checkpoint/run_checkpoints.h"
#include "kernels/error.h"
#include "kernels/placement.h"

namespace swinfleet {
namespace {

// Steps after which a failed save is tried again, unless the next one comes sooner.
constexpr int64_t kRetrySteps = 20;
// How often the final save is tried, with pauses from one second doubling to a minute.
constexpr int kFinalTries = 8;

}  // namespace

Checkpointer::Checkpointer(const JobConfig& config, int64_t attempt, int64_t steps_per_epoch,
                           size_t copy_bytes, Communicator* communicator, ZeroEngine* engine,
                           Accelerator* gpu, Reporter* reporter)
    : config_(config),
      attempt_(attempt),
      every_(config.checkpoint.every_steps > 0 ? config.checkpoint.every_steps : steps_per_epoch),
      communicator_(communicator),
      engine_(engine),
      reporter_(reporter) {
  if (!config.checkpoint.asynchronous) return;
  try {
    MakeSaver(copy_bytes, gpu);
  } catch (const Error& error) {
    copy_.reset();
    LOG(WARNING) << error.what() << ": each save holds the training";
  }
}

Checkpointer::~Checkpointer() = default;

void Checkpointer::MakeSaver(size_t copy_bytes, Accelerator* gpu) {
  copy_ = std::make_unique<Arena>(ReservePinnedArena("checkpoint copy", copy_bytes, gpu));
  buffer_ = copy_->Allocate({static_cast<int64_t>(copy_bytes / sizeof(float))}).span();
  saver_ = std::make_unique<AsyncSaver>();
}

bool Checkpointer::Due(int64_t step) const {
  return step % every_ == 0 || (retry_step_ > 0 && step >= retry_step_);
}

void Checkpointer::Begin(const CheckpointMeta& meta) {
  if (in_flight_) {
    LOG_IF(WARNING, communicator_->rank() == 0)
        << "the checkpoint of step " << meta_.step << " is still being written at step "
        << meta.step << ": the training waits for it";
    Finish();
  }
  // Finish sets it again if this save fails.
  retry_step_ = 0;
  reporter_->SetPhase(Phase::kSave);
  meta_ = meta;
  dir_ = CheckpointDir(config_.run_dir, static_cast<int>(attempt_), meta.step);
  in_flight_ = true;
  outcome_.reset();
  WritePart();
  reporter_->SetPhase(Phase::kTrain);
}

void Checkpointer::WritePart() {
  // An update that fails is no failed save.
  engine_->FinishUpdate();
  std::optional<SharedShard> shared = engine_->PinState();
  SaveOutcome outcome;
  outcome.dir = dir_;
  try {
    if (saver_ != nullptr) {
      saver_->Begin(dir_, communicator_->rank(), communicator_->size(), engine_->CopyState(buffer_),
                    std::move(shared));
      return;
    }
    outcome.records = swinfleet::WritePart(dir_, communicator_->rank(), communicator_->size(),
                                           engine_->OwnedState(), shared);
  } catch (const Error& error) {
    outcome.error = error.what();
  }
  outcome_ = std::move(outcome);
}

bool Checkpointer::PartWritten() {
  if (in_flight_ && !outcome_.has_value()) outcome_ = saver_->Poll();
  return in_flight_ && outcome_.has_value();
}

bool Checkpointer::Finish() {
  CHECK(in_flight_);
  // Ranks wait for the slowest disk, and for the first rank's commit.
  reporter_->SetPhase(Phase::kSave);
  const bool saved = Commit();
  reporter_->SetPhase(Phase::kTrain);
  return saved;
}

bool Checkpointer::Commit() {
  if (!PartWritten()) outcome_ = saver_->Wait();
  in_flight_ = false;
  try {
    // What was written where the run folder was, into a mount point without its filesystem, is not
    // part of the run.
    if (!outcome_->records.empty()) {
      CheckAttemptFolder(config_.run_dir, static_cast<int>(attempt_));
    }
  } catch (const Error& error) {
    outcome_->records.clear();
    outcome_->error = error.what();
  }
  std::string part = outcome_->records.empty() ? "-" + outcome_->error : "+";
  for (const ShardRecord& record : outcome_->records) part += record.ToJson() + "\n";
  const std::vector<std::string> parts = communicator_->AllGatherText(part, "checkpoint parts");
  const std::string error = communicator_->rank() == 0 ? WriteManifest(parts) : "";
  failure_ = communicator_->AllGatherText(error, "checkpoint committed").front();
  if (!failure_.empty()) {
    retry_step_ = meta_.step + std::min(kRetrySteps, every_);
    LOG_IF(WARNING, communicator_->rank() == 0)
        << "the checkpoint of step " << meta_.step << " was not saved: " << failure_
        << ". Training goes on; the next try is after step " << retry_step_;
    return false;
  }
  retry_step_ = 0;
  last_ = dir_;
  if (communicator_->rank() == 0) {
    reporter_->ReportCheckpoint(dir_, meta_.step);
    Retain();
  }
  return true;
}

std::string Checkpointer::WriteManifest(const std::vector<std::string>& parts) {
  std::string error;
  std::vector<ShardRecord> records;
  try {
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      const std::string name = "rank " + std::to_string(rank);
      if (parts[rank].starts_with("+")) {
        std::istringstream lines(parts[rank].substr(1));
        for (std::string line; std::getline(lines, line);) {
          records.push_back(ShardRecord::FromJson(line, name));
        }
      } else {
        error += (error.empty() ? "" : "; ") + name + ": " + parts[rank].substr(1);
      }
    }
    if (error.empty()) CommitManifest(dir_, meta_, std::move(records));
  } catch (const Error& failure) {
    error = failure.what();
  }
  if (!error.empty()) {
    // What the other ranks wrote would only fill the disk.
    const std::string problem = DiscardUnfinished(dir_);
    LOG_IF(WARNING, !problem.empty()) << problem;
  }
  return error;
}

void Checkpointer::Retain() {
  try {
    const RetentionReport report =
        ApplyRetention(config_.run_dir, static_cast<int>(attempt_), config_.checkpoint.keep_last,
                       config_.checkpoint.keep_every_steps);
    for (const std::string& problem : report.problems) LOG(WARNING) << problem;
  } catch (const Error& error) {
    LOG(WARNING) << "old checkpoints were not deleted: " << error.what();
  }
}

void Checkpointer::SaveNow(const CheckpointMeta& meta) {
  auto pause = std::chrono::seconds(1);
  for (int tries = 1;; ++tries) {
    Begin(meta);
    if (Finish()) return;
    if (tries == kFinalTries) throw Error("the last checkpoint can't be written: " + failure_);
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::seconds(60));
  }
}

}  // namespace swinfleet
