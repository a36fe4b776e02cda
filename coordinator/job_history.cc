#include "coordinator/job_history.h"

#include <utility>

namespace swinfleet::coordinator {
namespace {

using Points = google::protobuf::RepeatedPtrField<HistoryPoint>;

// Every second point of a full list goes; the last one stays.
void Thin(Points* points) {
  int kept = 0;
  for (int i = (points->size() - 1) % 2; i < points->size(); i += 2) {
    points->SwapElements(kept++, i);
  }
  points->DeleteSubrange(kept, points->size() - kept);
}

}  // namespace

JobHistories::Entry& JobHistories::EntryOf(const std::string& job_id) {
  auto found = entries_.find(job_id);
  if (found != entries_.end()) {
    by_order_.erase(found->second.order);
  } else {
    if (entries_.size() >= kMaxHistories) {
      entries_.erase(by_order_.begin()->second);
      by_order_.erase(by_order_.begin());
    }
    found = entries_.try_emplace(job_id).first;
  }
  found->second.order = ++next_order_;
  by_order_[next_order_] = job_id;
  return found->second;
}

void JobHistories::AddProgress(const std::string& job_id, uint32_t attempt, double time,
                               const Progress& progress) {
  Entry& entry = EntryOf(job_id);
  Points* points = entry.history.mutable_points();
  while (!points->empty() && points->rbegin()->step() >= progress.step()) points->RemoveLast();
  // A last point that is near to the one before is there only until a newer one comes.
  const int size = points->size();
  if (size >= 2 && points->at(size - 1).step() - points->at(size - 2).step() < entry.spacing) {
    points->RemoveLast();
  }
  if (points->size() >= kMaxHistoryPoints) {
    Thin(points);
    entry.spacing *= 2;
  }
  HistoryPoint* point = points->Add();
  point->set_time(time);
  point->set_step(progress.step());
  point->set_attempt(attempt);
  point->set_loss(progress.loss());
  point->set_learning_rate(progress.learning_rate());
  point->set_grad_norm(progress.grad_norm());
  point->set_images_per_second(progress.images_per_second());
}

void JobHistories::AddCheckpoint(const std::string& job_id, CheckpointRecord record) {
  auto* records = EntryOf(job_id).history.mutable_checkpoints();
  if (records->size() >= kMaxCheckpointRecords) records->DeleteSubrange(0, 1);
  *records->Add() = std::move(record);
}

const JobHistory* JobHistories::Find(const std::string& job_id) const {
  const auto found = entries_.find(job_id);
  return found == entries_.end() ? nullptr : &found->second.history;
}

}  // namespace swinfleet::coordinator
