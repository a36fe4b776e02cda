#include "coordinator/audit.h"

#include "proto/connection.h"

namespace swinfleet::coordinator {
namespace {

constexpr double kCountSeconds = 60;
constexpr size_t kMaxText = 512;
constexpr char kOthers[] = "others";

void Tidy(std::string* text) {
  if (text->size() > kMaxText) text->resize(kMaxText);
  for (char& c : *text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) c = byte == '\n' ? ' ' : '?';
  }
}

}  // namespace

std::string AuditResult(const grpc::Status& status) {
  return status.ok() ? "ok" : status.error_message();
}

void TidyAuditEntry(AuditEntry* entry) {
  for (std::string* text :
       {&entry->who, &entry->role, &entry->from, &entry->action, &entry->subject, &entry->result}) {
    Tidy(text);
  }
}

std::vector<AuditEntry> RefusalCounter::Add(const AuditEntry& refusal, grpc::StatusCode kind) {
  std::vector<AuditEntry> due = Expire(refusal.time);
  std::string key = refusal.who + "\n" + HostOf(refusal.from) + "\n" + refusal.action + "\n" +
                    std::to_string(kind);
  if (kinds_.size() >= max_kinds_ && !kinds_.contains(key)) key = kOthers;
  const auto [entry, is_new] = kinds_.try_emplace(key);
  if (is_new) {
    entry->second.since = refusal.time;
    due.push_back(refusal);
  } else {
    entry->second.newest = refusal;
    ++entry->second.count;
  }
  return due;
}

std::vector<AuditEntry> RefusalCounter::Expire(double time) {
  // A minute that begins in the future began before the clock was put back.
  return TakeUnless([time](double since) { return since > time - kCountSeconds && since <= time; });
}

std::vector<AuditEntry> RefusalCounter::TakeAll() {
  return TakeUnless([](double) { return false; });
}

std::vector<AuditEntry> RefusalCounter::TakeUnless(const std::function<bool(double)>& goes_on) {
  std::vector<AuditEntry> taken;
  for (auto kind = kinds_.begin(); kind != kinds_.end();) {
    if (goes_on(kind->second.since)) {
      ++kind;
      continue;
    }
    if (kind->second.count > 0) {
      kind->second.newest.times = kind->second.count;
      taken.push_back(kind->second.newest);
    }
    kind = kinds_.erase(kind);
  }
  return taken;
}

}  // namespace swinfleet::coordinator
