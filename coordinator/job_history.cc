#include "coordinator/job_history.h"

#include <algorithm>
#include <bit>
#include <limits>
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

// The spacing of a list that was thinned before: what its points keep, but for the last one.
uint64_t SpacingOf(const Points& points) {
  uint64_t least = std::numeric_limits<uint64_t>::max();
  for (int i = 1; i + 1 < points.size(); ++i) {
    least = std::min<uint64_t>(least, points.at(i).step() - points.at(i - 1).step());
  }
  return points.size() < 3 ? 1 : std::bit_floor(std::max<uint64_t>(least, 1));
}

}  // namespace

JobHistories::Entry& JobHistories::EntryOf(const std::string& job_id) {
  auto found = entries_.find(job_id);
  if (found != entries_.end()) {
    by_order_.erase(found->second.order);
  } else {
    if (entries_.size() >= kMaxHistories) {
      const std::string oldest = by_order_.begin()->second;
      changed_.erase(oldest);
      forgotten_.insert(oldest);
      entries_.erase(oldest);
      by_order_.erase(by_order_.begin());
    }
    found = entries_.try_emplace(job_id).first;
  }
  found->second.order = ++next_order_;
  by_order_[next_order_] = job_id;
  changed_.insert(job_id);
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
  Entry& entry = EntryOf(job_id);
  auto* records = entry.history.mutable_checkpoints();
  if (records->size() >= kMaxCheckpointRecords) {
    records->DeleteSubrange(0, 1);
    ++entry.first_checkpoint;
  }
  *records->Add() = std::move(record);
}

void JobHistories::Restore(const std::string& job_id, JobHistory history,
                           uint64_t first_checkpoint) {
  Entry& entry = EntryOf(job_id);
  entry.history = std::move(history);
  entry.spacing = SpacingOf(entry.history.points());
  entry.first_checkpoint = entry.stored_begin = first_checkpoint;
  entry.stored_end = first_checkpoint + static_cast<uint64_t>(entry.history.checkpoints_size());
  for (const HistoryPoint& point : entry.history.points()) {
    entry.stored_points.emplace_back(point.step(), point.time());
  }
  changed_.erase(job_id);
}

// Both lists are in the order of their steps.
void JobHistories::ComparePoints(const std::string& job_id, const Entry& entry,
                                 HistoryChanges* out) {
  auto stored = entry.stored_points.begin();
  const auto end = entry.stored_points.end();
  const auto drop_to = [&](uint64_t step) {
    for (; stored != end && stored->first < step; ++stored) {
      out->deleted.push_back({job_id, HistoryChanges::Kind::kPoint, stored->first});
    }
  };
  for (const HistoryPoint& point : entry.history.points()) {
    drop_to(point.step());
    const bool there = stored != end && stored->first == point.step();
    // The same step of another attempt is another point.
    const bool same = there && stored->second == point.time();
    if (there) ++stored;
    if (same) continue;
    out->put.push_back(
        {{job_id, HistoryChanges::Kind::kPoint, point.step()}, point.SerializeAsString()});
  }
  drop_to(std::numeric_limits<uint64_t>::max());
}

void JobHistories::CompareCheckpoints(const std::string& job_id, const Entry& entry,
                                      HistoryChanges* out) {
  constexpr auto kKind = HistoryChanges::Kind::kCheckpoint;
  const uint64_t gone = std::min(entry.first_checkpoint, entry.stored_end);
  for (uint64_t number = entry.stored_begin; number < gone; ++number) {
    out->deleted.push_back({job_id, kKind, number});
  }
  for (int i = 0; i < entry.history.checkpoints_size(); ++i) {
    const uint64_t number = entry.first_checkpoint + static_cast<uint64_t>(i);
    if (number < entry.stored_end) continue;
    out->put.push_back({{job_id, kKind, number}, entry.history.checkpoints(i).SerializeAsString()});
  }
}

HistoryChanges JobHistories::Unstored(size_t rows) const {
  HistoryChanges out;
  const auto is_full = [&] {
    // What is forgotten are all rows of a job.
    return out.deleted.size() + out.put.size() + kMaxHistoryPoints * out.forgotten.size() >= rows;
  };
  for (const std::string& job_id : forgotten_) {
    if (is_full()) return out;
    out.forgotten.push_back(job_id);
  }
  for (const std::string& job_id : changed_) {
    if (is_full()) return out;
    const Entry& entry = entries_.at(job_id);
    ComparePoints(job_id, entry, &out);
    CompareCheckpoints(job_id, entry, &out);
    out.jobs.push_back(job_id);
  }
  return out;
}

void JobHistories::Stored(const HistoryChanges& changes) {
  for (const std::string& job_id : changes.forgotten) forgotten_.erase(job_id);
  for (const std::string& job_id : changes.jobs) {
    Entry& entry = entries_.at(job_id);
    entry.stored_points.clear();
    for (const HistoryPoint& point : entry.history.points()) {
      entry.stored_points.emplace_back(point.step(), point.time());
    }
    entry.stored_begin = entry.first_checkpoint;
    entry.stored_end =
        entry.first_checkpoint + static_cast<uint64_t>(entry.history.checkpoints_size());
    changed_.erase(job_id);
  }
}

const JobHistory* JobHistories::Find(const std::string& job_id) const {
  const auto found = entries_.find(job_id);
  return found == entries_.end() ? nullptr : &found->second.history;
}

}  // namespace swinfleet::coordinator
