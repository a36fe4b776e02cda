#include "coordinator/gate.h"

#include <glog/logging.h>

#include <cctype>
#include <cmath>
#include <utility>
#include <vector>

#include "proto/connection.h"

namespace swinfleet::coordinator {
namespace {

// Seconds after which tokens that were made or revoked are known.
constexpr double kRefreshSeconds = 1;

struct Rule {
  const char* name;
  const char* doing;
  Role needed;
  bool (*allows)(const Identity&);
};

const Rule& RuleOf(Action action) {
  static constexpr Rule kRules[] = {
      {"view", "see jobs and fleets", Role::kViewer, &MayView},
      {"submit", "submit jobs", Role::kSubmitter, &MaySubmit},
      // Of their own.
      {"cancel", "cancel jobs", Role::kSubmitter, &MaySubmit},
      {"trace", "record traces of jobs", Role::kSubmitter, &MaySubmit},
      {"fence", "fence fleets", Role::kAdmin, &MayFence},
      {"serve", "serve as a worker or supervisor", Role::kFleet, &MayServe},
  };
  return kRules[static_cast<size_t>(action)];
}

std::string Decode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '%' && i + 2 < text.size() &&
                         std::isxdigit(static_cast<unsigned char>(text[i + 1])) != 0 &&
                         std::isxdigit(static_cast<unsigned char>(text[i + 2])) != 0;
    out += escaped ? static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16)) : text[i];
    if (escaped) i += 2;
  }
  return out;
}

}  // namespace

std::string PeerAddress(const std::string& grpc_peer) {
  constexpr char kMapped[] = "[::ffff:";
  const std::string peer = Decode(grpc_peer);
  const size_t colon = peer.find(':');
  const std::string scheme = peer.substr(0, colon);
  if (colon == std::string::npos || (scheme != "ipv4" && scheme != "ipv6")) return peer;
  const std::string address = peer.substr(colon + 1);
  const size_t close = address.find(']');
  if (!address.starts_with(kMapped) || close == std::string::npos ||
      address.find('.') == std::string::npos) {
    return address;
  }
  constexpr size_t kSkip = sizeof(kMapped) - 1;
  return address.substr(kSkip, close - kSkip) + address.substr(close + 1);
}

std::string BearerToken(const std::string& header) {
  constexpr char kScheme[] = "bearer ";
  constexpr size_t kLength = sizeof(kScheme) - 1;
  if (header.size() < kLength) return "";
  for (size_t i = 0; i < kLength; ++i) {
    if (std::tolower(static_cast<unsigned char>(header[i])) != kScheme[i]) return "";
  }
  return header.substr(kLength);
}

Gate::Gate(const GateOptions& options, std::unique_ptr<AccessStore> store, ControlLoop* control)
    : options_(options),
      control_(control),
      access_(options.clock, options.open_without_tokens),
      limiter_(options.requests_per_second),
      store_(std::move(store)) {}

grpc::Status Gate::Open(const GateOptions& options, std::unique_ptr<AccessStore> store,
                        ControlLoop* control, std::unique_ptr<Gate>* out) {
  std::unique_ptr<Gate> gate(new Gate(options, std::move(store), control));
  grpc::Status status = gate->Refresh();
  if (status.ok()) *out = std::move(gate);
  return status;
}

grpc::Status Gate::Refresh() {
  int64_t generation = 0;
  grpc::Status status = store_->Generation(&generation);
  if (!status.ok() || generation == generation_) return status;
  std::vector<Token> tokens;
  status = store_->LoadTokens(&tokens);
  if (!status.ok()) return status;
  generation_ = generation;
  access_.SetTokens(std::move(tokens));
  return status;
}

void Gate::RefreshSometimes() {
  const std::lock_guard lock(mutex_);
  const double uptime = options_.uptime();
  if (uptime < refresh_at_) return;
  refresh_at_ = uptime + kRefreshSeconds;
  const grpc::Status status = Refresh();
  LOG_IF_EVERY_N(ERROR, !status.ok(), 30)
      << "tokens can't be read, those known before still count: " << status.error_message();
}

grpc::Status Gate::Enter(const Peer& peer, Action action, const std::string& subject,
                         Caller* caller) {
  RefreshSometimes();
  const Rule& rule = RuleOf(action);
  caller->from = peer.address;
  caller->identity = access_.Authenticate(peer.token, peer.tls || IsLoopbackAddress(peer.address));
  const Identity& identity = caller->identity;
  const bool known = identity.ok() && !identity.open;
  const std::string key = known ? "user " + identity.name : "host " + HostOf(peer.address);
  if (const double wait = limiter_.Take(key, options_.uptime()); wait > 0) {
    return Refuse(*caller, action, subject,
                  {grpc::StatusCode::RESOURCE_EXHAUSTED,
                   "more than " + std::to_string(std::lround(limiter_.rate())) +
                       " requests a second from " + key.substr(key.find(' ') + 1) +
                       ", which is this coordinator's limit (--max-request-rate); try again in " +
                       std::to_string(std::lround(std::ceil(wait))) + " s"});
  }
  if (!identity.ok()) {
    return Refuse(*caller, action, subject, {grpc::StatusCode::UNAUTHENTICATED, identity.refusal});
  }
  if (rule.allows(identity)) return grpc::Status::OK;
  return Refuse(
      *caller, action, subject,
      {grpc::StatusCode::PERMISSION_DENIED, Forbidden(identity, rule.doing, rule.needed)});
}

grpc::Status Gate::Enter(const grpc::CallbackServerContext& context, Action action,
                         const std::string& subject, Caller* caller) {
  return Enter(PeerOf(context), action, subject, caller);
}

Peer Gate::PeerOf(const grpc::CallbackServerContext& context) const {
  Peer peer;
  peer.address = PeerAddress(context.peer());
  peer.tls = options_.tls;
  const auto& metadata = context.client_metadata();
  if (const auto header = metadata.find("authorization"); header != metadata.end()) {
    peer.token = BearerToken({header->second.data(), header->second.size()});
  }
  return peer;
}

AuditEntry Gate::Entry(const Caller& caller, Action action, const std::string& subject,
                       const std::string& claimed) {
  AuditEntry entry;
  const Identity& identity = caller.identity;
  entry.who = identity.open ? claimed : identity.name;
  entry.role = identity.open ? "open" : identity.name.empty() ? "unknown" : RoleName(identity.role);
  entry.from = caller.from;
  entry.action = RuleOf(action).name;
  entry.subject = subject;
  // Here already, so that what waits to be written is bounded.
  TidyAuditEntry(&entry);
  return entry;
}

grpc::Status Gate::Refuse(const Caller& caller, Action action, const std::string& subject,
                          const grpc::Status& refusal) {
  AuditEntry entry = Entry(caller, action, subject);
  entry.result = AuditResult(refusal);
  entry.time = options_.clock();
  control_->Record(std::move(entry), refusal.error_code());
  return refusal;
}

std::string Gate::Lapsed(const Identity& identity) {
  RefreshSometimes();
  return access_.Lapsed(identity);
}

}  // namespace swinfleet::coordinator
